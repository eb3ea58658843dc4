"""Devices: what is asked of them and what they say. No camera is here, so that a recorded one stands in for OpenCV's capture."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.camera import SourceOptions
from retinanet_edge.runtime.device_source import DeviceSource, device_index, found_devices, fourcc, unmet
from retinanet_edge.runtime.errors import CameraError, CameraFault


class Capture:
    """As cv2.VideoCapture, of a camera that knows one size, one rate and MJPG, and gives two images."""

    def __init__(self, opens=True):
        self.opens, self.asked, self.images, self.released = opens, [], 2, False

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self.opens

    def set(self, what, value):
        self.asked.append((what, value))
        return True

    def get(self, what):
        return {
            cv2.CAP_PROP_FRAME_WIDTH: 640, cv2.CAP_PROP_FRAME_HEIGHT: 480, cv2.CAP_PROP_FPS: 30,
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"MJPG"),
        }[what]  # fmt: skip

    def read(self):
        self.images -= 1
        return (True, np.zeros((480, 640, 3), np.uint8)) if self.images >= 0 else (False, None)

    def release(self):
        self.released = True


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """Return a way to plug a capture in as video7, under a link as those of /dev/v4l/by-id."""
    device, link = tmp_path / "video7", tmp_path / "usb-camera"
    device.touch()
    link.symlink_to(device)

    def plug(capture):
        opened = []
        monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: opened.append(arguments) or capture)
        return link, opened

    return plug


def test_it_is_asked_for_format_size_and_rate_in_this_order(plugged):
    device, opened = plugged(capture := Capture())
    source = DeviceSource(device, SourceOptions(size=(640, 480), fps=30.0, pixel_format="mjpeg"))
    images = source.images()
    assert next(images).image.shape == (480, 640, 3)
    assert opened == [(7, cv2.CAP_V4L2)]
    assert capture.asked == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")), (cv2.CAP_PROP_FRAME_WIDTH, 640), (cv2.CAP_PROP_FRAME_HEIGHT, 480),
        (cv2.CAP_PROP_FPS, 30.0), (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]  # fmt: skip
    assert (source.fps, source.live) == (30, True)
    images.close()
    assert capture.released


def test_nothing_is_asked_without_need(plugged):
    device, _ = plugged(capture := Capture())
    next(DeviceSource(device, SourceOptions()).images())
    assert capture.asked == [(cv2.CAP_PROP_BUFFERSIZE, 1)]


def test_what_it_does_not_do_is_said_in_one_line(plugged, caplog):
    device, _ = plugged(Capture())
    with caplog.at_level(logging.WARNING):
        next(DeviceSource(device, SourceOptions(size=(1280, 720), fps=60.0, pixel_format="yuyv")).images())
    assert [record.getMessage() for record in caplog.records] == [
        f"camera {device} does not do as asked: asked for size 1280x720, got 640x480, asked for 60.0 fps, got 30, "
        "asked for pixel format YUYV, got MJPG"
    ]


def test_as_asked_is_nothing_to_say():
    assert unmet(SourceOptions(size=(640, 480), fps=30.0), "MJPG", (640, 480), 29.97, "MJPG") == ""
    assert unmet(SourceOptions(), None, (640, 480), 30.0, "YUYV") == ""


def test_one_that_stops_is_lost_and_released(plugged):
    device, _ = plugged(capture := Capture())
    seen = []
    with pytest.raises(CameraError, match="gives no more images") as caught:
        seen.extend(DeviceSource(device, SourceOptions()).images())
    assert (len(seen), caught.value.fault, capture.released) == (2, CameraFault.LOST, True)


def test_one_that_is_held_is_refused_and_released(plugged):
    device, _ = plugged(capture := Capture(opens=False))
    with pytest.raises(CameraError, match=r"another program may hold it \(fuser -v /dev/video7") as caught:
        next(DeviceSource(device, SourceOptions()).images())
    assert (caught.value.fault, capture.released) == (CameraFault.REFUSED, True)


def test_one_that_is_not_there():
    with pytest.raises(CameraError, match=r"there is no camera /dev/video987; found: .*: name one of these") as caught:
        next(DeviceSource(Path("/dev/video987"), SourceOptions()).images())
    assert caught.value.fault is CameraFault.NOT_FOUND


def test_what_is_no_video_device():
    with pytest.raises(CameraError, match="there is no camera /dev/null"):
        device_index(Path("/dev/null"))


def test_one_that_others_may_use(tmp_path, monkeypatch):
    device = tmp_path / "video3"
    device.touch()
    monkeypatch.setattr("os.access", lambda *_: False)  # root may use everything
    with pytest.raises(CameraError, match=r"no permission to use .*video3: add your user to its group") as caught:
        device_index(device)
    assert caught.value.fault is CameraFault.REFUSED


def test_a_name_is_the_number_or_the_path():
    assert DeviceSource(Path("/dev/video12"), SourceOptions()).name == "12"
    assert DeviceSource(Path("/dev/v4l/by-id/usb-Cam"), SourceOptions()).name == "/dev/v4l/by-id/usb-Cam"


@pytest.mark.parametrize(
    ("name", "letters"), [("mjpeg", "MJPG"), ("YUYV", "YUYV"), ("yuyv422", "YUYV"), ("nv12", "NV12"), ("rg10", "RG10")]
)
def test_pixel_formats_by_any_of_their_names(name, letters):
    assert fourcc(name) == letters


@pytest.mark.parametrize("name", ["", "yuv", "mjpeg2000", "rg-1"])
def test_a_pixel_format_that_is_none(name):
    with pytest.raises(CameraError, match="four letters of V4L2") as caught:
        fourcc(name)
    assert caught.value.fault is CameraFault.UNSUPPORTED


def test_devices_are_listed_with_their_names(tmp_path):
    assert found_devices(tmp_path, tmp_path) == f"no {tmp_path}/video* device"
    names = tmp_path / "names"
    for index, name in [(0, "Front\n"), (2, None), (10, "Back\n")]:
        (tmp_path / f"video{index}").touch()
        if name:
            (names / f"video{index}").mkdir(parents=True)
            (names / f"video{index}" / "name").write_text(name)
    assert found_devices(tmp_path, names) == "0 (Front), 2, 10 (Back)"
