"""The INT8 model of a folder and its verdict: calibrate, quantize, measure AP of FP32 and INT8 on the same images, decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retinanet_edge.export.build import Int8Options
from retinanet_edge.export.calibration_images import choose_images
from retinanet_edge.export.quantize import quantize
from retinanet_edge.export.verdict import comparison_table, make_verdict, unmeasured
from retinanet_edge.runtime.accuracy import check_classes
from retinanet_edge.runtime.coco import CocoMetrics, measure_accuracy
from retinanet_edge.runtime.dataset import Dataset, Sample, has_objects, read_dataset
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import DatasetError
from retinanet_edge.runtime.model_card import Accuracy, Calibration, Int8Record, ModelCard, Precision
from retinanet_edge.runtime.model_folder import (
    INT8_FILE,
    ONNX_FILE,
    atomic_path,
    data_of_card,
    file_sha256,
    vouched_file,
)  # fmt: skip
from retinanet_edge.runtime.openvino_engine import OpenVINOEngine


def make_int8(folder: Path, card: ModelCard, options: Int8Options) -> ModelCard:
    """Write model.int8.onnx once both precisions are measured; return the card with figures and verdict, for the caller to write.

    Whatever fails on the way, the former model.int8.onnx stays. Where the validation split has no objects there is nothing to measure:
    DatasetError, or with `options.force` a card whose verdict says so.
    """
    source = vouched_file(folder, ONNX_FILE, card.onnx.sha256 if card.onnx else None)
    dataset = read_dataset(options.data or data_of_card(folder, card), objects_in=())
    check_classes(dataset, card)
    measurable = _is_measurable(dataset, options)
    images = choose_images(options.calibration or dataset.train, card.input, options.images, options.seed)
    data_hash = images.sha256()  # reads them all: a broken one is found before the long part
    print(f"calibrating on {len(images)} images ({options.method})", flush=True)
    assert card.onnx is not None
    kept = tuple(engine for engine in card.engines if engine.precision != "int8")  # theirs was another model.int8.onnx
    judged = dataclasses.replace(card, engines=kept, accuracy=tuple(found for found in card.accuracy if found.precision != "int8"))
    with atomic_path(folder / INT8_FILE) as temporary:
        quantize(source, temporary, images, options.method)
        sha256 = file_sha256(temporary)
        record = Int8Record(sha256, card.onnx.sha256, Calibration(options.method, len(images), data_hash, options.seed))
        judged = dataclasses.replace(judged, int8=record, verdict=unmeasured(options.max_ap_drop, sha256))
        if measurable:
            judged = _compared(judged, source, temporary, dataset.val, options.max_ap_drop)
    return judged


def _compared(card: ModelCard, source: Path, quantized: Path, samples: Sequence[Sample], max_ap_drop: float) -> ModelCard:
    """Measure both precisions, print the table, and return the card with figures and verdict."""
    # FP32 again even if the card has it, perhaps of other images.
    fp32, int8 = _measure(card, source, "fp32", samples), _measure(card, quantized, "int8", samples)
    heading = f"{len(samples)} validation images, {int8.accuracy.backend}:"
    print(heading, *comparison_table(fp32.metrics, int8.metrics), sep="\n", flush=True)
    verdict = make_verdict(samples, (fp32.metrics, fp32.found), (int8.metrics, int8.found), max_ap_drop, int8.accuracy.file_sha256)
    return dataclasses.replace(card, verdict=verdict).with_accuracy(fp32.accuracy).with_accuracy(int8.accuracy)


def _is_measurable(dataset: Dataset, options: Int8Options) -> bool:
    """Say whether AP can be measured. Raises DatasetError where it cannot and INT8 is not forced."""
    if has_objects(dataset.val):
        return True
    if not options.force:
        raise DatasetError(
            f"{dataset.root} must have at least one object on its validation images for a verdict on INT8, got {len(dataset.val)} images "
            "without any: give labelled data with --data PATH, or accept INT8 unmeasured with --force"
        )
    print(f"no verdict: none of the {len(dataset.val)} validation images has an object, INT8 stays unmeasured", flush=True)
    return False


@dataclass(frozen=True)
class _Measured:
    """What one ONNX file found on the validation split."""

    accuracy: Accuracy
    metrics: CocoMetrics
    found: list[Detections]


def _measure(card: ModelCard, file: Path, precision: Precision, samples: Sequence[Sample]) -> _Measured:
    """Run an ONNX file on the validation split by the CPU backend."""
    with OpenVINOEngine(file, card, precision) as engine:
        metrics, found = measure_accuracy(engine, card, samples, card.classes, f"AP of {precision}")
    accuracy = Accuracy(precision, engine.backend, "val", len(samples), metrics.ap, metrics.ap50, metrics.ap75, file_sha256(file))
    return _Measured(accuracy, metrics, found)
