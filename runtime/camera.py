"""Where frames come from: the protocol that every source fulfils, and the choice of one for `--camera`.

Live cameras (a device index, a URL) give the newest frame and count what they drop: live_camera.py. Recordings (a video, images,
the demo's generated scenes) give every frame in order: recorded_camera.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.errors import CameraError

DEMO = "demo"
DEFAULT_FPS = 25.0  # of sources that have no time of their own: images and the demo


@dataclass(frozen=True)
class Frame:
    """One frame. image: uint8 [H, W, 3] BGR. index: from 0, with gaps where frames were dropped.

    timestamp_s: seconds, by the recording's own clock, or since the first frame of a live camera. arrived_s: time.perf_counter()
    when the decoded image was there, from which its latency counts.
    """

    image: NDArray[np.uint8]
    index: int
    timestamp_s: float
    arrived_s: float


class Camera(Protocol):
    """A source of frames, open from its construction until it is closed."""

    @property
    def name(self) -> str:
        """What it is, for people; without passwords."""

    @property
    def fps(self) -> float:
        """Nominal frames per second."""

    @property
    def dropped(self) -> int:
        """Frames that came but were overwritten by newer ones before anybody took them."""

    @property
    def remark(self) -> str | None:
        """What deserves a line once the frames have ended: a recording shorter than it says."""

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the recording ends or `stop` is called.

        Raises CameraError where a recording does not decode, RetinaNetEdgeError where a live camera goes away.
        """

    def stop(self) -> None:
        """Let `frames` end after the frame at hand. May be called from a signal handler."""

    def close(self) -> None:
        """Release what is held; may be called twice."""

    def __enter__(self) -> Camera: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_camera(source: str, fps: float = DEFAULT_FPS) -> Camera:
    """Open a device index, a video or image file, a folder of images, a URL, or "demo".

    fps: of images and the demo, which have no time of their own. Raises CameraError where there is nothing to open.
    """
    from retinanet_edge.runtime import live_camera, recorded_camera

    if source == DEMO:
        return recorded_camera.open_demo(fps)
    if device := re.fullmatch(r"(?:/dev/video)?(\d+)", source):
        return live_camera.open_device(int(device[1]))
    if "://" in source:
        return live_camera.open_url(source)
    path = Path(source)
    if path.is_dir():
        return recorded_camera.open_folder(path, fps)
    if not path.exists():
        raise CameraError(f"--camera must be a device index, a file, a folder, a URL or {DEMO}, got {source}, which does not exist")
    if path.suffix.lower() in recorded_camera.IMAGE_SUFFIXES:
        return recorded_camera.open_images([path], source, fps)
    return recorded_camera.open_video(source)
