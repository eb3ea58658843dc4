"""A stream from its options to its end, in this process."""

import json
import os
import runpy
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from retinanet_edge.runtime.camera import CameraState, RestartLimits, SourceOptions
from retinanet_edge.runtime.detection_filter import DetectionFilter
from retinanet_edge.runtime.errors import CameraError, RetinaNetEdgeError, UserInputError
from retinanet_edge.runtime.regions import parse_lines
from retinanet_edge.runtime.source_address import NamedSource, parse_source
from retinanet_edge.runtime.stream_options import OutputOptions, StreamOptions
from retinanet_edge.runtime.stream_run import stream
from retinanet_edge.runtime.stream_sinks import StreamSinks

bright = runpy.run_path(str(Path(__file__).with_name("bright_engine.py")))
BrightEngine, write_model, write_video, bright_image = (
    bright[name] for name in ("BrightEngine", "write_model", "write_video", "bright_image")
)


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def stream_lines(tmp_path, model, *cameras, engine=None, **options):
    """Stream to JSON lines and return them as objects, with the last status."""
    path, seen = tmp_path / "out.jsonl", []
    outputs = OutputOptions(jsonl=path, window=False)
    stream(StreamOptions(tuple(map(str, cameras)), model=model, engine=engine or BrightEngine(), outputs=outputs, **options),
           at_end=seen.append)  # fmt: skip
    return lines_of(path), seen[0]


def test_boxes_of_every_frame_in_frame_pixels(tmp_path, model):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(4):  # twice the size of the network's input
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(bright_image(index), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST))
    lines, _ = stream_lines(tmp_path, model, folder, source=SourceOptions(fps=10))
    assert [(line["frame"], line["time_s"]) for line in lines] == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]
    # bright_image: a square of 12 at (4 + index, 8)
    expected = [[{"class": "large", "xyxy": [2.0 * (4 + index), 16.0, 2.0 * (16 + index), 40.0]}] for index in range(4)]
    assert [[{"class": one["class"], "xyxy": one["xyxy"]} for one in line["detections"]] for line in lines] == expected


def test_limit_classes_and_threshold(tmp_path, model):
    video = write_video(tmp_path / "a.mp4", 20)

    def found(**options):
        return [len(line["detections"]) for line in stream_lines(tmp_path, model, video, **options)[0]]

    assert found(frames=7) == [1] * 7
    assert found(filter=DetectionFilter(0.5, only=("small",))) == [0] * 20
    assert found(filter=DetectionFilter(0.9)) == [0] * 20
    assert found(filter=DetectionFilter(0.9, {"large": 0.4})) == [1] * 20
    assert found(filter=DetectionFilter(0.5, min_size=(20, 0))) == [0] * 20


def test_several_cameras_one_of_them_dead(tmp_path, model):
    names = ("left", "right")
    cameras = [f"{name}={write_video(tmp_path / f'{name}.mp4', count)}" for name, count in zip(names, (20, 12), strict=True)]
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 99)
    engine = BrightEngine(max_batch=2)
    with pytest.raises(CameraError, match=r"broken\.mp4 must be a video"):
        stream_lines(tmp_path, model, *cameras, f"dead={tmp_path / 'broken.mp4'}", engine=engine)
    lines = lines_of(tmp_path / "out.jsonl")
    assert {name: [line["frame"] for line in lines if line["camera"] == name] for name in names} == {
        "left": list(range(20)), "right": list(range(12)),
    }  # fmt: skip
    assert 2 in engine.calls


def test_a_line_counts_what_crosses_it(tmp_path, model):
    # The square's bottom centre goes from (10, 20) to (10 + index, 20); upward, so that "in", the line's right, is to the right.
    video = write_video(tmp_path / "a.mp4", 30)
    lines, _ = stream_lines(tmp_path, model, video, lines=parse_lines(["gate=24,40,24,4"]))
    assert lines[-1]["counts"]["lines"]["gate"] == {"in": {"large": 1}, "out": {}}
    assert [event["event"] for line in lines for event in line.get("events", [])] == ["crossed_in"]
    assert len({one["track"] for line in lines[3:] for one in line["detections"]}) == 1


