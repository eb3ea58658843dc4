import json
import os
import runpy
import signal
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.camera import open_camera
from retinanet_edge.runtime.detector import Detector
from retinanet_edge.runtime.errors import CameraError, RetinaNetEdgeError, UserInputError
from retinanet_edge.runtime.live_camera import LiveCamera
from retinanet_edge.runtime.pipeline import StreamOptions, run, stream
from retinanet_edge.runtime.stream_report import StreamReport

bright = runpy.run_path(str(Path(__file__).with_name("bright_engine.py")))
BrightEngine, write_model, write_video, bright_image = (
    bright[name] for name in ("BrightEngine", "write_model", "write_video", "bright_image")
)


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


class Collector:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.results = []

    def write(self, result):
        self.results.append(result)

    def close(self):
        pass


def stream_lines(tmp_path, model, source, **options):
    """Stream to JSON lines and return them as objects."""
    path = tmp_path / "out.jsonl"
    stream(StreamOptions(str(source), model, BrightEngine(), jsonl=path, window=False, **options))
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_boxes_of_every_frame_in_frame_pixels(tmp_path, model):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(4):  # twice the size of the network's input
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(bright_image(index), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST))
    lines = stream_lines(tmp_path, model, folder, fps=10)
    assert [(line["frame"], line["time_s"]) for line in lines] == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]
    # bright_image: a square of 12 at (4 + index, 8)
    expected = [[{"class": "large", "xyxy": [2.0 * (4 + index), 16.0, 2.0 * (16 + index), 40.0]}] for index in range(4)]
    found = [[{"class": one["class"], "xyxy": one["xyxy"]} for one in line["detections"]] for line in lines]
    assert found == expected


def test_limit_classes_and_threshold(tmp_path, model):
    video = write_video(tmp_path / "a.mp4", 20)
    assert len(stream_lines(tmp_path, model, video, frames=7)) == 7
    assert all(line["detections"] for line in stream_lines(tmp_path, model, video, classes=("large",)))
    assert not any(line["detections"] for line in stream_lines(tmp_path, model, video, classes=("small",)))
    assert not any(line["detections"] for line in stream_lines(tmp_path, model, video, threshold=0.9))


def test_the_summary_counts_and_times(tmp_path, model, capsys):
    video = write_video(tmp_path / "a.mov", 10, codec="png")
    data = bytearray(video.read_bytes())
    at = data.index(b"\x89PNG")
    data[at : at + 8] = b"\0" * 8
    video.write_bytes(data)
    lines = stream_lines(tmp_path, model, video)
    output = capsys.readouterr().out.splitlines()
    assert output[0] == f"{video}: header promised 10 frames, 9 decoded, 1 broken packets skipped"
    assert output[1].startswith(f"{len(lines)} frames in ")
    assert output[1].endswith(" frames/s, 0 dropped")
    stages = {row.split()[0]: [float(value) for value in row.split()[1:]] for row in output[3:-1]}
    assert list(stages) == ["wait", "letterbox", "network", "nms", "boxes", "output", "latency"]
    assert stages["network"] == pytest.approx([2.0] * 3, rel=0.011)  # as the engine says
    assert all(p50 <= p95 <= p99 for p50, p95, p99 in stages.values())
    assert output[-1] == f"wrote {tmp_path / 'out.jsonl'}"


def test_a_live_camera_that_goes_away_ends_the_stream_with_closed_outputs(model):
    ready, sink, report = threading.Event(), Collector(), StreamReport()

    def when_ready():
        ready.wait()
        yield from (bright_image(index) for index in range(3))

    with LiveCamera("test", 30, when_ready()) as camera, Detector(model, BrightEngine()) as detector:
        threading.Timer(0.3, ready.set).start()
        with pytest.raises(RetinaNetEdgeError, match="camera test is gone"):
            run(camera, detector, [sink], report)
    assert report.frames == len(sink.results) >= 1
    assert report.frames + camera.dropped == 3


def test_latency_counts_from_the_frames_arrival(tmp_path, model):
    sink = Collector()
    with (
        open_camera(str(write_video(tmp_path / "a.mp4", 3))) as camera,
        Detector(model, BrightEngine(pause_s=0.05)) as detector,
    ):
        run(camera, detector, [sink], StreamReport())
    assert all(result.latency_ms >= 50 for result in sink.results)


def test_a_signal_lets_the_frame_at_hand_finish(tmp_path, model):
    class Interrupting(BrightEngine):
        def infer(self, images):
            if len(self.calls) == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().infer(images)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    path, engine = tmp_path / "out.jsonl", Interrupting()
    with pytest.raises(KeyboardInterrupt):
        stream(StreamOptions(str(write_video(tmp_path / "a.mp4", 20)), model, engine, jsonl=path, window=False))
    assert len(path.read_text().splitlines()) == 6
    assert engine.closed
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outputs_are_checked_before_anything_is_opened(tmp_path, model):
    video = write_video(tmp_path / "a.mp4", 2)
    content = video.read_bytes()
    for options, message in [
        ({"video": video}, "--video must not be what --camera reads"),
        ({"jsonl": video}, "--jsonl must not be what --camera reads"),
        ({"video": tmp_path / "b.mp4", "jsonl": tmp_path / "b.mp4"}, "must be two files"),
        ({"video": tmp_path / "none" / "b.mp4"}, "--video must be in a folder that exists"),
        ({"video": tmp_path / "b.avi"}, r"--video must end in \.mp4"),
    ]:
        engine = BrightEngine()
        with pytest.raises(UserInputError, match=message):
            stream(StreamOptions(str(video), model, engine, window=False, **options))
        assert engine.calls == []
    assert video.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "model"]


def test_a_stream_that_fails_before_its_first_frame_leaves_an_old_output_alone(tmp_path, model):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"broken")
    path = tmp_path / "out.jsonl"
    path.write_text("old\n")
    with pytest.raises(CameraError, match=r"a\.png must be an image"):
        stream(StreamOptions(str(tmp_path / "images"), model, BrightEngine(), jsonl=path, window=False))
    assert path.read_text() == "old\n"


def test_no_display_is_said_only_where_nothing_else_shows_the_frames(tmp_path, model, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    video = write_video(tmp_path / "a.mp4", 2)
    stream(StreamOptions(str(video), model, BrightEngine()))
    assert "no display: " in capsys.readouterr().err
    stream(StreamOptions(str(video), model, BrightEngine(), jsonl=tmp_path / "out.jsonl"))
    assert "no display: " not in capsys.readouterr().err


def test_the_report_says_each_second_once(capsys):
    report = StreamReport()
    report.start()
    report.add(10.0, {"network": 5.0}, 0)
    assert capsys.readouterr().err == ""
    report._second_started -= 1.0
    report.add(20.0, {"network": 5.0}, 3)
    line = capsys.readouterr().err
    assert "latency p50/p95/p99 10." in line or "latency p50/p95/p99 9.9" in line
    assert line.rstrip().endswith("2 frames, 3 dropped")
    report.add(20.0, {"network": 5.0}, 3)
    assert capsys.readouterr().err == ""
    assert report.table().startswith("3 frames in ")


def test_a_report_without_frames():
    report = StreamReport()
    assert report.table() == "0 frames in 0.0 s, 0.0 frames/s, 0 dropped"
    assert np.isnan(report._latency.percentile(50))
