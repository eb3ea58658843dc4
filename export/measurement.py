"""What one ONNX file finds on the validation split by the CPU backend, and how long a call of it takes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retinanet_edge.runtime.coco import CocoMetrics, measure_accuracy
from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.model_card import Accuracy, ModelCard, Precision
from retinanet_edge.runtime.model_folder import file_sha256
from retinanet_edge.runtime.openvino_engine import OpenVINOEngine

_TIMED_CALLS = 9


@dataclass(frozen=True)
class Measurement:
    """Figures for the card, all figures, the detections of each sample, and the network's milliseconds a call, half of the calls'."""

    accuracy: Accuracy
    metrics: CocoMetrics
    found: list[Detections]
    milliseconds: float


def measure(card: ModelCard, file: Path, precision: Precision, samples: Sequence[Sample]) -> Measurement:
    """Run an ONNX file on samples with objects. Raises DatasetError where an image does not decode."""
    with OpenVINOEngine(file, card, precision) as engine:
        metrics, found = measure_accuracy(engine, card, samples, card.classes, f"AP of {precision}")
        blank = np.zeros((1, card.input.height, card.input.width, 3), np.uint8)
        milliseconds = statistics.median(engine.infer(blank).stage_ms["network"] for _ in range(_TIMED_CALLS))
    accuracy = Accuracy(precision, engine.backend, "val", len(samples), metrics.ap, metrics.ap50, metrics.ap75, file_sha256(file))
    return Measurement(accuracy, metrics, found, milliseconds)
