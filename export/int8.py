"""The INT8 model of a folder and its verdict: calibrate, quantize, measure AP of FP32 and INT8 on the same images, decide."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.export.build import Int8Options
from retinanet_edge.export.quantize import quantize
from retinanet_edge.runtime.accuracy import check_classes
from retinanet_edge.runtime.coco import measure_accuracy
from retinanet_edge.runtime.dataset import Sample, read_dataset, read_image
from retinanet_edge.runtime.dataset_images import IMAGE_SUFFIXES, read_header, read_image_file
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.model_card import Accuracy, Calibration, Int8Record, ModelCard, Precision, Verdict
from retinanet_edge.runtime.model_folder import (
    INT8_FILE,
    ONNX_FILE,
    atomic_path,
    data_of_card,
    file_sha256,
    vouched_file,
)  # fmt: skip
from retinanet_edge.runtime.openvino_engine import OpenVINOEngine
from retinanet_edge.runtime.progress import track


def make_int8(folder: Path, card: ModelCard, options: Int8Options) -> ModelCard:
    """Write model.int8.onnx once both precisions are measured; return the card with figures and verdict, for the caller to write.

    Whatever fails on the way, the former model.int8.onnx stays.
    """
    source = vouched_file(folder, ONNX_FILE, card.onnx.sha256 if card.onnx else None)
    dataset = read_dataset(options.data or data_of_card(folder, card))
    check_classes(dataset, card)
    images, data_hash = _calibration_images(card, dataset.train, options)
    print(f"calibrating on {len(images)} images ({options.method})", flush=True)
    with atomic_path(folder / INT8_FILE) as temporary:
        quantize(source, temporary, images, options.method)
        fp32 = _measure(card, source, "fp32", dataset.val)  # again even if the card has it, perhaps of other images
        int8 = _measure(card, temporary, "int8", dataset.val)
    calibration = Calibration(options.method, len(images), data_hash, options.seed)
    record = Int8Record(int8.file_sha256, fp32.file_sha256, calibration)
    drop = fp32.ap - int8.ap
    verdict = Verdict(drop <= options.max_ap_drop, drop, options.max_ap_drop, record.sha256, forced=False)
    kept = tuple(engine for engine in card.engines if engine.precision != "int8")  # theirs was another model.int8.onnx
    card = dataclasses.replace(card, int8=record, verdict=verdict, engines=kept)
    return card.with_accuracy(fp32).with_accuracy(int8)


def _calibration_images(
    card: ModelCard, samples: Sequence[Sample], options: Int8Options
) -> tuple[list[NDArray[np.uint8]], str]:
    """Return letterboxed images uint8 [H, W, 3], a seeded choice, and a hash over their pixels."""
    if options.calibration is not None:
        frames = _read_folder(options.calibration)
    else:
        frames = [functools.partial(read_image, sample) for sample in samples]
    order = np.random.default_rng(options.seed).permutation(len(frames))[: options.images]
    images, digest = [], hashlib.sha256()
    for index in track(order.tolist(), "reading calibration images"):
        frame = frames[index]()
        height, width = frame.shape[:2]
        images.append(Letterbox(height, width, card.input.height, card.input.width).apply(frame))
        digest.update(images[-1].tobytes())
    return images, digest.hexdigest()


def _read_folder(folder: Path) -> list[Callable[[], NDArray[np.uint8]]]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    if not paths:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise UserInputError(f"--calibration must be a folder with images ({suffixes}), found none in {folder}")
    for path in paths:
        read_header(path)  # a file that is cut off would decode, its rest in grey
    return [functools.partial(read_image_file, path) for path in paths]


def _measure(card: ModelCard, file: Path, precision: Precision, samples: Sequence[Sample]) -> Accuracy:
    """Return AP of an ONNX file on the validation split, by the CPU backend."""
    with OpenVINOEngine(file, card, precision) as engine:
        metrics, _ = measure_accuracy(engine, card, samples, card.classes, f"AP of {precision}")
    return Accuracy(
        precision, engine.backend, "val", len(samples), metrics.ap, metrics.ap50, metrics.ap75, file_sha256(file)
    )
