"""The INT8 model of a folder and its verdict: calibrate, quantize, measure AP of FP32 and INT8 on the same images, decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.export.build import Int8Options
from retinanet_edge.export.calibration_images import CalibrationImages, choose_images
from retinanet_edge.export.layer_search import search
from retinanet_edge.export.learned_ranges import against_original, learned_calibration, learned_plan, plan_of, quantize_as_learned
from retinanet_edge.export.measurement import Measurement, measure
from retinanet_edge.export.quantize import quantize
from retinanet_edge.export.search_picture import write_search_picture
from retinanet_edge.export.verdict import comparison_table, make_verdict, unmeasured
from retinanet_edge.runtime.accuracy import check_classes
from retinanet_edge.runtime.dataset import Dataset, Sample, has_objects, read_dataset
from retinanet_edge.runtime.errors import DatasetError
from retinanet_edge.runtime.model_card import Calibration, Int8Record, ModelCard
from retinanet_edge.runtime.model_folder import (
    INT8_FILE,
    ONNX_FILE,
    atomic_path,
    data_of_card,
    file_sha256,
    vouched_file,
)  # fmt: skip
from retinanet_edge.runtime.quantization_plan import LEARNED_RANGES_FILE, QUANTIZATION_FILE, write_plan


def make_int8(folder: Path, card: ModelCard, options: Int8Options) -> ModelCard:
    """Write model.int8.onnx once both precisions are measured; return the card with figures and verdict, for the caller to write.

    With `options.search` whether to equalize, and the layers that stay out of INT8, are looked for, else they are the card's, where it has
    that for its model.onnx. With `options.learned`, where fine-tuning has left ranges and layers, these are taken. Whatever fails on the
    way, the former model.int8.onnx stays. Where the validation split has no objects there is nothing to measure: DatasetError, or with
    `options.force` a card whose verdict says so.
    """
    source = vouched_file(folder, ONNX_FILE, card.onnx.sha256 if card.onnx else None)
    dataset = read_dataset(options.data or data_of_card(folder, card), objects_in=())
    check_classes(dataset, card)
    measurable = _is_measurable(dataset, options)
    assert card.onnx is not None
    learned = learned_plan(folder, card) if options.learned else None
    images: Sequence[NDArray[np.uint8]]
    images, calibration = _choose_images(dataset, card, options) if learned is None else ((), learned_calibration(card))
    found = measured = None
    with atomic_path(folder / INT8_FILE) as temporary:
        if learned is not None:
            print("taking the ranges that fine-tuning has learned (--recalibrate measures others)", flush=True)
            kept, equalized = quantize_as_learned(source, temporary, learned), False
            measured = _measure_both(card, source, temporary, dataset.val) if measurable else None
        elif options.search:
            found = search(
                source, temporary, images, options.method, lambda file, precision: measure(card, file, precision, dataset.val),
                options.max_ap_drop, card.nms.score_threshold, equalize=_may_equalize(folder),
            )  # fmt: skip
            kept, equalized, measured = found.kept, found.equalized, (found.fp32, found.int8)
        else:
            kept, equalized = _as_in_card(card)
            quantize(source, temporary, images, options.method, kept, equalize=equalized)
            measured = _measure_both(card, source, temporary, dataset.val) if measurable else None
        sha256 = file_sha256(temporary)
        record = Int8Record(sha256, card.onnx.sha256, calibration, kept, equalized)
        made = dataclasses.replace(_without_int8(card), int8=record, verdict=unmeasured(options.max_ap_drop, sha256))
        if measured is not None:
            made = _compared(made, *measured, dataset.val, options.max_ap_drop)
        original_ap = None  # of FP32 on the card's own data
        if measured is not None and card.dataset is not None and dataset.sha256 == card.dataset.sha256:
            original_ap = measured[0].metrics.ap if learned is None else learned.fp32_ap
            made = _judged_against(made, measured[0].metrics.ap, original_ap)
        with TemporaryDirectory() as scratch:
            ranged = temporary
            if equalized:
                print("calibrating once more, as the channels were: train.py --qat trains these", flush=True)
                ranged = Path(scratch) / INT8_FILE
                quantize(source, ranged, images, options.method, kept)
            plan = plan_of(source, ranged, kept, card.onnx.weights_sha256, original_ap)
    write_plan(folder / QUANTIZATION_FILE, plan)
    if found is not None and (found.kept or found.equalized):
        print(f"wrote {write_search_picture(folder, found, options.max_ap_drop)}")
    return made


def _choose_images(dataset: Dataset, card: ModelCard, options: Int8Options) -> tuple[CalibrationImages, Calibration]:
    """Return the images to calibrate on and what the card says of them."""
    images = choose_images(options.calibration or dataset.train, card.input, options.images, options.seed)
    data_hash = images.sha256()  # reads them all: a broken one is found before the long part
    print(f"calibrating on {len(images)} images ({options.method})", flush=True)
    return images, Calibration(options.method, len(images), data_hash, options.seed)


def _may_equalize(folder: Path) -> bool:
    if not (folder / LEARNED_RANGES_FILE).is_file():
        return True
    print("not equalizing channels: train.py --qat has fitted the weights to INT8 as they are", flush=True)
    return False


def _as_in_card(card: ModelCard) -> tuple[tuple[str, ...], bool]:
    """Return the layers to keep and whether to equalize, as an earlier search found for the same model.onnx."""
    assert card.onnx is not None
    if card.int8 is None or card.int8.source_sha256 != card.onnx.sha256:
        return (), False
    if card.int8.equalized:
        print("equalizing channels, as in the card (--search looks again)", flush=True)
    if card.int8.kept:
        print(f"kept out of INT8, as in the card (--search looks for them again): {', '.join(card.int8.kept)}", flush=True)
    return card.int8.kept, card.int8.equalized


def _without_int8(card: ModelCard) -> ModelCard:
    """Return the card without what came of the former model.int8.onnx."""
    engines = tuple(engine for engine in card.engines if engine.precision != "int8")
    return dataclasses.replace(card, engines=engines, accuracy=tuple(found for found in card.accuracy if found.precision != "int8"))


def _measure_both(card: ModelCard, source: Path, quantized: Path, samples: Sequence[Sample]) -> tuple[Measurement, Measurement]:
    # FP32 again even if the card has it, perhaps of other images.
    return measure(card, source, "fp32", samples), measure(card, quantized, "int8", samples)


def _compared(card: ModelCard, fp32: Measurement, int8: Measurement, samples: Sequence[Sample], max_ap_drop: float) -> ModelCard:
    """Print the table of both precisions and return the card with figures and verdict."""
    heading = f"{len(samples)} validation images, {int8.accuracy.backend}:"
    print(heading, *comparison_table(fp32.metrics, int8.metrics), sep="\n", flush=True)
    verdict = make_verdict(samples, (fp32.metrics, fp32.found), (int8.metrics, int8.found), max_ap_drop, int8.accuracy.file_sha256)
    return dataclasses.replace(card, verdict=verdict).with_accuracy(fp32.accuracy).with_accuracy(int8.accuracy)


def _judged_against(card: ModelCard, fp32_ap: float, original_ap: float | None) -> ModelCard:
    """Return the card with the verdict against the model before fine-tuning, where it is known and another."""
    assert card.verdict is not None
    if original_ap is None or original_ap == fp32_ap:
        return card
    print(f"before fine-tuning FP32 had AP {original_ap:.4f}, against which INT8 is judged", flush=True)
    return dataclasses.replace(card, verdict=against_original(card.verdict, fp32_ap, original_ap))


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
