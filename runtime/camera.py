"""What a camera is to the stream: frames to take, a state, counters. And what a source is to a camera: images from one connection.

A `Source` knows how to connect to one thing (a device, an address, a file) and yields what it gives until it ends or fails; it knows
nothing of retries. A `Camera` (supervised_camera.py) reads a source on a thread of its own, notices when it falls silent or repeats
itself, and connects again. Live sources give their newest frame, recordings every frame in order.
"""

from __future__ import annotations

import enum
from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.frame import Frame

DEFAULT_FPS = 25.0  # of sources that have no time of their own: images and the demo


class CameraState(enum.Enum):
    """What a camera is doing; the value is its name in outputs."""

    CONNECTING = "connecting"  # opening its source, no frame yet
    RUNNING = "running"
    STALE = "stale"  # open, but silent or repeating one image for too long
    BACKOFF = "backoff"  # waits before it connects again
    ENDED = "ended"  # a recording gave its last frame, or the camera was stopped
    FAILED = "failed"  # gave up: the cap of reconnections is reached, or the error is one that no retry mends


@dataclass(frozen=True)
class CameraStatus:
    """A camera at one moment.

    captured: frames that came. dropped: of these, overwritten by newer ones before anybody took them. failed: packets or images that did
    not decode. reconnects: connections after the first. fps: nominal. size: height, width of the last frame, None before it. age_s:
    seconds since the last new frame. message: the last error, without passwords, None where all is well.
    """

    name: str
    state: CameraState
    live: bool
    captured: int
    dropped: int
    failed: int
    reconnects: int
    fps: float
    size: tuple[int, int] | None
    age_s: float | None
    message: str | None


@dataclass(frozen=True)
class SourceOptions:
    """What can be asked of a source; each kind takes what fits it, and refuses with CameraError what it cannot do.

    size: width, height. fps: of a device; of images and the demo, which have no time of their own. pixel_format: as FFmpeg and V4L2 name
    it (mjpeg, yuyv, nv12). decode: "auto", "software" or "hardware". transport: of RTSP. loop: begin a recording again at its end.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    pixel_format: str | None = None
    decode: str = "auto"
    transport: str = "tcp"
    loop: bool = False


@dataclass(frozen=True)
class RestartLimits:
    """When a camera counts as gone and how often it is tried again.

    stale_s: seconds without a frame. identical_frames: equal images in a row, 0 for any number. first_wait_s doubles with each failure in
    a row up to longest_wait_s, each wait being drawn between half and all of it, so that a site's cameras do not all knock at once.
    restarts: connections in a row that may fail, or give frames for less than healthy_s, before the camera is FAILED; None: no limit.
    Where another camera of the stream runs, there is none either.
    """

    stale_s: float = 10.0
    identical_frames: int = 750
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    restarts: int | None = 50
    healthy_s: float = 10.0


class SourceImage(NamedTuple):
    """One image of a source. timestamp_s: by the source's own clock, None where it has none. failed: images lost just before it."""

    image: NDArray[np.uint8]
    timestamp_s: float | None = None
    failed: int = 0


# Connects with the first next(), disconnects when closed. What a recording returns at its end deserves a line: shorter than it says.
SourceImages = Generator[SourceImage, None, "str | None"]


class Source(Protocol):
    """Something to connect to, as often as needed."""

    @property
    def name(self) -> str:
        """What it is, for people; without passwords."""

    @property
    def live(self) -> bool:
        """Whether it goes on whether or not anybody looks; a recording waits."""

    @property
    def fps(self) -> float:
        """Nominal frames per second; known for certain once connected."""

    def images(self) -> SourceImages:
        """Yield images until the source ends. Raises CameraError, typed by its `fault`, where it does not open or fails on the way.

        Each call is a new connection with nothing left over of the one before. May block for as long as a driver does.
        """


class Camera(Protocol):
    """Frames to take. Reads from its construction until it is closed; every method is safe from any thread."""

    @property
    def name(self) -> str:
        """Name in outputs; without passwords."""

    @property
    def live(self) -> bool:
        """Whether it gives its newest frame; a recording gives every frame."""

    @property
    def fps(self) -> float:
        """Nominal frames per second."""

    def take(self) -> Frame | None:
        """Return the next frame, None where none is there now. Never blocks."""

    @property
    def status(self) -> CameraStatus:
        """How it is."""

    @property
    def remark(self) -> str | None:
        """What deserves a line once a recording has ended."""

    @property
    def error(self) -> Exception | None:
        """Why it is FAILED."""

    def stop(self) -> None:
        """Let it end soon; what was captured can still be taken from a recording. May be called from a signal handler."""

    def close(self) -> None:
        """Release what is held, in bounded time even where a driver hangs; may be called twice."""
