"""Where images of a source become frames of a camera: checked, numbered, timed, counted, and left for whoever takes them."""

from __future__ import annotations

import threading
import time

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.camera import RestartLimits, Source, SourceImage
from retinanet_edge.runtime.frame import Frame
from retinanet_edge.runtime.frame_mailbox import Mailbox
from retinanet_edge.runtime.staleness import Staleness


class FrameIntake:
    """The frames of one camera over all of its connections, of which one at a time counts: what others give comes too late."""

    def __init__(self, camera: str, source: Source, limits: RestartLimits) -> None:
        self._camera, self._source, self._limits = camera, source, limits
        self.mailbox = Mailbox()
        self._lock = threading.Lock()
        self._open = False
        self._first_s: float | None = None
        self.connections = self.captured = self.failed = 0
        self.size: tuple[int, int] | None = None  # of the last frame: height, width
        self.changed_s: float | None = None  # when the last frame came that was unlike the one before it
        self.staleness = Staleness(limits, time.perf_counter())  # of the last connection

    def begin(self) -> int:
        """Begin a connection, and return its number, from 1."""
        with self._lock:
            self.connections += 1
            self._open = True
            self.staleness = Staleness(self._limits, time.perf_counter())
            return self.connections

    def end(self) -> None:
        """Take nothing more from the last connection."""
        with self._lock:
            self._open = False

    def add(self, connection: int, given: SourceImage) -> bool:
        """Take what a connection gives, and return whether somebody should look: at its first image, and when it repeats itself.

        Waits where the frames of a recording are not taken. What is no image of uint8 [H, W, 3] counts as failed.
        """
        arrived_s, usable = time.perf_counter(), _is_image(given.image)
        if usable and not self._source.live and not self.mailbox.await_room():
            return False
        with self._lock:
            if connection != self.connections or not self._open:
                return False
            self.failed += given.failed + (not usable)
            return usable and self._put(given, arrived_s)

    def _put(self, given: SourceImage, arrived_s: float) -> bool:
        began = self.staleness.began
        if self.staleness.add(given.image, arrived_s):
            self.changed_s = arrived_s
        self._first_s = arrived_s if self._first_s is None else self._first_s
        if self._source.live:
            self.mailbox.replace(self._frame(given.image, arrived_s - self._first_s, arrived_s))
        else:
            recorded_s = self.captured / self._source.fps if given.timestamp_s is None else given.timestamp_s
            self.mailbox.append(self._frame(given.image, recorded_s, arrived_s))
        self.size = given.image.shape[0], given.image.shape[1]
        self.captured += 1
        return not began or (self._source.live and self.staleness.repeats_itself)

    def _frame(self, image: NDArray[np.uint8], timestamp_s: float, arrived_s: float) -> Frame:
        return Frame(image, self.captured, timestamp_s, arrived_s, self._camera, time.time())


def _is_image(image: NDArray[np.uint8] | None) -> bool:
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0
