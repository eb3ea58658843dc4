import json
import resource
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from retinanet_edge.runtime import sinks
from retinanet_edge.runtime.camera import Frame
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.sinks import FrameResult, JsonlSink, WindowSink, check_output
from retinanet_edge.runtime.video_sink import VideoSink

bright = runpy.run_path(str(Path(__file__).with_name("bright_engine.py")))
bright_image = bright["bright_image"]


def result_of(index=0, image=None, timestamp_s=None, detections=None):
    image = bright_image(index) if image is None else image
    frame = Frame(image, index, index / 25 if timestamp_s is None else timestamp_s, 0.0)
    return FrameResult(frame, detections or Detections.empty(), ("cat", "dog"), 12.3456)


def written(sink, results):
    for result in results:
        sink.write(result)
    sink.close()
    sink.close()


def decoded(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


class TestJsonl:
    def test_a_line_holds_what_was_found(self, tmp_path):
        found = Detections(
            np.array([[1.234, 2, 3, 4.567], [5, 6, 7, 8]], np.float32), np.array([0.98768, 0.5], np.float32), np.array([1, 0])
        )
        written(JsonlSink(tmp_path / "a.jsonl"), [result_of(3, detections=found), result_of(5)])
        first, second = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
        assert first == {
            "frame": 3,
            "time_s": 0.12,
            "latency_ms": 12.346,
            "detections": [
                {"class": "dog", "score": 0.9877, "xyxy": [1.23, 2.0, 3.0, 4.57]},
                {"class": "cat", "score": 0.5, "xyxy": [5.0, 6.0, 7.0, 8.0]},
            ],
        }
        assert second == {"frame": 5, "time_s": 0.2, "latency_ms": 12.346, "detections": []}

    def test_each_line_is_in_the_file_at_once(self, tmp_path):
        sink = JsonlSink(tmp_path / "a.jsonl")
        for count in (1, 2, 3):
            sink.write(result_of(count))
            assert len((tmp_path / "a.jsonl").read_text().splitlines()) == count
        sink.close()

    def test_no_frame_no_file(self, tmp_path):
        written(JsonlSink(tmp_path / "a.jsonl"), [])
        assert not (tmp_path / "a.jsonl").exists()

    def test_a_full_disk_is_one_line(self):
        sink = JsonlSink(Path("/dev/full"))
        with pytest.raises(UserInputError, match=r"cannot write /dev/full \(No space left on device\)"):
            sink.write(result_of())
        sink.close()

    def test_no_half_line_stays_where_space_ends_within_one(self, tmp_path):
        path = tmp_path / "a.jsonl"
        sink, limits = JsonlSink(path), resource.getrlimit(resource.RLIMIT_FSIZE)
        sink.write(result_of(0))
        whole = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
        try:
            with pytest.raises(UserInputError, match="File too large"):
                sink.write(result_of(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        sink.close()
        assert path.read_bytes() == whole


class TestVideo:
    def test_it_is_h264_for_browsers_with_the_frames_own_times(self, tmp_path):
        path, times = tmp_path / "a.mp4", [3.0, 3.04, 3.2, 4.0]
        written(VideoSink(path, 25), [result_of(index, timestamp_s=time) for index, time in enumerate(times)])
        with av.open(str(path)) as container:
            codec = container.streams.video[0].codec_context
            assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        frames = decoded(path)
        assert [frame.time for frame in frames] == pytest.approx([0, 0.04, 0.2, 1.0], abs=1e-3)
        for index, frame in enumerate(frames):
            assert np.abs(frame.to_ndarray(format="bgr24").astype(int) - bright_image(index)).mean() < 6
        data = path.read_bytes()
        assert data.index(b"moov") < data.index(b"moof") < data.index(b"mdat")  # fragmented

    @pytest.mark.parametrize(("height", "width"), [(47, 63), (47, 64), (48, 63), (1, 1)])
    def test_odd_sizes_become_even_and_keep_their_pixels(self, tmp_path, height, width):
        path, image = tmp_path / "a.mp4", bright_image(0)[:height, :width].copy()
        written(VideoSink(path, 25), [result_of(image=image)])
        (frame,) = decoded(path)
        assert (frame.height, frame.width) == (height + height % 2, width + width % 2)
        assert np.abs(frame.to_ndarray(format="bgr24")[:height, :width].astype(int) - image).mean() < 6

    def test_frames_of_another_size_are_fitted_into_the_first(self, tmp_path):
        path = tmp_path / "a.mp4"
        white = np.full((20, 10, 3), 255, np.uint8)  # into 48x64: 48x24, the rest grey
        written(VideoSink(path, 25), [result_of(0), result_of(1, image=white)])
        fitted = decoded(path)[1].to_ndarray(format="bgr24")
        assert fitted.shape == (48, 64, 3)
        assert fitted[:, :20].mean() > 240
        assert abs(fitted[:, 30:].mean() - 114) < 6

    def test_times_that_stand_still_or_go_back_do_not_break_it(self, tmp_path):
        path = tmp_path / "a.mp4"
        written(VideoSink(path, 25), [result_of(index, timestamp_s=time) for index, time in enumerate([1.0, 1.0, 0.5, 2.0])])
        times = [frame.time for frame in decoded(path)]
        assert len(times) == 4
        assert times == sorted(set(times))
        assert times[-1] == pytest.approx(1.0, abs=1e-3)

    def test_it_stays_readable_when_the_process_is_killed(self, tmp_path):
        """62 frames with a key frame every 10: the kill may cost the fragment at hand, and no more."""
        path = tmp_path / "a.mp4"
        program = (
            "import runpy, sys, time\n"
            f"result_of, VideoSink, Path = map(runpy.run_path({__file__!r}).get, ('result_of', 'VideoSink', 'Path'))\n"
            f"sink = VideoSink(Path({str(path)!r}), 10)\n"
            "for index in range(62): sink.write(result_of(index, timestamp_s=index / 10))\n"
            "print('written', flush=True)\n"
            "time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "written\n"
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert 50 <= len(decoded(path)) <= 62

    def test_a_full_disk_is_one_line_and_closing_adds_none(self, tmp_path):
        path = tmp_path / "a.mp4"
        path.symlink_to("/dev/full")
        sink = VideoSink(path, 25)
        with pytest.raises(UserInputError, match=r"cannot write .*a\.mp4 \(No space left on device\)"):
            written(sink, [result_of(index) for index in range(60)])
        sink.close()

    def test_no_frame_no_file(self, tmp_path):
        written(VideoSink(tmp_path / "a.mp4", 25), [])
        assert not (tmp_path / "a.mp4").exists()

    def test_without_pyav_opencv_writes_and_says_so(self, tmp_path, monkeypatch, capsys):
        path = tmp_path / "a.mp4"
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "av", None)  # as where it is not installed
            written(VideoSink(path, 25), [result_of(index) for index in range(5)])
        assert capsys.readouterr().err.count("\n") == 1
        frames = decoded(path)
        assert len(frames) == 5
        assert (frames[0].height, frames[0].width) == (48, 64)


class TestWindow:
    def test_without_a_display_it_says_why(self, monkeypatch):
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        with pytest.raises(UserInputError, match="no display: neither DISPLAY nor WAYLAND_DISPLAY"):
            WindowSink(lambda: None)

    def test_a_display_that_does_not_answer_is_none(self, monkeypatch):
        monkeypatch.setenv("DISPLAY", ":987")  # nor has the headless OpenCV of the tests windows; with one, Qt would abort here
        with pytest.raises(UserInputError, match="no display: this OpenCV opens no window"):
            WindowSink(lambda: None)

    @pytest.mark.parametrize(("key", "visible", "ended"), [(-1, 1, 0), (ord("q"), 1, 1), (27, 1, 1), (ord("x"), 1, 0), (-1, 0, 1)])
    def test_q_escape_and_closing_end_it(self, monkeypatch, key, visible, ended):
        """OpenCV's window functions, played by hand: the tests have no screen."""
        monkeypatch.setenv("DISPLAY", ":0")
        shown, ends = [], []
        monkeypatch.setattr(sinks, "_a_window_opens", lambda: True)
        monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
        monkeypatch.setattr(cv2, "resizeWindow", lambda *_: None)
        monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image))
        monkeypatch.setattr(cv2, "waitKey", lambda _: key)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: visible)
        monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
        written(WindowSink(lambda: ends.append(1)), [result_of()])
        np.testing.assert_array_equal(shown[0], bright_image(0))
        assert len(ends) == ended


class TestCheckOutput:
    def test_what_can_be_written_passes_and_leaves_no_trace(self, tmp_path):
        (tmp_path / "old").write_text("kept")
        check_output(tmp_path / "old", "--jsonl")
        check_output(tmp_path / "new", "--jsonl")
        check_output(Path("/dev/full"), "--jsonl")
        assert [path.name for path in tmp_path.iterdir()] == ["old"]
        assert (tmp_path / "old").read_text() == "kept"

    def test_a_missing_folder_a_folder_and_a_folder_not_writable(self, tmp_path):
        with pytest.raises(UserInputError, match=r"--video must be in a folder that exists, got .*: run mkdir -p"):
            check_output(tmp_path / "none" / "a.mp4", "--video")
        with pytest.raises(UserInputError, match="--jsonl must name a file, got the folder"):
            check_output(tmp_path, "--jsonl")
        with pytest.raises(UserInputError, match="--jsonl must be in a writable folder"):
            check_output(Path("/proc/a.jsonl"), "--jsonl")  # refuses root, too


def test_a_frame_is_drawn_once_and_only_on_demand():
    result = result_of()
    assert "drawn" not in vars(result)
    assert result.drawn is result.drawn