def test_a_live_camera_given_up_ends_the_stream_with_its_reason(tmp_path, model):
    limits = RestartLimits(stale_s=5, first_wait_s=0.01, longest_wait_s=0.02, restarts=2)
    with pytest.raises(RetinaNetEdgeError, match=r"camera demo: .*gave up after 2 restarts"):
        stream_lines(tmp_path, model, "demo:gone@5", limits=limits, source=SourceOptions(fps=200))
    assert lines_of(tmp_path / "out.jsonl")  # what came before is there


def test_a_camera_that_stays_away_is_tried_again_while_another_runs_and_fails_nothing(tmp_path, model):
    limits = RestartLimits(first_wait_s=0.01, longest_wait_s=0.02, restarts=2)
    lines, status = stream_lines(tmp_path, model, "a=demo:live", "b=demo:gone@1", limits=limits, source=SourceOptions(fps=100), frames=200)
    assert len(lines) == 200
    assert status.cameras[1].reconnects > 2
    assert status.cameras[1].state is not CameraState.FAILED


def test_a_signal_counts_more_than_a_camera_that_was_given_up(tmp_path, model):
    class Interrupted(BrightEngine):
        def infer(self, images):
            if len(self.calls) == 50:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().infer(images)

    (tmp_path / "broken.mp4").write_bytes(b"no video" * 99)
    with pytest.raises(KeyboardInterrupt):
        stream_lines(tmp_path, model, write_video(tmp_path / "a.mp4", 200), tmp_path / "broken.mp4", engine=Interrupted(max_batch=1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_frames_at_hand_finish(tmp_path, model, number):
    class Interrupting(BrightEngine):
        def infer(self, images):
            if len(self.calls) == 5:
                os.kill(os.getpid(), number)
            return super().infer(images)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    engine = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        stream_lines(tmp_path, model, write_video(tmp_path / "a.mp4", 200), engine=engine)
    assert [line["frame"] for line in lines_of(tmp_path / "out.jsonl")] == list(range(len(engine.calls)))
    assert len(engine.calls) < 10
    assert engine.closed
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


class Reloading(BrightEngine):
    """Sends SIGHUP with its sixth call."""

    def infer(self, images):
        if len(self.calls) == 5:
            os.kill(os.getpid(), signal.SIGHUP)
        return super().infer(images)


def reload_with(tmp_path, model, **changes):
    video, path = write_video(tmp_path / "a.mp4", 20), tmp_path / "out.jsonl"
    engine = Reloading()

    def options(**changes):
        return StreamOptions((str(video),), model=model, engine=engine, outputs=OutputOptions(jsonl=path, window=False), **changes)

    stream(options(), lambda: options(**changes))
    return lines_of(path), engine


def test_a_new_filter_is_followed_without_a_gap(tmp_path, model):
    lines, engine = reload_with(tmp_path, model, filter=DetectionFilter(0.5, only=("small",)))
    assert [line["frame"] for line in lines] == list(range(20))
    found = [len(line["detections"]) for line in lines]
    assert found[:4] == [1] * 4
    assert found[8:] == [0] * 12
    assert len(engine.calls) == 20


def test_other_changes_open_everything_anew(tmp_path, model):
    lines, _ = reload_with(tmp_path, model, frames=3)
    assert [line["frame"] for line in lines] == [0, 1, 2]  # of the stream with the new options, which has begun its file anew


def test_a_wrong_configuration_changes_nothing(tmp_path, model, capsys):
    video, path = write_video(tmp_path / "a.mp4", 20), tmp_path / "out.jsonl"

    def broken():
        raise UserInputError("stream.toml must be TOML")

    stream(StreamOptions((str(video),), model=model, engine=Reloading(), outputs=OutputOptions(jsonl=path, window=False)), broken)
    assert len(lines_of(path)) == 20
    assert "the configuration is not read again: stream.toml must be TOML" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "message"), [
    ({"cameras": ("nowhere.mp4",)}, "is not read again: --camera must be"),
    ({"outputs": OutputOptions(jsonl=Path("none/out.jsonl"), window=False)}, "is not read again: --jsonl must be in a folder that exists"),
    ({"model": Path("none")}, "is not read again: model folder none does not exist"),
    ({"filter": DetectionFilter(0.5, only=("zebra",))}, "is not read again: the model has no class zebra"),
])  # fmt: skip
def test_options_that_cannot_be_change_nothing(tmp_path, model, capsys, change, message):
    video, path = write_video(tmp_path / "a.mp4", 20), tmp_path / "out.jsonl"
    options = StreamOptions((str(video),), model=model, engine=Reloading(), outputs=OutputOptions(jsonl=path, window=False))
    stream(options, lambda: replace(options, **change))
    assert [line["frame"] for line in lines_of(path)] == list(range(20))
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("change", "message"), [
    ({"outputs": OutputOptions(mqtt="nothing", window=False)}, "--mqtt must be"),
    ({"web": "0.0.0.0:0"}, "needs a token"),
    ({"cameras": ("demo:gone@0",)}, "the demo is gone at frame 0"),
])  # fmt: skip
def test_where_the_new_options_do_not_open_the_former_ones_go_on(tmp_path, model, capsys, change, message):
    video, path = write_video(tmp_path / "a.mp4", 20), tmp_path / "out.jsonl"
    options = StreamOptions((str(video),), model=model, engine=Reloading(), outputs=OutputOptions(jsonl=path, window=False))
    stream(options, lambda: replace(options, **change))
    assert [line["frame"] for line in lines_of(path)] == list(range(20))
    said = capsys.readouterr().err
    assert "the new configuration cannot be followed, the one before goes on: " in said
    assert message in said


