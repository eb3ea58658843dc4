import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from retinanet_edge.runtime import video_segments
from retinanet_edge.runtime.rotation import Keep, finished_files
from retinanet_edge.runtime.sink import SinkError
from retinanet_edge.runtime.video_segments import VideoSink
from tests.runtime.small_disk import small_disk
from tests.runtime.stream_results import UNIX_S, camera_of, decoded, image_of, refused, result_of, written

ROOT = Path(__file__).parents[2]


def noisy_result(index):
    noise = np.random.default_rng(index).integers(0, 256, (120, 160, 3), np.uint8)
    return result_of(index, image=noise, timestamp_s=index / 10)


def sink_at(path, fps=25, **options):
    return VideoSink(path, [camera_of(fps=fps)], **options)


class TestOneFile:
    def test_it_is_h264_for_browsers_with_the_frames_own_times(self, tmp_path):
        path, times = tmp_path / "a.mp4", [3.0, 3.04, 3.2, 4.0]
        written(sink_at(path), [result_of(index, timestamp_s=time) for index, time in enumerate(times)])
        with av.open(str(path)) as container:
            codec = container.streams.video[0].codec_context
            assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        frames = decoded(path)
        assert [frame.time for frame in frames] == pytest.approx([0, 0.04, 0.2, 1.0], abs=1e-3)
        for index, frame in enumerate(frames):
            assert np.abs(frame.to_ndarray(format="bgr24").astype(int) - image_of(index)).mean() < 6
        data = path.read_bytes()
        assert data.index(b"moov") < data.index(b"moof") < data.index(b"mdat")  # fragmented

    @pytest.mark.parametrize(("height", "width"), [(47, 63), (47, 64), (48, 63), (1, 1)])
    def test_odd_sizes_become_even_and_keep_their_pixels(self, tmp_path, height, width):
        path, image = tmp_path / "a.mp4", image_of(0, height, width)
        written(sink_at(path), [result_of(image=image)])
        (frame,) = decoded(path)
        assert (frame.height, frame.width) == (height + height % 2, width + width % 2)
        assert np.abs(frame.to_ndarray(format="bgr24")[:height, :width].astype(int) - image).mean() < 6

    def test_frames_of_another_size_are_fitted_into_the_first(self, tmp_path):
        path = tmp_path / "a.mp4"
        white = np.full((20, 10, 3), 255, np.uint8)  # into 48x64: 48x24, the rest grey
        written(sink_at(path), [result_of(0), result_of(1, image=white)])
        fitted = decoded(path)[1].to_ndarray(format="bgr24")
        assert fitted.shape == (48, 64, 3)
        assert fitted[:, :20].mean() > 240
        assert abs(fitted[:, 30:].mean() - 114) < 6

    def test_times_that_stand_still_or_stutter_do_not_break_it(self, tmp_path):
        path = tmp_path / "a.mp4"
        written(sink_at(path), [result_of(index, timestamp_s=time) for index, time in enumerate([1.0, 1.0, 0.5, 2.0])])
        times = [frame.time for frame in decoded(path)]
        assert len(times) == 4
        assert times == sorted(set(times))
        assert times[-1] == pytest.approx(1.0, abs=1e-3)

    def test_a_recording_that_begins_again_is_appended(self, tmp_path):
        """Times 0, 2, 4 twice: the second round begins a frame, 0.04 s, after the first."""
        path = tmp_path / "a.mp4"
        written(sink_at(path), [result_of(index, timestamp_s=2.0 * (index % 3)) for index in range(6)])
        assert [frame.time for frame in decoded(path)] == pytest.approx([0, 2, 4, 4.04, 6.04, 8.04], abs=1e-3)

    def test_it_stays_readable_when_the_process_is_killed(self, tmp_path):
        """62 frames with a key frame every 10: the kill may cost the fragment at hand, and no more."""
        path = tmp_path / "a.mp4"
        program = (
            "import sys, time\n"
            "from pathlib import Path\n"
            "from retinanet_edge.runtime.video_segments import VideoSink\n"
            "from tests.runtime.stream_results import camera_of, result_of\n"
            f"sink = VideoSink(Path({str(path)!r}), [camera_of(fps=10)])\n"
            "for index in range(62): sink.write(result_of(index, timestamp_s=index / 10))\n"
            "print('written', flush=True)\n"
            "time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout.readline() == "written\n"
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert 50 <= len(decoded(path)) <= 62

    def test_no_frame_no_file(self, tmp_path):
        written(sink_at(tmp_path / "a.mp4"), [])
        assert list(tmp_path.iterdir()) == []

    def test_without_pyav_opencv_writes_and_says_so(self, tmp_path, monkeypatch, caplog):
        path = tmp_path / "a.mp4"
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "av", None)  # as where it is not installed
            written(sink_at(path), [result_of(index) for index in range(5)])
        assert "MPEG-4 by OpenCV instead of H.264" in caplog.text
        frames = decoded(path)
        assert len(frames) == 5
        assert (frames[0].height, frames[0].width) == (48, 64)


