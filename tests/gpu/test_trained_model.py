"""Engines of a trained model: AP on its validation images against ONNX Runtime on the ONNX file that each was built of.

GPU_TEST_MODEL names the model folder, exported and with model.int8.onnx, made where there is torch (docs/gpu-checks.md);
GPU_TEST_DATA its data set, where that is not at the place that the card names.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retinanet_edge.runtime.coco import measure_accuracy
from retinanet_edge.runtime.dataset import Sample, read_dataset
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.engine import Inference, open_engine
from retinanet_edge.runtime.model_card import ModelCard, Precision
from retinanet_edge.runtime.model_folder import INT8_FILE, ONNX_FILE, data_of_card, find_model_folder, read_card, vouched_file, write_card
from tests.conftest import Commands

NEEDED = ("onnxruntime", "pycocotools", "cv2", "PIL")
MOST_IMAGES = 200
LEAST_AP = 0.2  # of model.onnx: less was not trained, and says little of precisions
# AP that an engine may lose to ONNX Runtime on the file it was built of, and greatest difference in score, least IoU of the same detection.
LIMITS = {"fp32": (0.001, 0.005, 0.95), "fp16": (0.005, 0.05, 0.85), "int8": (0.01, 0.15, 0.7)}


@dataclass(frozen=True)
class Trained:
    """A copy of the model with engines of every precision, and its validation images."""

    folder: Path
    card: ModelCard
    samples: tuple[Sample, ...]

    def source(self, precision: Precision) -> Path:
        return self.folder / (INT8_FILE if precision == "int8" else ONNX_FILE)


class OnnxEngine:
    """An ONNX file on ONNX Runtime with the NumPy twin behind it, as an engine of one image."""

    max_batch, frame_size = 1, None

    def __init__(self, path: Path, card: ModelCard) -> None:
        from retinanet_edge.export.reference_network import ReferenceNetwork

        self._network, self._nms = ReferenceNetwork(path), card.nms

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        return Inference(efficient_nms(*self._network.heads(images), self._nms), {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    if not os.environ.get("GPU_TEST_MODEL"):
        pytest.skip("GPU_TEST_MODEL is unset: it names the folder of a trained model (docs/gpu-checks.md)")
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"AP needs {', '.join(missing)}, not in this environment")
    given = find_model_folder(os.environ["GPU_TEST_MODEL"])
    card = read_card(given)
    data = Path(os.environ["GPU_TEST_DATA"]) if os.environ.get("GPU_TEST_DATA") else data_of_card(given, card)
    samples = read_dataset(data).val[:MOST_IMAGES]
    folder = tmp_path_factory.mktemp("trained") / "model"
    folder.mkdir()
    for name, record in ((ONNX_FILE, card.onnx), (INT8_FILE, card.int8)):
        shutil.copy(vouched_file(given, name, record.sha256 if record else None), folder)
    write_card(folder, replace(card, engines=()))
    commands = Commands(folder.parent)
    for precision in LIMITS:
        forced = ["--force"] if precision == "int8" else []
        commands.must("export/build_engine.py", f"--{precision}", "--model", folder, "--batch", 1, 4, 8, *forced)
    return Trained(folder, read_card(folder), samples)


@pytest.fixture(scope="module")
def of_onnx(trained: Trained) -> dict[str, tuple[float, list[Detections]]]:
    """AP and detections of each ONNX file, in the pixels of the images."""
    found = {}
    for precision in ("fp32", "int8"):
        engine: Any = OnnxEngine(trained.source(precision), trained.card)
        metrics, detections = measure_accuracy(engine, trained.card, trained.samples, trained.card.classes, f"AP of {precision} ONNX")
        found[precision] = (metrics.ap, detections)
    return {**found, "fp16": found["fp32"]}


def test_the_model_is_a_trained_one(of_onnx: dict[str, tuple[float, list[Detections]]]) -> None:
    assert of_onnx["fp32"][0] >= LEAST_AP


@pytest.mark.parametrize("precision", list(LIMITS))
def test_an_engine_has_the_ap_of_its_onnx_file(trained: Trained, of_onnx: Any, agreement: Any, precision: Precision) -> None:
    ap_drop, score_tolerance, least_iou = LIMITS[precision]
    (record,) = (record for record in trained.card.engines if record.precision == precision)
    expected_ap, expected = of_onnx[precision]
    with open_engine(trained.folder, trained.card, record.file) as engine:
        metrics, found = measure_accuracy(engine, trained.card, trained.samples, trained.card.classes, f"AP of {precision}")
        assert engine.max_batch == 8
    assert metrics.ap >= expected_ap - ap_drop
    pairs = list(zip(clear(found), clear(expected), strict=True))
    assert np.mean([agreement(f, e, least_iou, score_tolerance) for f, e in pairs if len(f) + len(e)]) > 0.9


def clear(detections: Sequence[Detections]) -> list[Detections]:
    """Leave out what scores so little that rounding may take it under the threshold."""
    return [Detections(d.xyxy[keep], d.scores[keep], d.classes[keep]) for d in detections for keep in [d.scores >= 0.3]]


def test_the_newest_engine_is_what_the_folder_opens(trained: Trained) -> None:
    with open_engine(trained.folder, trained.card, "auto", max_batch=8) as engine:
        assert engine.file.name == trained.card.engines[-1].file
        assert engine.backend.startswith("TensorRT")