def test_a_reload_while_everything_is_opened_is_not_lost(tmp_path, model):
    """The second one comes while the stream of the first one is being opened."""
    video, path = write_video(tmp_path / "a.mp4", 20), tmp_path / "out.jsonl"
    first = StreamOptions((str(video),), model=model, engine=Reloading(), outputs=OutputOptions(jsonl=path, window=False))

    class Opening(NamedSource):
        @property
        def source(self):
            os.kill(os.getpid(), signal.SIGHUP)
            return parse_source(str(video), SourceOptions()).source

    files = iter([replace(first, cameras=(Opening("a", None),)), replace(first, cameras=(str(video),), frames=3)])
    stream(first, lambda: next(files, replace(first, frames=3)))
    assert [line["frame"] for line in lines_of(path)] == [0, 1, 2]


def test_a_signal_after_a_reload_opens_nothing_more(tmp_path, model):
    class Both(BrightEngine):
        def infer(self, images):
            if len(self.calls) == 5:
                os.kill(os.getpid(), signal.SIGHUP)
                os.kill(os.getpid(), signal.SIGTERM)
            return super().infer(images)

    path, engine = tmp_path / "out.jsonl", Both()
    options = StreamOptions((str(write_video(tmp_path / "a.mp4", 200)),), model=model, engine=engine,
                            outputs=OutputOptions(jsonl=path, window=False))  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        stream(options, lambda: replace(options, outputs=OutputOptions(jsonl=tmp_path / "other.jsonl", window=False)))
    assert [line["frame"] for line in lines_of(path)] == list(range(len(engine.calls)))


def test_every_frame_of_live_cameras_is_counted_once(tmp_path, model):
    cameras, seen = ("a=demo:live", "b=demo:live"), []
    stream(StreamOptions(cameras, model=model, engine=BrightEngine(), source=SourceOptions(fps=100), frames=150,
                         outputs=OutputOptions(jsonl=tmp_path / "out.jsonl", window=False)), at_end=seen.append)  # fmt: skip
    status = seen[0]
    for camera in status.cameras:
        taken = sum(line["camera"] == camera.name for line in lines_of(tmp_path / "out.jsonl"))
        assert 0 <= camera.captured - camera.dropped - taken <= 2  # in flight at the end: one that waits, one cut off by the limit
    assert status.inferred == 150


def test_what_comes_while_outputs_close_is_nobodys_loss(model):
    """The receiver takes connections and never answers: three seconds of closing would be 300 frames."""
    receiver = socket.create_server(("127.0.0.1", 0))
    address, seen = f"http://127.0.0.1:{receiver.getsockname()[1]}/", []
    with receiver:
        options = StreamOptions(("demo:live",), model=model, engine=BrightEngine(), source=SourceOptions(fps=100), frames=20,
                                filter=DetectionFilter(0.05), outputs=OutputOptions(webhook=address, window=False))  # fmt: skip
        stream(options, at_end=seen.append)
    (camera,), (webhook,) = seen[0].cameras, seen[0].sinks
    assert webhook.failed  # three seconds and more after the last frame
    assert camera.captured < 200


