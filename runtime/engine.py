"""What runs a model: the protocol that every backend fulfils, and the choice of one for this machine.

Order of choice: the newest TensorRT engine that fits this machine, else INT8, else FP32 on the CPU backend.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import EngineError, UserInputError
from retinanet_edge.runtime.model_card import ModelCard, Precision
from retinanet_edge.runtime.model_folder import INT8_FILE, ONNX_FILE, vouched_file

_LOG = logging.getLogger("retinanet_edge")  # a program's own handlers decide; without any, warnings go to stderr


@dataclass(frozen=True)
class Inference:
    """What one call of an engine gives.

    detections: one for each image, boxes in input pixels (not clipped to the image). stage_ms: milliseconds of each stage of
    this call, for the whole batch, by name ("network", "nms"; "upload", "engine", "download").
    """

    detections: list[Detections]
    stage_ms: dict[str, float]


class Engine(Protocol):
    """Runs a network with its post-processing. Owns its buffers; not for use by two threads at once.

    A TensorRT engine belongs to the thread that first runs it, and refuses others.
    """

    @property
    def name(self) -> str:
        """File and backend, for people: "model.int8.onnx on OpenVINO"."""

    @property
    def backend(self) -> str:
        """Backend alone, as the card's accuracy records name it: "OpenVINO", "TensorRT 8.5.3.1"."""

    @property
    def precision(self) -> Precision:
        """Precision of the network."""

    @property
    def file(self) -> Path:
        """The file that is run."""

    @property
    def max_batch(self) -> int:
        """The most images that one call takes."""

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the camera frames that it takes whole, boxes then being in their pixels; None: letterboxed input."""

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        """Run uint8 [N, H, W, 3] BGR, 1 <= N <= max_batch. Raises ValueError for another shape."""

    def close(self) -> None:
        """Release what is held; may be called twice."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def image_size(engine: Engine, card: ModelCard) -> tuple[int, int]:
    """Return height and width of the images that an engine takes: whole frames, or the network's input.

    A letterbox of that size serves both: a frame of just that size passes through it unchanged.
    """
    return engine.frame_size or (card.input.height, card.input.width)


def open_engine(folder: Path, card: ModelCard, choice: str = "auto", *, max_batch: int = 1) -> Engine:
    """Open what `choice` names for the model in `folder`.

    choice: "auto" (see above), "fp32" or "int8" (the ONNX file on the CPU backend), or the name of an engine file in the folder.
    Raises ModelFolderError where the file is missing or not the card's, EngineError where an engine does not load here.
    """
    if choice == "auto":
        return _open_best(folder, card, max_batch)
    if choice in ("fp32", "int8"):
        return _open_onnx(folder, card, "int8" if choice == "int8" else "fp32", max_batch)
    name = Path(choice).name
    records = [record for record in card.engines if record.file == name]
    if not records:
        known = ", ".join(record.file for record in card.engines) or "none"
        raise UserInputError(
            f"--engine must be auto, fp32, int8 or an engine of the card (it knows {known}), got {choice}: "
            "run python export/build_engine.py to make one"
        )
    from retinanet_edge.runtime.tensorrt_engine import TensorRTEngine

    return TensorRTEngine(vouched_file(folder, name, records[-1].sha256), records[-1], card)


def _open_best(folder: Path, card: ModelCard, max_batch: int) -> Engine:
    from retinanet_edge.runtime.tensorrt_engine import TensorRTEngine, misfit

    passed_over: list[str] = []
    for record in reversed(card.engines):
        if not (folder / record.file).is_file():
            continue
        difference = misfit(record)
        if difference is None and record.max_batch < max_batch:
            difference = f"{record.file} takes at most {record.max_batch} images at once, not {max_batch}"
        if difference is None:
            return TensorRTEngine(vouched_file(folder, record.file, record.sha256), record, card)
        passed_over.append(difference)
    engine = _open_on_cpu(folder, card, max_batch, passed_over)
    if passed_over:
        _LOG.warning("%s: running %s (run python export/build_engine.py here for an engine)", passed_over[0], engine.name)
    return engine


def _open_on_cpu(folder: Path, card: ModelCard, max_batch: int, passed_over: list[str]) -> Engine:
    accepted = card.int8 is not None and (card.verdict is None or card.verdict.passed or card.verdict.forced)
    try:
        return _open_onnx(folder, card, "int8" if accepted else "fp32", max_batch)
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        why = passed_over[0] if passed_over else "it has none"
        raise EngineError(
            f"{folder} has no engine for this machine ({why}), and the CPU backend needs openvino: "
            f"run python export/build_engine.py --model {folder} here, or pip install -e '.[cpu]'"
        ) from None


def _open_onnx(folder: Path, card: ModelCard, precision: Precision, max_batch: int) -> Engine:
    from retinanet_edge.runtime.openvino_engine import OpenVINOEngine

    record = card.int8 if precision == "int8" else card.onnx
    path = vouched_file(folder, INT8_FILE if precision == "int8" else ONNX_FILE, record.sha256 if record else None)
    return OpenVINOEngine(path, card, precision, batch=max_batch)
