"""Frames between the thread that reads a camera and the one that takes: the newest of a live one, every one of a recording."""

from __future__ import annotations

import threading
from collections import deque

from retinanet_edge.runtime.frame import Frame

_AHEAD = 4  # frames that a recording's reader may be


class Mailbox:
    """One reader puts, one consumer takes. A live camera replaces what nobody took, and counts it; a recording waits for room."""

    def __init__(self) -> None:
        self.dropped = 0
        self._closed = False
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()

    def replace(self, frame: Frame) -> None:
        """Leave the newest frame, in place of any other."""
        with self._changed:
            self._drop_all()
            self._frames.append(frame)

    def await_room(self) -> bool:
        """Wait until one more frame fits. Return False when nothing more is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._frames) < _AHEAD)
            return not self._closed

    def append(self, frame: Frame) -> None:
        """Leave a frame behind the others; see `await_room`."""
        with self._changed:
            self._frames.append(frame)

    def take(self) -> Frame | None:
        """Return the oldest frame that is there, None for none. Never waits."""
        with self._changed:
            self._changed.notify()
            return self._frames.popleft() if self._frames else None

    def close(self) -> None:
        """Let a reader wait no longer. What is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def clear(self) -> None:
        """Drop what is there."""
        with self._changed:
            self._drop_all()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._frames

    def _drop_all(self) -> None:
        self.dropped += len(self._frames)
        self._frames.clear()
