"""Addresses: real servers on loopback that send, refuse, hang, break off and want passwords."""

import contextlib
import http.server
import itertools
import runpy
import socket
import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.camera import SourceOptions
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.network_source import NetworkSource

bright = runpy.run_path(str(Path(__file__).with_name("bright_engine.py")))
bright_image, write_video = bright["bright_image"], bright["write_video"]
USER = "Basic dXNlcjpzZWNyZXQ="  # user:secret


def jpeg(image):
    return cv2.imencode(".jpg", image)[1].tobytes()


class Server(http.server.BaseHTTPRequestHandler):
    """/motion/...: images in a row, as network cameras send them. /404 and the like: this answer. Else a file of the folder."""

    def do_GET(self):
        kind = self.path.split("?")[0].strip("/")
        if kind.startswith("motion"):
            with contextlib.suppress(OSError):
                self.motion(kind.removeprefix("motion/"))
        elif kind.isdecimal():
            self.send_error(int(kind))
        elif kind == "hang":
            self.server.release.wait()
        elif kind == "moved":
            self.answer(b"", 302, Location="/motion/ends")
        elif kind == "private" and self.headers["Authorization"] != USER:
            self.answer(b"", 401, **{"WWW-Authenticate": 'Basic realm="camera"'})
        elif kind == "private":
            self.motion("ends")
        elif (self.server.folder / kind).is_file():
            self.answer((self.server.folder / kind).read_bytes())
        else:
            self.send_error(404)

    def motion(self, kind):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(20):
            data = jpeg(bright_image(index, height=96, width=128) if kind == "grows" and index >= 10 else bright_image(index))
            if kind == "broken" and index in (5, 6):
                data = data[:40]
            self.wfile.write(f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data + b"\r\n")
        if kind == "silent":
            self.server.release.wait()

    def answer(self, data, code=200, **headers):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as instance:
        instance.folder, instance.release = tmp_path, threading.Event()
        thread = threading.Thread(target=instance.serve_forever)
        thread.start()
        yield f"127.0.0.1:{instance.server_port}"
        instance.release.set()
        instance.shutdown()
        thread.join()


