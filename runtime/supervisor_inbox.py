"""What wakes a supervising thread: news from its readers, or the wish that it stops, which a signal handler may express."""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue


class Stopped(Exception):  # noqa: N818, no error
    """Somebody wants it to stop."""


class SupervisorInbox:
    """Any thread may write, one waits. A SimpleQueue, as its put() never waits for a lock that the interrupted thread may hold."""

    def __init__(self) -> None:
        self._stops: SimpleQueue[bool] = SimpleQueue()

    def wake(self) -> None:
        """Let it look at what has changed."""
        self._stops.put(False)

    def stop(self) -> None:
        """Let it stop. May be called from a signal handler."""
        self._stops.put(True)

    def sleep(self, timeout_s: float | None) -> None:
        """Wait until woken, for so long at most; None: for ever. Raises Stopped."""
        try:
            stop = self._stops.get(timeout=timeout_s)
        except Empty:
            return
        if stop:
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Wait for so long, whatever the news. Raises Stopped."""
        end_s = time.perf_counter() + seconds
        while (left_s := end_s - time.perf_counter()) > 0:
            self.sleep(left_s)
