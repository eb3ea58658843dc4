import http.server
import os
import runpy
import struct
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.camera import Frame, open_camera
from retinanet_edge.runtime.errors import CameraError, RetinaNetEdgeError
from retinanet_edge.runtime.live_camera import LiveCamera, Mailbox, found_devices

bright = runpy.run_path(str(Path(__file__).with_name("bright_engine.py")))
bright_image, write_video = bright["bright_image"], bright["write_video"]


def collect(source, **options):
    with open_camera(str(source), **options) as camera:
        return list(camera.frames()), camera


def images_of(count):
    """Yield images whose every pixel is their index."""
    for index in range(count):
        yield np.full((4, 4, 3), index, np.uint8)


class TestVideo:
    def test_every_frame_comes_in_order(self, tmp_path):
        frames, camera = collect(write_video(tmp_path / "a.mp4", 30))
        assert [frame.index for frame in frames] == list(range(30))
        assert camera.fps == 25
        assert (camera.dropped, camera.remark) == (0, None)
        for frame in frames:  # H.264 loses a little
            assert np.abs(frame.image.astype(int) - bright_image(frame.index)).mean() < 6

    def test_times_are_the_files_own(self, tmp_path):
        times_ms = [0, 40, 80, 1000, 1040]
        frames, _ = collect(write_video(tmp_path / "a.mp4", 5, times_ms=times_ms))
        assert [frame.timestamp_s for frame in frames] == pytest.approx([0, 0.04, 0.08, 1.0, 1.04], abs=1e-3)

    def test_one_that_breaks_off_gives_what_decodes_and_then_says_so(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", 100)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
        frames = []
        with open_camera(str(path)) as camera, pytest.raises(CameraError, match="ends early") as caught:
            frames.extend(camera.frames())
        assert 10 < len(frames) < 100
        assert f"promises 100 frames, 4.0 s, {len(frames)} decoded" in str(caught.value)  # 100 frames at 25 a second

    def test_a_broken_packet_is_skipped_and_counted(self, tmp_path):
        path = write_video(tmp_path / "a.mov", 10, codec="png")
        data = bytearray(path.read_bytes())
        starts = [at for at in range(len(data)) if data[at : at + 4] == b"\x89PNG"]
        assert len(starts) == 10
        data[starts[4] : starts[4] + 8] = b"\0" * 8
        path.write_bytes(data)
        frames, camera = collect(path)
        assert len(frames) == 9
        assert camera.remark == f"{path}: header promised 10 frames, 9 decoded, 1 broken packets skipped"

    def test_a_sideways_recording_is_turned(self, tmp_path):
        """A quarter turn in the track header, as telephones write it; OpenCV's reader turns by itself and is the oracle."""
        path = write_video(tmp_path / "a.mp4", 3)
        data = bytearray(path.read_bytes())
        upright = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
        at = data.index(upright, data.index(b"tkhd"))
        data[at : at + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
        path.write_bytes(data)
        frames, _ = collect(path)
        capture = cv2.VideoCapture(str(path))
        _, expected = capture.read()
        capture.release()
        assert frames[0].image.shape == (64, 48, 3) == expected.shape
        assert np.abs(frames[0].image.astype(int) - expected).mean() < 6

    @pytest.mark.parametrize("content", [b"this is no video\n" * 50, b"", bytes(range(256)) * 20])
    def test_what_is_no_video_is_refused(self, tmp_path, content):
        path = tmp_path / "a.mp4"
        path.write_bytes(content)
        with pytest.raises(CameraError, match=r"a\.mp4 must be a video or an image"):
            open_camera(str(path))

    def test_a_video_without_a_frame_that_decodes_is_refused(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", 20)
        data = path.read_bytes()
        path.write_bytes(data[: data.index(b"mdat") + 4])
        with pytest.raises(CameraError, match=r"a\.mp4 must"):
            collect(path)

    def test_sound_alone_is_refused(self, tmp_path):
        import av

        path = tmp_path / "a.wav"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
        with pytest.raises(CameraError, match="without a video stream"):
            open_camera(str(path))

    def test_stop_ends_it_after_the_frame_at_hand(self, tmp_path):
        with open_camera(str(write_video(tmp_path / "a.mp4", 30))) as camera:
            seen = []
            for frame in camera.frames():
                seen.append(frame.index)
                if frame.index == 3:
                    camera.stop()
        assert seen == [0, 1, 2, 3]
        assert camera.remark is None


class TestImages:
    def test_a_folder_by_name_with_mixed_sizes(self, tmp_path):
        for name, side in [("b.png", 8), ("a.JPG", 4), ("c.bmp", 6)]:
            cv2.imwrite(str(tmp_path / name), np.full((side, side, 3), 7, np.uint8))
        (tmp_path / "notes.txt").write_text("no image")
        frames, camera = collect(tmp_path, fps=4)
        assert [len(frame.image) for frame in frames] == [4, 8, 6]
        assert [frame.timestamp_s for frame in frames] == [0, 0.25, 0.5]
        assert camera.fps == 4

    def test_one_image_and_grey_ones(self, tmp_path):
        cv2.imwrite(str(tmp_path / "ä.png"), np.full((5, 6), 9, np.uint8))
        frames, _ = collect(tmp_path / "ä.png")
        np.testing.assert_array_equal(frames[0].image, np.full((5, 6, 3), 9))
        assert len(frames) == 1

    @pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
    def test_a_broken_image_is_named(self, tmp_path, content):
        cv2.imwrite(str(tmp_path / "a.png"), bright_image(0))
        (tmp_path / "b.png").write_bytes(content)
        with open_camera(str(tmp_path)) as camera:
            frames = camera.frames()
            assert next(frames).index == 0
            with pytest.raises(CameraError, match=rf"b\.png must be an image, got {len(content)} bytes"):
                next(frames)

    def test_a_folder_without_images_is_refused(self, tmp_path):
        with pytest.raises(CameraError, match="must hold images"):
            open_camera(str(tmp_path))


class TestChoice:
    def test_no_such_file_or_device_or_server(self, tmp_path):
        with pytest.raises(CameraError, match="does not exist"):
            open_camera(str(tmp_path / "none.mp4"))
        with pytest.raises(CameraError, match=r"there is no camera 987; found: "):
            open_camera("987")
        with pytest.raises(CameraError, match=r"there is no camera 987; found: "):
            open_camera("/dev/video987")
        with pytest.raises(CameraError, match="Connection refused") as caught:
            open_camera("http://somebody:secret@127.0.0.1:9/")
        assert "secret" not in str(caught.value)

    def test_devices_are_listed_with_their_names(self, tmp_path):
        assert found_devices(tmp_path, tmp_path) == f"no {tmp_path}/video* device"
        names = tmp_path / "names"
        for index, name in [(0, "Front\n"), (2, None), (10, "Back\n")]:
            (tmp_path / f"video{index}").touch()
            if name:
                (names / f"video{index}").mkdir(parents=True)
                (names / f"video{index}" / "name").write_text(name)
        assert found_devices(tmp_path, names) == "0 (Front), 2, 10 (Back)"

    def test_the_demo_is_deterministic_and_has_no_end(self):
        pytest.importorskip("retinanet_edge.runtime.scenes")
        runs = []
        for _ in range(2):
            with open_camera("demo", fps=10) as camera:
                runs.append([next(frames) for frames in [camera.frames()] for _ in range(3)])
        for one, other in zip(*runs, strict=True):
            np.testing.assert_array_equal(one.image, other.image)
        assert [frame.timestamp_s for frame in runs[0]] == [0, 0.1, 0.2]
        assert (runs[0][0].image != runs[0][1].image).any()


class TestMailbox:
    def frame(self, index):
        return Frame(np.zeros((1, 1, 3), np.uint8), index, 0.0, 0.0)

    def test_the_newest_frame_wins_and_the_others_are_counted(self):
        mailbox = Mailbox()
        for index in range(5):
            mailbox.put(self.frame(index))
        assert mailbox.take(0).index == 4
        assert mailbox.take(0) is None
        assert (mailbox.captured, mailbox.dropped) == (5, 4)

    def test_the_last_frame_comes_before_the_failure(self):
        mailbox = Mailbox()
        mailbox.put(self.frame(0))
        mailbox.fail("gone")
        assert mailbox.take(0).index == 0
        for _ in range(2):
            with pytest.raises(RetinaNetEdgeError, match="gone"):
                mailbox.take(0)

    def test_a_taker_that_waits_is_woken(self):
        mailbox = Mailbox()
        taken = []
        taker = threading.Thread(target=lambda: taken.append(mailbox.take(60)))
        taker.start()
        mailbox.put(self.frame(7))
        taker.join()
        assert taken[0].index == 7


class TestLive:
    def test_a_slow_consumer_sees_new_frames_and_every_other_one_is_counted(self):
        consumed = threading.Semaphore(0)

        def images():  # three new ones while the consumer is busy with one
            for index, image in enumerate(images_of(12)):
                if index % 3 == 0:
                    consumed.acquire()
                yield image
            consumed.acquire()

        def consume(camera):
            frames = camera.frames()
            consumed.release()
            for frame in frames:
                seen.append(frame)
                while camera.captured % 3:  # the burst of three is over, its last is in the slot or taken
                    time.sleep(0.001)
                consumed.release()

        seen = []
        with LiveCamera("test", 30, images()) as camera, pytest.raises(RetinaNetEdgeError, match="camera test is gone"):
            consume(camera)
        assert camera.captured == 12
        assert len(seen) + camera.dropped == 12
        values = [int(frame.image[0, 0, 0]) for frame in seen]
        assert values == sorted(set(values))
        assert values[-1] == 11
        assert [frame.index for frame in seen] == [value - values[0] for value in values]

    def test_what_came_before_anybody_looked_is_forgotten(self):
        ready, go_on = threading.Event(), threading.Event()

        def images():
            yield from images_of(5)
            ready.set()
            go_on.wait()
            yield np.full((4, 4, 3), 99, np.uint8)

        with LiveCamera("test", 30, images()) as camera:
            ready.wait()  # as while the model loads
            frames = camera.frames()
            threading.Timer(0.2, go_on.set).start()
            frame = next(frames)
            assert (int(frame.image[0, 0, 0]), frame.index, frame.timestamp_s) == (99, 0, 0.0)
            assert (camera.captured, camera.dropped) == (1, 0)

    def test_a_reader_that_fails_reaches_the_consumer(self):
        def images():
            yield from images_of(1)
            raise RetinaNetEdgeError("cable pulled")

        with LiveCamera("test", 30, images()) as camera, pytest.raises(RetinaNetEdgeError, match="cable pulled") as caught:
            list(camera.frames())
        assert caught.value.exit_code == 1

    def test_silence_is_an_error_and_no_hang(self):
        release = threading.Event()

        def images():
            release.wait()
            yield from images_of(1)

        with LiveCamera("test", 30, images(), patience_s=0.2) as camera:
            with pytest.raises(RetinaNetEdgeError, match=r"gave no frame for 0\.2 s"):
                list(camera.frames())
            release.set()

    def test_stop_ends_a_wait_and_the_source_is_released(self):
        released, end = threading.Event(), threading.Event()

        def images():
            try:
                while not end.wait(0.01):
                    yield np.zeros((4, 4, 3), np.uint8)
            finally:
                released.set()

        with LiveCamera("test", 30, images()) as camera:
            for frame in camera.frames():
                if frame.index >= 3:
                    camera.stop()
        end.set()
        assert released.wait(10)


class JpegServer(http.server.BaseHTTPRequestHandler):
    """/camera: 20 JPEG frames without a length, as a network camera sends them, then it breaks off. Else a file beside it."""

    def do_GET(self):
        self.send_response(200)
        if self.path != "/camera":
            data = (self.server.folder / self.path[1:]).read_bytes()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(20):
            data = cv2.imencode(".jpg", bright_image(index))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")
            time.sleep(0.02)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), JpegServer) as instance:
        instance.folder = tmp_path
        thread = threading.Thread(target=instance.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{instance.server_port}"
        instance.shutdown()
        thread.join()


class TestNetwork:
    def test_a_network_camera_is_live_and_its_end_is_an_error(self, server):
        seen = []
        with open_camera(f"{server}/camera") as camera, pytest.raises(RetinaNetEdgeError, match="is gone") as caught:
            seen += camera.frames()
        assert caught.value.exit_code == 1
        assert isinstance(camera, LiveCamera)

    def test_a_video_on_a_server_is_a_recording(self, server, tmp_path):
        write_video(tmp_path / "a.mp4", 12)
        frames, camera = collect(f"{server}/a.mp4")
        assert [frame.index for frame in frames] == list(range(12))
        assert camera.remark is None


@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="REAL_DATA names no folder with real data")
@pytest.mark.parametrize(("name", "count", "shape", "end_s"), [("solidWhiteRight", 221, (540, 960, 3), 8.8)])
def test_a_real_video(name, count, shape, end_s):
    frames, camera = collect(Path(os.environ["REAL_DATA"]) / "videos" / f"{name}.mp4")
    assert (len(frames), frames[0].image.shape, camera.fps, camera.remark) == (count, shape, 25, None)
    assert frames[-1].timestamp_s == pytest.approx(end_s)
