"""Counts what a stream does, and shows and changes it from any thread: the StreamControl of stream_status.py."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from retinanet_edge.runtime.camera import Camera, CameraStatus
from retinanet_edge.runtime.detection_filter import DetectionFilter
from retinanet_edge.runtime.frame_analysis import Analysis
from retinanet_edge.runtime.latency import LatencyHistogram
from retinanet_edge.runtime.sink import FrameResult
from retinanet_edge.runtime.sink_runner import SinkRunner
from retinanet_edge.runtime.stream_status import StreamStatus

_RATE_SECONDS = 5.0  # "lately"
PERCENTS = (50, 95, 99)


class StreamMonitor:
    """Counts a stream's frames and times in bounded memory.

    cameras' counters begin with `start`: what came while the model was loaded is nobody's loss.
    """

    def __init__(
        self, model: str, engine: str, class_names: tuple[str, ...], least_threshold: float, cameras: Sequence[Camera],
        runners: Sequence[SinkRunner], analyses: Sequence[Analysis],
    ) -> None:  # fmt: skip
        self.class_names, self.least_threshold = class_names, least_threshold
        self._model, self._engine = model, engine
        self._cameras, self._runners, self._analyses = cameras, runners, analyses
        self._lock = threading.Lock()
        self._inferred = self._failed = 0
        self._detections: Counter[str] = Counter()
        self._stages: dict[str, LatencyHistogram] = {}
        self._lately: deque[tuple[float, int]] = deque()
        self.start()

    def start(self) -> None:
        """Begin to count: the model is loaded."""
        self._started, self._ended, self._inferred_at = time.monotonic(), math.nan, math.nan
        self._at_end: tuple[CameraStatus, ...] | None = None
        self._before = {camera.name: camera.status for camera in self._cameras if camera.live}

    def end(self) -> None:
        """Stop the clock, and note how the cameras are: what follows is closing."""
        self._ended = time.monotonic()
        self._at_end = self._camera_status()

    def count_inferred(self, frames: int) -> None:
        """Count frames that the engine has done."""
        with self._lock:
            now = self._inferred_at = time.monotonic()
            self._inferred += frames
            self._lately.append((now, frames))
            self._forget(now)

    def count_failed(self, frames: int) -> None:
        """Count frames that the engine refused."""
        with self._lock:
            self._failed += frames

    def count_finished(self, result: FrameResult, stage_ms: Mapping[str, float]) -> None:
        """Count one frame's detections and times."""
        with self._lock:
            self._detections.update(self.class_names[index] for index in result.detections.classes)
            for stage, milliseconds in {**stage_ms, "latency": result.latency_ms}.items():
                self._stages.setdefault(stage, LatencyHistogram()).add(milliseconds)

    def status(self) -> StreamStatus:
        """Return how the stream is now."""
        now = time.monotonic() if math.isnan(self._ended) else self._ended
        with self._lock:
            self._forget(now)
            span = min(_RATE_SECONDS, now - self._started)
            return StreamStatus(
                model=self._model, engine=self._engine, seconds=now - self._started, inferred=self._inferred, failed=self._failed,
                rate=sum(frames for _, frames in self._lately) / span if span else 0.0,
                inferred_age_s=None if math.isnan(self._inferred_at) else now - self._inferred_at,
                stage_ms={name: _percentiles(times) for name, times in self._stages.items()},
                detections=dict(self._detections.most_common()),
                cameras=self._camera_status() if self._at_end is None else self._at_end,
                sinks=tuple(runner.status for runner in self._runners),
            )  # fmt: skip

    @property
    def inferred(self) -> int:
        """Frames that the engine has done."""
        return self._inferred

    @property
    def detection_filter(self) -> DetectionFilter:
        """What is kept of the detections."""
        return self._analyses[0].settings

    def change_filter(self, wanted: DetectionFilter) -> list[str]:
        """Use another filter from the next frame on, and return warnings. Raises UserInputError for classes that the model lacks."""
        warnings = wanted.resolved(self.class_names, self.least_threshold).warnings
        for analysis in self._analyses:
            analysis.settings = wanted
        return list(warnings)

    def _forget(self, now: float) -> None:
        while self._lately and now - self._lately[0][0] > _RATE_SECONDS:
            self._lately.popleft()

    def _camera_status(self) -> tuple[CameraStatus, ...]:
        return tuple(self._since_start(camera.status) for camera in self._cameras)

    def _since_start(self, status: CameraStatus) -> CameraStatus:
        if (before := self._before.get(status.name)) is None:
            return status
        return replace(status, captured=status.captured - before.captured, dropped=status.dropped - before.dropped)


def _percentiles(times: LatencyHistogram) -> tuple[float, float, float]:
    p50, p95, p99 = (times.percentile(percent) for percent in PERCENTS)
    return p50, p95, p99
