"""Pipelines: their texts, and real ones of test pictures in gst-launch-1.0 where it is there."""

import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.camera import SourceOptions
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.gstreamer_process import process_images
from retinanet_edge.runtime.gstreamer_source import GStreamerSource, csi_pipeline, rtsp_pipeline, v4l2_pipeline, without_sink

needs_gstreamer = pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="gst-launch-1.0 is not installed")
TO_BGR = "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! appsink drop=1 max-buffers=1 sync=false"


class TestTexts:
    def test_a_csi_camera(self):
        assert csi_pipeline(1, SourceOptions(size=(1920, 1080), fps=30.0)) == (
            "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),format=NV12,width=1920,height=1080,framerate=30/1 ! " + TO_BGR
        )
        assert csi_pipeline(0, SourceOptions()) == f"nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),format=NV12 ! {TO_BGR}"

    def test_a_broken_rate_as_the_fraction_that_cameras_state(self):
        assert ",framerate=30000/1001 !" in csi_pipeline(0, SourceOptions(fps=29.97))  # 29.97 * 1001 = 29999.97

    def test_a_usb_camera_decoded_in_hardware(self):
        assert v4l2_pipeline("/dev/video0", SourceOptions(size=(1280, 720))) == (
            "v4l2src device=/dev/video0 io-mode=2 ! image/jpeg,width=1280,height=720 ! nvv4l2decoder mjpeg=1 ! " + TO_BGR
        )

    def test_a_network_camera_decoded_in_hardware(self):
        assert rtsp_pipeline('rtsp://u:p"w@cam/1?a=1&b=2', SourceOptions(transport="udp")) == (
            'rtspsrc location="rtsp://u:p\\"w@cam/1?a=1&b=2" protocols=udp latency=100 drop-on-latency=true ! '
            "application/x-rtp,media=video ! parsebin ! nvv4l2decoder enable-max-performance=1 ! " + TO_BGR
        )

    def test_the_sink_goes_with_what_was_added_before_it(self):
        assert without_sink(csi_pipeline(0, SourceOptions())).endswith("! nvvidconv ! video/x-raw,format=BGRx")
        assert without_sink("a ! b ! appsink name=x sync=false") == "a ! b"

    def test_a_sink_in_the_middle_is_refused(self):
        with pytest.raises(CameraError, match="appsink at its end") as caught:
            without_sink("a ! appsink b. ! fakesink")
        assert caught.value.fault is CameraFault.UNSUPPORTED

    def test_an_open_quotation_mark_is_refused(self):
        with pytest.raises(CameraError, match="quotation mark"):
            GStreamerSource('filesrc location="a ! decodebin', "x")


class Capture:
    def __init__(self, opens, images, shape=(4, 6, 3)):
        self.opens, self.images, self.shape, self.released = opens, images, shape, False

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self.opens

    def get(self, _):
        return 15.0

    def read(self):
        self.images -= 1
        return (True, np.zeros(self.shape, np.uint8)) if self.images >= 0 else (False, None)

    def release(self):
        self.released = True


class TestInOpenCV:
    """An OpenCV that says it has GStreamer, as none of pip's does."""

    @pytest.fixture
    def opened(self, monkeypatch):
        monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    GStreamer:                   YES (1.20.3)\n")
        captures = []

        def use(capture):
            monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: captures.append(arguments) or capture)
            return captures

        return use

    def test_the_newest_image_is_asked_for_at_the_end(self, opened):
        captures = opened(capture := Capture(True, 2))
        source, seen = GStreamerSource("videotestsrc ! identity", "x"), []
        with pytest.raises(CameraError, match="x has ended") as caught:
            seen.extend(source.images())
        added = "videoconvert ! video/x-raw,format=BGR ! appsink drop=1 max-buffers=1 sync=false"
        assert captures == [(f"videotestsrc ! identity ! {added}", cv2.CAP_GSTREAMER)]
        assert (len(seen), source.fps, caught.value.fault, capture.released) == (2, 15.0, CameraFault.LOST, True)

    def test_a_sink_of_ones_own_is_left(self, opened):
        captures = opened(Capture(True, 1))
        next(GStreamerSource("videotestsrc ! appsink", "x").images())
        assert captures == [("videotestsrc ! appsink", cv2.CAP_GSTREAMER)]

    def test_a_sink_that_gives_other_than_bgr_is_told_how(self, opened):
        opened(capture := Capture(True, 1, shape=(6, 6)))  # NV12 of 4 rows
        with pytest.raises(CameraError, match="must give BGR images: put videoconvert") as caught:
            next(GStreamerSource("videotestsrc ! appsink", "x").images())
        assert (caught.value.fault, capture.released) == (CameraFault.NOT_DECODABLE, True)

    def test_one_that_does_not_start(self, opened):
        opened(capture := Capture(False, 0))
        with pytest.raises(CameraError, match="rtsp://cam/ does not start: try the pipeline in gst-launch"):
            next(GStreamerSource("rtspsrc ! x", "rtsp://u:secret@cam/").images())
        assert capture.released


