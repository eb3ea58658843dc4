"""Live cameras: a device or a stream on the network. A thread reads, the consumer takes the newest frame.

Between them is a mailbox with one slot. A frame that nobody took is overwritten and counted; neither side waits for the other, so
what is seen is never older than one frame, however slow the consumer.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.camera import DEFAULT_FPS, Camera, Frame
from retinanet_edge.runtime.errors import CameraError, RetinaNetEdgeError
from retinanet_edge.runtime.recorded_camera import record_container, upright

if TYPE_CHECKING:
    import av

_PATIENCE_S = 10.0  # without a frame for so long, a camera counts as gone
_STOP_CHECK_S = 0.1  # how often a consumer that waits looks whether it should stop
_JOIN_S = 2.0  # how long a reader may take to end; a driver that hangs must not hold up the exit

_Images = Generator[NDArray[np.uint8], None, None]


class Mailbox:
    """One slot between the thread that reads and the thread that takes."""

    def __init__(self) -> None:
        self.captured = 0
        self.dropped = 0
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._failure: str | None = None

    def put(self, frame: Frame) -> None:
        """Leave the newest frame, over one that was not taken."""
        with self._changed:
            self.captured += 1
            self.dropped += self._frame is not None
            self._frame = frame
            self._changed.notify()

    def fail(self, reason: str) -> None:
        """Say that no frame will follow."""
        with self._changed:
            self._failure = reason
            self._changed.notify()

    def take(self, timeout_s: float) -> Frame | None:
        """Return the newest frame, None after `timeout_s` without one. Raises RetinaNetEdgeError once none will follow."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame or self._failure, timeout_s)
            frame, self._frame = self._frame, None
            if frame is None and self._failure is not None:
                raise RetinaNetEdgeError(self._failure)
            return frame

    def forget(self) -> None:
        """Drop a frame from before anybody wanted one, and count from here."""
        with self._changed:
            self._frame = None
            self.captured = self.dropped = 0


class LiveCamera:
    """Images that come at their own pace, as a Camera. `images` is read, and closed, by a thread of its own."""

    def __init__(self, name: str, fps: float, images: _Images, patience_s: float = _PATIENCE_S) -> None:
        self.name, self.fps = name, fps
        self.remark: str | None = None
        self._patience_s = patience_s
        self._mailbox, self._stopped = Mailbox(), False
        self._reader = threading.Thread(target=self._read, args=(images,), name=f"camera {name}", daemon=True)
        self._reader.start()

    @property
    def captured(self) -> int:
        """Frames that came since `frames` was called."""
        return self._mailbox.captured

    @property
    def dropped(self) -> int:
        """Frames of these that newer ones have overwritten."""
        return self._mailbox.dropped

    def frames(self) -> Iterator[Frame]:
        """Yield the newest frame from now on. Raises RetinaNetEdgeError where the camera goes away or falls silent."""
        self._mailbox.forget()
        return self._newest()

    def stop(self) -> None:
        """Let `frames` end soon, also while it waits."""
        self._stopped = True

    def close(self) -> None:
        """End the reader and release the camera."""
        self._stopped = True
        self._reader.join(_JOIN_S)

    def __enter__(self) -> LiveCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _newest(self) -> Iterator[Frame]:
        first: Frame | None = None
        last = time.monotonic()
        while not self._stopped:
            frame = self._mailbox.take(_STOP_CHECK_S)
            if frame is not None:
                first = first or frame
                yield replace(frame, index=frame.index - first.index, timestamp_s=frame.timestamp_s - first.timestamp_s)
                last = time.monotonic()
            elif time.monotonic() - last > self._patience_s:
                raise RetinaNetEdgeError(f"camera {self.name} gave no frame for {self._patience_s:g} s: check it and start again")

    def _read(self, images: _Images) -> None:
        reason, start = "it ended", time.perf_counter()
        try:
            for index, image in enumerate(images):
                if self._stopped:
                    return
                now = time.perf_counter()
                self._mailbox.put(Frame(image, index, now - start, now))
        except RetinaNetEdgeError as error:
            reason = str(error)
        finally:
            images.close()
            self._mailbox.fail(f"camera {self.name} is gone ({reason}): check it and start again")


def open_device(index: int) -> LiveCamera:
    """Open /dev/video<index>. Raises CameraError, with the devices that there are, where it does not open."""
    device, found = Path(f"/dev/video{index}"), found_devices()
    if not device.exists():
        raise CameraError(f"there is no camera {index}; found: {found}: name one of these, a video, or --camera demo")
    if not os.access(device, os.R_OK | os.W_OK):
        raise CameraError(f"no permission to use {device}: add your user to its group (video), then log in again")
    import cv2

    capture = cv2.VideoCapture(index, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise CameraError(f"{device} does not open as a camera: another program may hold it, or it is not one; found: {found}")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the driver's queue would hold old frames
    return LiveCamera(str(index), capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS, _device_images(capture))


def found_devices(devices: Path = Path("/dev"), names: Path = Path("/sys/class/video4linux")) -> str:
    """Return the video devices with their names, for a message."""
    found = []
    for device in sorted(devices.glob("video*"), key=lambda path: (len(path.name), path.name)):
        label = names / device.name / "name"
        title = f" ({label.read_text().strip()})" if label.is_file() else ""
        found.append(f"{device.name.removeprefix('video')}{title}")
    return ", ".join(found) or f"no {devices}/video* device"


def open_url(url: str) -> Camera:
    """Open a stream (rtsp, http and whatever else FFmpeg knows). Raises CameraError, with FFmpeg's reason, where it fails.

    An http URL of known length is a video on a server: a recording.
    """
    import av

    name = re.sub(r"//[^/@]*@", "//", url)  # messages end up in logs: no passwords
    options = {"rtsp_transport": "tcp", "fflags": "nobuffer"} if url.startswith("rtsp") else {}
    try:
        container = av.open(url, options=options, timeout=_PATIENCE_S)
    except av.error.FFmpegError as error:
        raise CameraError(f"--camera {name} does not open ({_reason(error)}): check the address and that it is sending") from None
    if not container.streams.video or (container.duration is not None and url.startswith("http")):
        return record_container(container, name)
    fps = float(container.streams.video[0].average_rate or DEFAULT_FPS)
    return LiveCamera(name, fps, _container_images(container))


def _device_images(capture: object) -> _Images:
    try:
        while True:
            given, image = capture.read()  # type: ignore[attr-defined]
            if not given:
                return
            yield image
    finally:
        capture.release()  # type: ignore[attr-defined]


def _container_images(container: av.container.InputContainer) -> _Images:
    """Yield what decodes; packets broken on their way are skipped, as are those before the first key frame."""
    import av

    with container:
        packets = container.demux(container.streams.video[0])
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                raise RetinaNetEdgeError(_reason(error)) from None
            if packet is None:
                return
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in decoded:
                yield upright(frame)


def _reason(error: av.error.FFmpegError) -> str:
    import av

    if isinstance(error, av.error.ExitError):  # what PyAV raises when its own timeout strikes
        return f"no answer for {_PATIENCE_S:g} s"
    return str(error.strerror)