class TestSegments:
    def test_each_has_its_seconds_and_its_time_in_its_name(self, tmp_path):
        """25 frames a second for 2.4 s in segments of one: 25, 25 and 10 frames, each from time 0."""
        path = tmp_path / "a.mp4"
        written(sink_at(path, segment_seconds=1), [result_of(index, unix_s=UNIX_S + index / 25) for index in range(60)])
        assert [file.name for file in finished_files(path)] == [
            "a-20261121T140102.123Z.mp4", "a-20261121T140103.123Z.mp4", "a-20261121T140104.123Z.mp4",
        ]  # fmt: skip
        assert [len(decoded(file)) for file in finished_files(path)] == [25, 25, 10]
        assert all(decoded(file)[0].time == 0 for file in finished_files(path))
        assert not path.exists()

    def test_another_size_and_a_time_that_goes_back_begin_a_new_one(self, tmp_path):
        path = tmp_path / "a.mp4"
        frames = [result_of(0), result_of(1), result_of(2, image=image_of(2, 24, 32)), result_of(0, image=image_of(2, 24, 32))]
        written(sink_at(path, segment_seconds=600), frames)
        segments = [decoded(file) for file in finished_files(path)]
        assert [(len(segment), segment[0].height, segment[0].width) for segment in segments] == [(2, 48, 64), (1, 24, 32), (1, 24, 32)]

    @pytest.mark.parametrize("fps", [-1.0, 0.0, 90_000.0, float("nan"), 0.2, 1000 / 1001])
    def test_frame_rates_that_drivers_invent(self, tmp_path, fps):
        path = tmp_path / "a.mp4"
        written(sink_at(path, fps=fps), [result_of(index, timestamp_s=index / 10) for index in range(5)])
        assert [frame.time for frame in decoded(path)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)

    @pytest.mark.parametrize("keep", [Keep(files=2), Keep(size=1)])
    def test_the_newest_are_kept_besides_the_current_one(self, tmp_path, keep):
        path = tmp_path / "a.mp4"
        written(sink_at(path, segment_seconds=1, keep=keep), [result_of(index, timestamp_s=index) for index in range(6)])
        kept = finished_files(path)
        assert len(kept) == (keep.files or 0) + 1
        assert abs(decoded(kept[-1])[0].to_ndarray(format="bgr24").mean() - image_of(5).mean()) < 6

    def test_each_camera_has_its_own(self, tmp_path):
        cameras = [camera_of("front"), camera_of("rtsp://back/1", fps=10), camera_of("rtsp_back_1")]
        frames = [result_of(index, camera=camera.name, image=image_of(index, 48, 64 + 16 * place))
                  for index in range(3) for place, camera in enumerate(cameras)]  # fmt: skip
        written(VideoSink(tmp_path / "a.mp4", cameras), frames)
        found = {path.name: (len(decoded(path)), decoded(path)[0].width) for path in tmp_path.iterdir()}
        assert found == {"a-front.mp4": (3, 64), "a-rtsp_back_1.mp4": (3, 80), "a-rtsp_back_1-2.mp4": (3, 96)}
        frames = [frame for frame in frames if frame.frame.camera != "rtsp_back_1"]
        written(VideoSink(tmp_path / "b.mp4", cameras[:2], segment_seconds=60), frames)
        assert [len(finished_files(tmp_path / f"b-{name}.mp4")) for name in ("front", "rtsp_back_1")] == [1, 1]


class TestFullDisk:
    def test_it_is_one_line_and_closing_adds_none(self, tmp_path):
        path = tmp_path / "a.mp4"
        path.symlink_to("/dev/full")
        sink = sink_at(path)
        with pytest.raises(SinkError, match=r"cannot write .*a\.mp4 \(No space left on device\)"):
            written(sink, [result_of(index) for index in range(60)])
        sink.close()
        assert path.is_symlink()

    @pytest.mark.parametrize("segment_seconds", [None, 600])
    def test_what_was_written_stays_and_it_goes_on_in_another_segment(self, tmp_path, monkeypatch, segment_seconds):
        """160x120 pixels of noise are some 9.6 KB a frame: 4 MB are full after some 437 of 600."""
        monkeypatch.setattr(video_segments, "_RETRY_S", 0.0)
        with small_disk(tmp_path) as disk:
            sink = sink_at(disk / "a.mp4", fps=10, segment_seconds=segment_seconds)
            messages = [refused(sink, noisy_result(index)) for index in range(600)]
            failed = [index for index, message in enumerate(messages) if message]
            assert 200 < failed[0] < 580
            assert failed == list(range(failed[0], 600))
            assert "No space left on device" in messages[-1]
            (first,) = disk.iterdir()  # and nothing of the tries since
            assert failed[0] - 20 <= len(decoded(first)) <= failed[0]
            first.unlink()
            written(sink, [noisy_result(index) for index in range(600, 630)])
            (second,) = finished_files(disk / "a.mp4")
            assert len(decoded(second)) == 30

    def test_it_waits_between_tries(self, tmp_path):
        sink = sink_at(tmp_path / "none" / "a.mp4")
        messages = [refused(sink, result_of(index)) for index in range(3)]
        assert "No such file or directory" in messages[0]
        (tmp_path / "none").mkdir()
        assert refused(sink, result_of(3)) == messages[0]
        sink._recordings["front"]._retry_at = 0.0  # five seconds later
        assert refused(sink, result_of(4)) is None
        sink.close()
        assert [file.name for file in (tmp_path / "none").iterdir()] == ["a.mp4"]

    def test_a_disk_that_is_full_at_the_end_keeps_what_is_whole(self, tmp_path):
        """The last fragment, 10 KB at least, waits until the file is closed."""
        with small_disk(tmp_path) as disk:
            sink = sink_at(disk / "a.mp4", fps=10)
            for index in range(39):
                sink.write(noisy_result(index))
            (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
            with pytest.raises(SinkError, match="No space left on device"):
                sink.close()
            sink.close()
            assert 20 <= len(decoded(disk / "a.mp4")) <= 38  # all that can be decoded, without an error
