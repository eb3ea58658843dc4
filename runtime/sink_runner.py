"""A sink on a thread and a bounded queue of its own: what one of them suffers, neither the engine nor the others feel."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from retinanet_edge.runtime.latency import LatencyHistogram
from retinanet_edge.runtime.sink import FrameResult, Sink, SinkError, SinkStatus

_LOG = logging.getLogger("retinanet_edge.sink")
_SAY_AGAIN_S = 60.0
_PERCENTS = (50, 95, 99)


class SinkRunner:
    """Feeds one sink from a queue of `capacity` results; every method is safe from any thread.

    A full queue drops its oldest result, so that a sink that comes back begins with what is new. With `lossless`, for recordings, where
    nothing live waits, `put` first waits up to `patience_s` for room; having waited in vain, not again before the sink has taken something.
    on_death: called where the sink raised what is no SinkError, a mistake in this program that only a new process mends.
    """

    def __init__(
        self, sink: Sink, *, capacity: int = 30, lossless: bool = False, patience_s: float = 10.0,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._sink, self._capacity, self._lossless, self._patience_s = sink, capacity, lossless, patience_s
        self._changed = threading.Condition()
        self._queue: deque[FrameResult] = deque()
        self._written = self._dropped = self._failed = 0
        self._age = LatencyHistogram()
        self._busy_since: float | None = None  # None: waits for a result
        self._progress_at = time.monotonic()
        self._message: str | None = None
        self._on_death, self.died = on_death, False
        self._closing = self._ended = self._lost_patience = False
        self._failing, self._dropping = _Trouble(sink.name), _Trouble(sink.name)
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def put(self, result: FrameResult) -> None:
        """Queue one result for the sink."""
        with self._changed:
            if self._lossless and not self._lost_patience:
                self._lost_patience = not self._changed.wait_for(self._has_room, self._patience_s)
            if self._closing or self._ended:
                self._dropped += 1
                return
            if len(self._queue) >= self._capacity:
                self._queue.popleft()
                self._dropped += 1
                self._dropping.say(f"too slow: drops results, {self._dropped} so far")
            self._queue.append(result)
            self._changed.notify_all()

    @property
    def status(self) -> SinkStatus:
        """How it is now. A sink that holds one result for longer than the patience says so in the message."""
        with self._changed:
            message, now = self._message, time.monotonic()
            if message is None and self._busy_since is not None and now - self._busy_since > self._patience_s:
                message = f"hangs: busy with one result for {now - self._busy_since:.0f} s"
            p50, p95, p99 = (self._age.percentile(percent) for percent in _PERCENTS)
            return SinkStatus(
                self._sink.name, self._written, self._dropped, self._failed, len(self._queue), message, (p50, p95, p99)
            )

    def close(self, timeout_s: float = 10.0) -> None:
        """Let the sink take what is queued, and close it on its own thread; may be called twice.

        What is not taken after `timeout_s` (lossless: since the sink last took something) is dropped. A sink that does not end within
        another `timeout_s` is left behind on its thread, which ends with the process.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._wait_for_end(timeout_s, extends=self._lossless)
            self._dropped += len(self._queue)
            self._queue.clear()
            self._wait_for_end(timeout_s)
            if self._ended:
                return
            self._ended = True
            self._dropped += self._busy_since is not None
            self._message = f"left behind: did not end within {timeout_s:g} s"
            _LOG.warning("%s: %s", self._sink.name, self._message)

    def _has_room(self) -> bool:
        return len(self._queue) < self._capacity or self._closing or self._ended

    def _wait_for_end(self, timeout_s: float, *, extends: bool = False) -> None:
        asked_at = time.monotonic()
        while not self._ended:
            begin = max(asked_at, self._progress_at) if extends else asked_at
            left_s = begin + timeout_s - time.monotonic()
            if left_s <= 0:
                return
            self._changed.wait(left_s)

    def _run(self) -> None:
        message: str | None = "stopped by an unexpected error, which stands on stderr"
        try:
            while (result := self._next()) is not None:
                self._write(result)
            message = None
        finally:
            if message is not None:
                self.died = True
                self._on_death()
            message = self._close_sink() or message
            with self._changed:
                if not self._ended:  # else left behind: counted already
                    self._message = message or self._message
                    self._dropped += len(self._queue) + (self._busy_since is not None)
                    self._queue.clear()
                self._busy_since, self._ended = None, True
                self._changed.notify_all()

    def _next(self) -> FrameResult | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return None
            self._busy_since = time.monotonic()
            result = self._queue.popleft()
            self._changed.notify_all()
            return result

    def _write(self, result: FrameResult) -> None:
        message = None
        try:
            self._sink.write(result)
        except SinkError as error:
            message = str(error)
        with self._changed:
            if self._ended:  # left behind: counted as dropped
                return
            self._progress_at, self._busy_since, self._lost_patience = time.monotonic(), None, False
            self._message = message
            self._changed.notify_all()
            if message is not None:
                self._failed += 1
                self._failing.say(message)
                return
            self._written += 1
            self._age.add((time.perf_counter() - result.frame.arrived_s) * 1e3)
            self._failing.over(f"recovered, {self._failed} results failed so far")

    def _close_sink(self) -> str | None:
        try:
            self._sink.close()
        except SinkError as error:
            _LOG.warning("%s: %s", self._sink.name, error)
            return str(error)
        return None


class _Trouble:
    """Logs a trouble at most once a minute, and its end if its beginning was logged."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said_at = -_SAY_AGAIN_S
        self._open = False

    def say(self, message: str) -> None:
        now = time.monotonic()
        if now - self._said_at >= _SAY_AGAIN_S:
            self._said_at, self._open = now, True
            _LOG.warning("%s: %s", self._name, message)

    def over(self, message: str) -> None:
        if self._open:
            self._open = False
            _LOG.info("%s: %s", self._name, message)