def test_an_interrupted_close_of_outputs_is_not_begun_again(model):
    class Hanging:
        calls, released = 0, threading.Event()

        def close(self):
            self.calls += 1
            os.kill(os.getpid(), signal.SIGINT)  # somebody loses patience
            self.released.wait(30)

    sinks = StreamSinks(StreamOptions(model=model, outputs=OutputOptions(window=False)), [], None, lambda: None)
    sinks.runners = [Hanging()]
    with pytest.raises(KeyboardInterrupt):
        sinks.close()
    sinks.close()
    assert sinks.runners[0].calls == 1
    Hanging.released.set()


def test_outputs_are_checked_before_anything_is_opened(tmp_path, model):
    video = write_video(tmp_path / "a.mp4", 2)
    content = video.read_bytes()
    for options, message in [
        ({"video": video}, "--video must not be what --camera reads"),
        ({"jsonl": video}, "--jsonl must not be what --camera reads"),
        ({"video": tmp_path / "b.mp4", "jsonl": tmp_path / "b.mp4"}, "must be two files"),
        ({"video": tmp_path / "none" / "b.mp4"}, "--video must be in a folder that exists"),
        ({"video": tmp_path / "b.avi"}, r"--video must end in \.mp4"),
        ({"snapshots": video}, "--snapshots must name a folder"),
    ]:
        engine = BrightEngine()
        with pytest.raises(UserInputError, match=message):
            stream(StreamOptions((f"front={video}",), model=model, engine=engine, outputs=OutputOptions(window=False, **options)))
        assert engine.calls == []
    assert video.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "model"]


def test_a_stream_that_fails_before_its_first_frame_leaves_an_old_output_alone(tmp_path, model):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"broken")
    (tmp_path / "out.jsonl").write_text("old\n")
    with pytest.raises(CameraError, match=r"a\.png must be an image"):
        stream_lines(tmp_path, model, tmp_path / "images")
    assert (tmp_path / "out.jsonl").read_text() == "old\n"


def test_no_display_is_said_only_where_nothing_else_shows_the_frames(tmp_path, model, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    camera = (str(write_video(tmp_path / "a.mp4", 2)),)
    stream(StreamOptions(camera, model=model, engine=BrightEngine()))
    assert "no display: " in capsys.readouterr().err
    stream(StreamOptions(camera, model=model, engine=BrightEngine(), outputs=OutputOptions(jsonl=tmp_path / "out.jsonl")))
    assert "no display: " not in capsys.readouterr().err


def test_the_summary_counts_and_times(tmp_path, model, capsys):
    video = write_video(tmp_path / "a.mov", 10, codec="png")
    data = bytearray(video.read_bytes())
    at = data.index(b"\x89PNG")
    data[at : at + 8] = b"\0" * 8
    video.write_bytes(data)
    lines, _ = stream_lines(tmp_path, model, video)
    output = capsys.readouterr().out.splitlines()
    assert output[0] == f"{video}: header promised 10 frames, 9 decoded, 1 broken packets skipped"
    assert output[1].startswith(f"{len(lines)} frames in ")
    assert output[1].endswith(" frames/s, 0 dropped, 1 failed")
    stages = {row[:12].strip(): [float(value) for value in row[12:].split()] for row in output[3:-1]}
    assert list(stages) == ["wait", "letterbox", "network", "nms", "boxes", "analysis", "latency", "age jsonl"]
    assert output[-1] == f"wrote {tmp_path / 'out.jsonl'}"


def test_an_output_that_dies_of_a_mistake_ends_the_stream_for_the_supervisor(tmp_path, model, monkeypatch):
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    monkeypatch.setattr("retinanet_edge.runtime.jsonl_sink.as_json", lambda _: 1 / 0)
    with pytest.raises(RetinaNetEdgeError, match="jsonl ended by an unexpected error"):
        stream_lines(tmp_path, model, "demo:live", source=SourceOptions(fps=100))
