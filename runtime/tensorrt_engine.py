"""The GPU backend: an engine file of a model folder on TensorRT, fulfilling the protocol of engine.py."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.engine import Inference
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import EngineRecord, ModelCard, Precision
from retinanet_edge.runtime.tensorrt_library import Machine, tensorrt_unavailable_reason, this_machine
from retinanet_edge.runtime.tensorrt_session import TensorRTSession, TensorSpec

_INPUT = "images"
_COUNT, _BOXES, _SCORES, _CLASSES = "num_detections", "detection_boxes", "detection_scores", "detection_classes"


def misfit(record: EngineRecord) -> str | None:
    """Return None where an engine was built for the TensorRT and GPU that are here, else in words what differs. Prints nothing."""
    if reason := tensorrt_unavailable_reason():
        return f"{record.file} was built for {_machine_of(record)}, but here: {reason}"
    if (found := this_machine()) != (expected := _machine_of(record)):
        return f"{record.file} was built for {expected}, but here is {found}"
    return None


class TensorRTEngine:
    """A compiled engine of a model folder. Owns its GPU memory; not for use by two threads at once.

    path: the engine file. record: what the card says of it. card: the model it must belong to.

    Raises EngineError where there is no TensorRT or GPU, the engine is another machine's or another model's, or is damaged.
    """

    def __init__(self, path: Path, record: EngineRecord, card: ModelCard) -> None:
        if difference := misfit(record):
            raise EngineError(f"{difference}: {_remedy(record)}")
        _check_source(record, card)
        plan = path.read_bytes()
        if hashlib.sha256(plan).hexdigest() != record.sha256:  # TensorRT may crash on a damaged file
            raise EngineError(f"{path} is damaged, it is not the engine that the card vouches for: {_remedy(record)}")
        self.name = f"{path.name} on TensorRT"
        self.backend = f"TensorRT {record.tensorrt}"
        self.precision: Precision = record.precision
        self.file = path
        self._session = TensorRTSession(plan, path.name)
        self.max_batch = self._checked_max_batch(record, card)

    def _checked_max_batch(self, record: EngineRecord, card: ModelCard) -> int:
        """Return the largest batch. Raises EngineError, with the session closed, where its tensors are not the card's."""
        found = {name: _describe(spec) for name, spec in (self._session.inputs | self._session.outputs).items()}
        if found != (expected := _expected_tensors(card)):
            self.close()
            raise EngineError(f"{self.file} must have the card's tensors {expected}, got {found}: {_remedy(record)}")
        return self._session.inputs[_INPUT].largest[0]

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        """Run uint8 [N, H, W, 3] BGR, 1 <= N <= max_batch. Raises ValueError for another shape or a closed engine."""
        run = self._session.run({_INPUT: images})
        detections = [_detections(run.outputs, image) for image in range(len(images))]
        return Inference(detections, run.stage_ms)

    def close(self) -> None:
        """Release the engine and its memory; may be called twice."""
        self._session.close()

    def __enter__(self) -> TensorRTEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _detections(outputs: dict[str, NDArray[Any]], image: int) -> Detections:
    """Return the filled rows of an image; the plugin writes them best first and leaves the others zero."""
    count = int(outputs[_COUNT][image, 0])
    boxes, scores, classes = (outputs[name][image, :count] for name in (_BOXES, _SCORES, _CLASSES))
    return Detections(boxes, scores, classes.astype(np.int64))


def _machine_of(record: EngineRecord) -> Machine:
    return Machine(record.tensorrt, record.gpu, record.compute_capability)


def _check_source(record: EngineRecord, card: ModelCard) -> None:
    source = card.int8 if record.precision == "int8" else card.onnx
    if source is None or source.sha256 != record.onnx_sha256:
        found = source.sha256[:12] + "..." if source else "none"
        raise EngineError(
            f"{record.file} was built from an ONNX file with SHA-256 {record.onnx_sha256[:12]}..., "
            f"but the card's for {record.precision} is {found}: {_remedy(record)}"
        )


def _remedy(record: EngineRecord) -> str:
    return f"run python export/build_engine.py --{record.precision}"


def _describe(spec: TensorSpec) -> str:
    return f"{spec.dtype} {[-1, *spec.shape[1:]]}"  # a batch of one at most is static in some versions


def _expected_tensors(card: ModelCard) -> dict[str, str]:
    kept = card.nms.max_detections
    return {
        _INPUT: f"uint8 {[-1, card.input.height, card.input.width, 3]}",
        _COUNT: "int32 [-1, 1]",
        _BOXES: f"float32 {[-1, kept, 4]}",
        _SCORES: f"float32 {[-1, kept]}",
        _CLASSES: f"int32 {[-1, kept]}",
    }
