"""The whole stream at one moment, as the web page, metrics, logs and the watchdog see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from retinanet_edge.runtime.camera import CameraStatus
from retinanet_edge.runtime.detection_filter import DetectionFilter
from retinanet_edge.runtime.sink import SinkStatus


@dataclass(frozen=True)
class StreamStatus:
    """The stream at one moment.

    inferred: frames through the engine, failed: frames that the engine refused. seconds: since the start. rate: frames a second, lately.
    stage_ms: p50, p95, p99 of each stage, and of "latency", arrival until detections known. detections: how many so far, by class name.
    inferred_age_s: seconds since the engine last finished, None before it.
    """

    model: str
    engine: str
    seconds: float
    inferred: int
    failed: int
    rate: float
    inferred_age_s: float | None
    stage_ms: Mapping[str, tuple[float, float, float]]
    detections: Mapping[str, int]
    cameras: tuple[CameraStatus, ...]
    sinks: tuple[SinkStatus, ...]


class StreamControl(Protocol):
    """What may be seen and changed of a running stream, from any thread."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the model."""

    @property
    def least_threshold(self) -> float:
        """The model's built-in score threshold, below which nothing comes."""

    def status(self) -> StreamStatus:
        """Return how it is now."""

    @property
    def detection_filter(self) -> DetectionFilter:
        """What is kept of the detections."""

    def change_filter(self, wanted: DetectionFilter) -> list[str]:
        """Use another filter from the next frame on, and return warnings. Raises UserInputError for classes that the model lacks."""