@pytest.fixture
def mute():
    """The port of a server that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def read(url, timeout_s=10.0, **options):
    """Return the images until the error, and the error."""
    seen = []
    with pytest.raises(CameraError) as caught:
        seen.extend(NetworkSource(url, SourceOptions(**options), timeout_s).images())
    return seen, caught.value


class TestMotionJpeg:
    def test_every_image_comes_and_its_end_is_lost(self, server):
        source = NetworkSource(f"http://{server}/motion/ends", SourceOptions())
        assert source.live
        seen, error = read(f"http://{server}/motion/ends")
        assert len(seen) == 20
        assert error.fault is CameraFault.LOST
        assert str(error).startswith(f"http://{server}/motion/ends is gone")
        assert np.abs(seen[7].image.astype(int) - bright_image(7)).mean() < 6
        assert {image.timestamp_s for image in seen} == {None}

    def test_a_size_that_changes_is_taken_as_it_comes(self, server):
        seen, _ = read(f"http://{server}/motion/grows")
        assert [image.image.shape[:2] for image in seen] == [(48, 64)] * 10 + [(96, 128)] * 10

    def test_broken_images_are_skipped_and_counted(self, server):
        seen, _ = read(f"http://{server}/motion/broken")
        assert [image.failed for image in seen] == [0] * 5 + [2] + [0] * 12

    def test_silence_is_an_error(self, server):
        seen, error = read(f"http://{server}/motion/silent", timeout_s=0.5)
        assert error.fault is CameraFault.TIMEOUT
        assert 0 < len(seen) <= 20

    def test_a_redirection_is_followed(self, server):
        assert len(read(f"http://{server}/moved")[0]) == 20

    def test_a_password_is_used_and_not_shown(self, server):
        seen, error = read(f"http://user:secret@{server}/private?token=secret")
        assert len(seen) == 20
        assert str(error).startswith(f"http://{server}/private?token=*** is gone")


class TestRecording:
    def test_a_video_on_a_server_gives_every_frame_with_its_time(self, server, tmp_path):
        write_video(tmp_path / "a.mp4", 12)
        source = NetworkSource(f"http://{server}/a.mp4", SourceOptions())
        assert not source.live
        images = list(source.images())
        assert [image.timestamp_s for image in images] == pytest.approx([index / 25 for index in range(12)])
        assert (source.live, source.fps) == (False, 25)

    def test_it_is_known_by_its_length_not_its_name(self, server, tmp_path):
        write_video(tmp_path / "a.mp4", 3).rename(tmp_path / "video")
        source = NetworkSource(f"http://{server}/video", SourceOptions())
        assert (source.live, len(list(source.images())), source.live) == (True, 3, False)

    def test_it_loops(self, server, tmp_path):
        write_video(tmp_path / "a.mp4", 3)
        images = NetworkSource(f"http://{server}/a.mp4", SourceOptions(loop=True)).images()
        assert [image.timestamp_s for image in itertools.islice(images, 5)] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16], abs=1e-3)
        images.close()


class TestFaults:
    @pytest.mark.parametrize(("path", "fault"), [
        ("404", CameraFault.NOT_FOUND), ("no/such", CameraFault.NOT_FOUND), ("401", CameraFault.AUTHENTICATION),
        ("private", CameraFault.AUTHENTICATION), ("403", CameraFault.AUTHENTICATION), ("500", CameraFault.OTHER),
    ])  # fmt: skip
    def test_what_a_server_answers(self, server, path, fault):
        seen, error = read(f"http://u:secret@{server}/{path}")
        assert (seen, error.fault) == ([], fault)
        assert str(error).startswith(f"http://{server}/{path}")
        assert "secret" not in str(error)

    @pytest.mark.parametrize("content", [b"", b"<html>no camera</html>" * 100, bytes(range(256)) * 40])
    def test_what_is_no_video(self, server, tmp_path, content):
        (tmp_path / "page").write_bytes(content)
        seen, error = read(f"http://{server}/page")
        assert (seen, error.fault) == ([], CameraFault.NOT_DECODABLE)

    def test_sound_alone(self, server, tmp_path):
        with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(16000))
        error = read(f"http://{server}/a.wav")[1]
        assert error.fault is CameraFault.NOT_DECODABLE
        assert "without a video stream" in str(error)

    @pytest.mark.parametrize("scheme", ["rtsp", "http"])
    def test_nobody_listens(self, scheme):
        with socket.socket() as taken:  # bound and not listening: refuses
            taken.bind(("127.0.0.1", 0))
            error = read(f"{scheme}://u:secret@127.0.0.1:{taken.getsockname()[1]}/")[1]
        assert error.fault is CameraFault.REFUSED
        assert "secret" not in str(error)

    @pytest.mark.parametrize("scheme", ["rtsp", "http"])
    def test_no_such_host(self, scheme):
        error = read(f"{scheme}://u:secret@no-such-host.invalid/")[1]
        assert error.fault is CameraFault.NOT_FOUND
        assert "no such host" in str(error)
        assert "secret" not in str(error)

    @pytest.mark.parametrize("scheme", ["rtsp", "http"])
    def test_one_that_never_answers(self, scheme, mute):
        error = read(f"{scheme}://127.0.0.1:{mute}/", timeout_s=0.5)[1]
        assert error.fault is CameraFault.TIMEOUT

    def test_one_that_hangs_after_the_question(self, server):
        assert read(f"http://{server}/hang", timeout_s=0.5)[1].fault is CameraFault.TIMEOUT

    def test_a_slash_in_a_password_is_answered_with_how_to_write_it(self):
        error = read("rtsp://user:pa/ss@cam/1")[1]
        assert str(error) == "rtsp://cam/1 is no address: write @ and / in a password as %40 and %2F"

    def test_nothing_is_left_behind(self, server, mute):
        before = descriptors()
        for _ in range(3):
            images = NetworkSource(f"http://{server}/motion/ends", SourceOptions()).images()
            assert len(list(itertools.islice(images, 2))) == 2
            images.close()
            read(f"rtsp://127.0.0.1:{mute}/", timeout_s=0.1)
        deadline = time.monotonic() + 60
        while descriptors() > before and time.monotonic() < deadline:  # the server, in this process, notices a little later
            time.sleep(0.01)
        assert descriptors() == before


@pytest.mark.parametrize("url", ["rtsp://user:secret@127.0.0.1:1/", "http://user:secret@127.0.0.1:1/?password=secret"])
def test_no_password_is_printed_by_any_library(url):
    program = (
        "import logging, sys; logging.basicConfig(level=logging.DEBUG)\n"
        "from retinanet_edge.runtime.camera import SourceOptions\n"
        "from retinanet_edge.runtime.errors import run_command\n"
        "from retinanet_edge.runtime.source_address import parse_source\n"
        f"sys.exit(run_command(lambda: list(parse_source({url!r}, SourceOptions()).source.images())))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Connection refused" in done.stderr
    assert "secret" not in done.stdout + done.stderr
