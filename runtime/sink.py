"""What a sink is: something that takes results, at its own pace, on a thread of its own (sink_runner.py)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.draw import draw_detections
from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.frame import Frame


@dataclass(frozen=True)
class FrameResult:
    """What the stream knows of one frame; shared by all sinks, changed by none.

    detections: filtered, best score first. latency_ms: from the frame's arrival until its detections were known. track_ids: int64 [M], -1
    for none, or None where nothing is tracked. events: what happened at lines and zones (regions.RegionEvent). counts: totals of lines and
    zones, ready for JSON. overlay: draws tracks and regions on the image, in place.
    """

    frame: Frame
    detections: Detections
    class_names: tuple[str, ...]
    latency_ms: float
    track_ids: NDArray[np.int64] | None = None
    events: tuple[object, ...] = ()
    counts: Mapping[str, object] = field(default_factory=dict)
    overlay: Callable[[NDArray[np.uint8]], None] | None = None
    _drawn: list[NDArray[np.uint8]] = field(default_factory=list, repr=False, compare=False)
    _drawing: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def drawn(self) -> NDArray[np.uint8]:
        """The image with its detections: drawn once, and only if a sink wants it. Not to be written to."""
        with self._drawing:
            if not self._drawn:
                drawn = draw_detections(self.frame.image, self.detections, self.class_names, self.track_ids, self.overlay)
                self._drawn.append(drawn)
            return self._drawn[0]


class SinkError(RetinaNetEdgeError):
    """A sink could not take a result (disk full, broker away); the next one may succeed. The message has no passwords in it."""


class Sink(Protocol):
    """Takes results in order. One thread calls it: `write` opens what is not open, also again after it failed."""

    @property
    def name(self) -> str:
        """Short and unique in a stream: "video", "jsonl", "mqtt"."""

    def write(self, result: FrameResult) -> None:
        """Take one result. Raises SinkError where it could not; may then be called with the next one."""

    def close(self) -> None:
        """Finish the output in bounded time; may be called twice. Raises SinkError where something could not be finished."""


@dataclass(frozen=True)
class SinkStatus:
    """A sink at one moment.

    written, dropped (its queue was full), failed (it raised SinkError): results so far. queued: waiting now. message: the last error while
    it lasts, None where all is well. age_ms: p50, p95, p99 of the age of frames when the sink was done with them; NaN before the first.
    """

    name: str
    written: int
    dropped: int
    failed: int
    queued: int
    message: str | None
    age_ms: tuple[float, float, float]
