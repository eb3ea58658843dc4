"""The newest result of each camera, kept for the web page: a sink that holds one frame a camera and never waits for anybody."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from retinanet_edge.runtime.sink import FrameResult

_RECENT = 256  # results: about ten seconds of one camera


class Numbered(NamedTuple):
    """A result and its place in the order of arrival of its camera's results, from 1."""

    number: int
    result: FrameResult


class LatestFrames:
    """A sink that keeps the newest result of each camera. Every method is safe from any thread."""

    name = "web"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[str, Numbered] = {}
        self._listeners: list[Callable[[FrameResult], None]] = []
        self._recent_ms: deque[float] = deque(maxlen=_RECENT)

    def write(self, result: FrameResult) -> None:
        """Keep a result in place of its camera's last one, and tell who listens."""
        camera = result.frame.camera
        with self._lock:
            before = self._newest.get(camera)
            self._newest[camera] = Numbered(before.number + 1 if before else 1, result)
            self._recent_ms.append(result.latency_ms)
            for listener in self._listeners:
                listener(result)

    def close(self) -> None:
        """Do nothing: the last frames stay to be seen."""

    def newest(self, camera: str) -> Numbered | None:
        """Return a camera's newest result, None before its first."""
        with self._lock:
            return self._newest.get(camera)

    def recent_latency_ms(self) -> tuple[float, float, float]:
        """Return p50, p95, p99 of the latency of the last 256 results of all cameras; NaN before the first."""
        with self._lock:
            recent = list(self._recent_ms) or [np.nan]
        p50, p95, p99 = np.percentile(recent, (50, 95, 99), method="inverted_cdf")
        return float(p50), float(p95), float(p99)

    @contextmanager
    def listening(self, listener: Callable[[FrameResult], None]) -> Iterator[None]:
        """Have `listener` called, on the thread that writes, with each result from now on until the context ends. It must not block."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)