def test_without_any_gstreamer_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "General configuration for OpenCV 4.9.0 =====\n    GStreamer:    NO\n")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CameraError, match=r"OpenCV \(4\.9\.0\).*gstreamer1\.0-tools.*--system-site-packages") as caught:
        next(GStreamerSource("videotestsrc ! identity", "test").images())
    assert caught.value.fault is CameraFault.UNSUPPORTED


def launched(pipeline, name="test", **options):
    return process_images(pipeline, name, lambda _: None, **options)


def fault_of(pipeline, match):
    seen = []
    with pytest.raises(CameraError, match=match) as caught:
        seen.extend(launched(pipeline))
    return caught.value.fault, len(seen)


@needs_gstreamer
class TestProcess:
    def test_images_come_with_right_colours_at_any_width(self):
        found = []
        # A width of 50 pads the rows of every other format.
        images = process_images(
            "videotestsrc pattern=smpte num-buffers=3 ! video/x-raw,width=50,height=38,framerate=60/1", "test", found.append
        )
        image = next(images).image
        images.close()
        assert (image.shape, found[0]) == ((38, 50, 3), 60.0)
        np.testing.assert_allclose(image[4, ::7][:7], [  # SMPTE bars: white, yellow, cyan, green, magenta, red, blue
            [255, 255, 255], [0, 255, 255], [255, 255, 0], [0, 255, 0], [255, 0, 255], [0, 0, 255], [255, 0, 0],
        ], atol=6)  # fmt: skip

    def test_its_end_is_lost(self):
        assert fault_of("videotestsrc num-buffers=1 ! video/x-raw,width=640,height=480", "test has ended") == (CameraFault.LOST, 1)

    def test_images_that_nobody_takes_in_time_are_dropped(self):
        images = launched("videotestsrc num-buffers=300 ! video/x-raw,width=640,height=480")
        next(images)
        time.sleep(1)
        rest = []
        with pytest.raises(CameraError, match="has ended"):
            rest.extend(1 for _ in images)
        assert len(rest) < 299

    def test_another_size_is_a_new_connection(self, tmp_path):
        for number, side in enumerate([64, 128]):
            cv2.imwrite(str(tmp_path / f"{number}.jpg"), np.zeros((side, side, 3), np.uint8))
        pipeline = f"multifilesrc location={tmp_path}/%d.jpg caps=image/jpeg,framerate=5/1 ! jpegdec"
        assert fault_of(pipeline, "test changed its size from 64x64 to 128x128")[0] is CameraFault.LOST

    @pytest.mark.parametrize(("pipeline", "match", "fault"), [
        ("nosuchthing ! identity", 'does not start: no element "nosuchthing": install the plugin', CameraFault.UNSUPPORTED),
        ("audiotestsrc ! audioconvert", "could not link", CameraFault.UNSUPPORTED),
        ("filesrc location=/no/such/file ! decodebin", "Resource not found", CameraFault.NOT_FOUND),
        ("v4l2src device=/dev/video987 ! identity", "Cannot identify device", CameraFault.NOT_FOUND),
        ("filesrc location=/proc/self/status ! decodebin", "does not start", CameraFault.NOT_DECODABLE),
    ])  # fmt: skip
    def test_what_does_not_start_says_why(self, pipeline, match, fault):
        assert fault_of(pipeline, match) == (fault, 0)

    def test_silence_is_an_error(self):
        with pytest.raises(CameraError, match=r"gave nothing for 0\.5 s") as caught:
            next(launched("fakesrc num-buffers=0 is-live=true ! video/x-raw ! valve drop=true", timeout_s=0.5))
        assert caught.value.fault is CameraFault.TIMEOUT

    def test_nothing_is_left_behind(self):
        def open_things():
            return len(list(Path("/proc/self/fd").iterdir()))

        before = open_things()
        for _ in range(3):
            images = launched("videotestsrc is-live=true ! video/x-raw,width=640,height=480")
            next(images)
            images.close()
        assert open_things() == before
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    def test_no_password_is_in_its_error(self):
        element = 'rtspsrc location="rtsp://u:se cret@127.0.0.1:1/"'
        source = GStreamerSource(f"{element} ! decodebin", element)
        with pytest.raises(CameraError, match="does not start") as caught:
            next(source.images())
        assert "cret" not in str(caught.value)
        assert 'rtspsrc location="rtsp://127.0.0.1:1/"' in str(caught.value)
