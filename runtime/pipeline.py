"""Frames to results in three stages that overlap: prepare (gather, letterbox), infer, finish (boxes, analysis, sinks).

While the engine works on one batch, the next is prepared and the one before is finished. Between two stages is a slot for one batch. A
batch is gathered only when its slot is empty, and of live cameras just before the engine is free again (pacing.py): a frame never waits
longer for the engine than the engine takes for one, and usually a few milliseconds.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from retinanet_edge.runtime.detector import Detector, InferredFrames, PreparedFrames
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.frame import Frame
from retinanet_edge.runtime.frame_analysis import Analysis
from retinanet_edge.runtime.frame_gather import FrameGather
from retinanet_edge.runtime.handoff import Handoff
from retinanet_edge.runtime.pacing import Pacing
from retinanet_edge.runtime.sink import FrameResult
from retinanet_edge.runtime.sink_runner import SinkRunner
from retinanet_edge.runtime.stream_monitor import StreamMonitor

_LOG = logging.getLogger("retinanet_edge.stream")
_ENGINE_FAILURES = 3  # in a row, after which the engine counts as broken: the process has to begin anew


@dataclass(frozen=True)
class _Prepared:
    frames: list[Frame]
    prepared: PreparedFrames
    wait_ms: float


@dataclass(frozen=True)
class _Inferred:
    frames: list[Frame]
    inferred: InferredFrames
    wait_ms: float


class Pipeline:
    """Takes frames through the detector to the sinks. The engine runs in the thread that calls `run`."""

    def __init__(
        self, gather: FrameGather, detector: Detector, analyses: Mapping[str, Analysis], runners: Sequence[SinkRunner],
        monitor: StreamMonitor,
    ) -> None:  # fmt: skip
        self._gather, self._detector, self._analyses, self._runners, self._monitor = gather, detector, analyses, runners, monitor
        self._pacing = Pacing()
        self._prepared: Handoff[_Prepared] = Handoff()
        self._inferred: Handoff[_Inferred] = Handoff()

    def run(self, limit: int | None = None) -> None:
        """Work until no camera gives anything, `limit` frames are through, or the gather is stopped.

        Every frame that was taken reaches the sinks' queues. Raises EngineError where the engine fails several times in a row.
        """
        with ThreadPoolExecutor(2, "stream") as threads:
            stages = threads.submit(self._prepare, limit), threads.submit(self._finish)
            try:
                self._infer()
            finally:
                self._gather.stop()
                self._prepared.abandon()
                self._inferred.finish()
        for stage in stages:
            stage.result()

    def _prepare(self, limit: int | None) -> None:
        buffers = itertools.cycle((self._detector.input_buffer(), self._detector.input_buffer()))  # one is filled while one is used
        try:
            while limit != 0 and self._prepared.wait_for_room():
                asked = time.perf_counter()
                self._gather.wait(self._pacing.pause_s())
                frames = self._gather.next()[:limit]
                if not frames:
                    return
                gathered = time.perf_counter()
                wait_ms = (gathered - asked) * 1e3
                prepared = self._detector.prepare([frame.image for frame in frames], next(buffers))
                self._pacing.prepared(time.perf_counter() - gathered)
                self._prepared.put(_Prepared(frames, prepared, wait_ms))
                if limit is not None:
                    limit -= len(frames)
        finally:
            self._prepared.finish()

    def _infer(self) -> None:
        failures = 0
        for batch in self._prepared:
            self._pacing.engine_begins()
            try:
                inferred = self._detector.infer(batch.prepared)
            except EngineError as error:
                failures += 1
                self._monitor.count_failed(len(batch.frames))
                _LOG.error("the engine failed on a frame: %s", error)
                if failures == _ENGINE_FAILURES:
                    raise
                continue
            finally:
                self._pacing.engine_ends()
            failures = 0
            self._monitor.count_inferred(len(batch.frames))
            if not self._inferred.wait_for_room():
                return
            self._inferred.put(_Inferred(batch.frames, inferred, batch.wait_ms))

    def _finish(self) -> None:
        try:
            for batch in self._inferred:
                self._finish_batch(batch)
        finally:
            self._inferred.abandon()

    def _finish_batch(self, batch: _Inferred) -> None:
        found = self._detector.finish(batch.inferred)
        stage_ms = {"wait": batch.wait_ms, **found.stage_ms}
        for frame, detections in zip(batch.frames, found.detections, strict=True):
            start = time.perf_counter()
            analysed = self._analyses[frame.camera].apply(detections, frame.timestamp_s, frame.image.shape[:2])
            done = time.perf_counter()
            result = FrameResult(
                frame, analysed.detections, self._detector.classes, (done - frame.arrived_s) * 1e3,
                analysed.track_ids, analysed.events, analysed.counts, analysed.overlay,
            )  # fmt: skip
            self._monitor.count_finished(result, {**stage_ms, "analysis": (done - start) * 1e3})
            for runner in self._runners:
                runner.put(result)
