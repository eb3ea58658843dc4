"""Cameras of this machine: USB and whatever else V4L2 names /dev/video*, through OpenCV."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from retinanet_edge.runtime.camera import DEFAULT_FPS, SourceImage, SourceImages, SourceOptions
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.opencv_build import opencv_features

_LOG = logging.getLogger(__name__)

# V4L2's four letters for the names that FFmpeg and v4l2-ctl use.
_FOURCCS = {
    "mjpeg": "MJPG", "mjpg": "MJPG", "yuyv": "YUYV", "yuyv422": "YUYV", "uyvy": "UYVY", "uyvy422": "UYVY", "nv12": "NV12",
    "yuv420p": "YU12", "i420": "YU12", "h264": "H264", "gray": "GREY", "bgr24": "BGR3", "rgb24": "RGB3",
}  # fmt: skip


class DeviceSource:
    """The camera at `device`, as /dev/video0 or /dev/v4l/by-id/..., looked for anew with each connection."""

    live = True

    def __init__(self, device: Path, options: SourceOptions) -> None:
        """Raises CameraError, UNSUPPORTED, for a pixel format that V4L2 has no four letters for."""
        self.name, self.fps = re.sub(r"^/dev/video(?=\d+$)", "", str(device)), options.fps or DEFAULT_FPS
        self._device, self._options = device, options
        self._fourcc = fourcc(options.pixel_format) if options.pixel_format else None

    def images(self) -> SourceImages:
        """Yield images. Raises CameraError where the device is not there, is not ours to use, or stops."""
        import cv2

        if not opencv_features(cv2.getBuildInformation()).v4l2:
            raise CameraError("this OpenCV is built without V4L2: install opencv-python-headless, or JetPack's", CameraFault.UNSUPPORTED)
        index = device_index(self._device)
        capture = cv2.VideoCapture(index, cv2.CAP_V4L2)
        try:
            if not capture.isOpened():
                raise CameraError(
                    f"{self._device} does not open as a camera: another program may hold it (fuser -v /dev/video{index} says which), "
                    f"or it is not one; found: {found_devices()}", CameraFault.REFUSED,
                )  # fmt: skip
            self._configure(capture)
            while True:
                given, image = capture.read()
                if not given:
                    raise CameraError(f"{self._device} gives no more images: check its cable", CameraFault.LOST)
                yield SourceImage(image)
        finally:
            capture.release()

    def _configure(self, capture: Any) -> None:
        import cv2

        if self._fourcc:  # first: which sizes and rates there are depends on it
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self._fourcc))
        if self._options.size:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._options.size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._options.size[1])
        if self._options.fps:
            capture.set(cv2.CAP_PROP_FPS, self._options.fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the driver's queue would hold old frames
        self.fps = capture.get(cv2.CAP_PROP_FPS) or self.fps
        letters = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("ascii", "replace")
        size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        if differences := unmet(self._options, self._fourcc, size, self.fps, letters):
            _LOG.warning("camera %s does not do as asked: %s", self.name, differences)


def unmet(options: SourceOptions, asked_letters: str | None, size: tuple[int, int], fps: float, letters: str) -> str:
    """Return in words where a camera gives something other than what was asked of it, "" where nowhere."""
    wanted = [
        (f"size {_by(options.size)}", _by(size), options.size in (None, size)),
        (f"{options.fps} fps", f"{fps:g}", options.fps is None or abs(options.fps - fps) < 0.5),
        (f"pixel format {asked_letters}", letters, asked_letters in (None, letters)),
    ]
    return ", ".join(f"asked for {what}, got {got}" for what, got, met in wanted if not met)


def fourcc(pixel_format: str) -> str:
    """Return V4L2's four letters for a pixel format. Raises CameraError, UNSUPPORTED, where it has none."""
    letters = _FOURCCS.get(pixel_format.lower(), pixel_format.upper())
    if not re.fullmatch(r"[A-Z0-9]{4}", letters):
        message = f"a device's pixel format must be one of {', '.join(_FOURCCS)} or four letters of V4L2, got {pixel_format}"
        raise CameraError(message, CameraFault.UNSUPPORTED)
    return letters


def device_index(device: Path) -> int:
    """Return N of the /dev/videoN that `device` is or leads to. Raises CameraError where it is not there or not ours to use."""
    target = device.resolve()
    number = re.fullmatch(r"video(\d+)", target.name)
    if not target.exists() or number is None:
        raise CameraError(
            f"there is no camera {device}; found: {found_devices()}: name one of these, a video, or --camera demo", CameraFault.NOT_FOUND
        )
    if not os.access(target, os.R_OK | os.W_OK):
        message = f"no permission to use {device}: add your user to its group (video), then log in again"
        raise CameraError(message, CameraFault.REFUSED)
    return int(number[1])


def found_devices(devices: Path = Path("/dev"), names: Path = Path("/sys/class/video4linux")) -> str:
    """Return the video devices with their names, for a message."""
    found = []
    for device in sorted(devices.glob("video*"), key=lambda path: (len(path.name), path.name)):
        label = names / device.name / "name"
        title = f" ({label.read_text().strip()})" if label.is_file() else ""
        found.append(f"{device.name.removeprefix('video')}{title}")
    return ", ".join(found) or f"no {devices}/video* device"


def _by(size: tuple[int, int] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "any"
