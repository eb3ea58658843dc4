"""Every way in which a model of a folder can run here: its ONNX files on the CPU, its engines on the GPU, each by one call an image."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.export.parity_subject import Subject
from retinanet_edge.export.reference_network import HEADS, Heads, ReferenceNetwork
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.engine_outputs import frame_size_of, nms_of
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import EngineRecord, ModelCard, Precision
from retinanet_edge.runtime.model_folder import vouched_file


@dataclass(frozen=True)
class Answer:
    """What a backend says of one image: detections in input pixels and, where they can be had, the network's outputs."""

    detections: Detections
    heads: Heads | None


Run = Callable[[NDArray[np.uint8]], Answer]  # images: uint8 [1, H, W, 3]


@dataclass(frozen=True)
class Backend:
    """A file and what runs it. `open` raises EngineError where that is not possible here."""

    file: str
    name: str
    precision: Precision
    open: Callable[[], AbstractContextManager[Run]]


def reference_backend(subject: Subject) -> Backend:
    """Return model.onnx on ONNX Runtime."""
    return Backend(subject.reference.name, "ONNX Runtime", "fp32", partial(_on_onnx_runtime, subject.reference, subject.card))


def backends(subject: Subject) -> list[Backend]:
    """Return all but the reference: ONNX files on OpenVINO, INT8 ones also on ONNX Runtime, and every engine that the card knows."""
    found = []
    for path, precision in subject.files:
        found.append(Backend(path.name, "OpenVINO", precision, partial(_on_openvino, path, subject.card, precision)))
        if precision == "int8":
            found.append(Backend(path.name, "ONNX Runtime", precision, partial(_on_onnx_runtime, path, subject.card)))
    for record in subject.card.engines:
        found.append(Backend(record.file, f"TensorRT {record.tensorrt}", record.precision, partial(_on_tensorrt, subject, record)))
    return found


@contextmanager
def _on_onnx_runtime(path: Path, card: ModelCard) -> Iterator[Run]:
    yield partial(_answer, ReferenceNetwork(path).heads, card)


@contextmanager
def _on_openvino(path: Path, card: ModelCard, precision: Precision) -> Iterator[Run]:
    from retinanet_edge.runtime.openvino_engine import OpenVINOEngine

    try:
        engine = OpenVINOEngine(path, card, precision)
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        raise EngineError("no openvino in this environment: pip install -e '.[cpu]'") from None
    with engine:
        yield partial(_answer, engine.heads, card)


def _answer(heads_of: Callable[[NDArray[np.uint8]], Heads], card: ModelCard, images: NDArray[np.uint8]) -> Answer:
    logits, deltas, anchors = (values.copy() for values in heads_of(images))
    return Answer(efficient_nms(logits, deltas, anchors, card.nms)[0], (logits, deltas, anchors))


@contextmanager
def _on_tensorrt(subject: Subject, record: EngineRecord) -> Iterator[Run]:
    """Open an engine; with one of FP32 also, where Polygraphy is there, the same network without the plugin, for its outputs."""
    from retinanet_edge.runtime.tensorrt_engine import TensorRTEngine, misfit

    if not (subject.folder / record.file).is_file():
        raise EngineError("the file is not here")
    if reason := misfit(record) or incomparable(record, subject.card):
        raise EngineError(reason.removeprefix(f"{record.file} "))
    path = vouched_file(subject.folder, record.file, record.sha256)
    with ExitStack() as stack:
        engine = stack.enter_context(TensorRTEngine(path, record, subject.card))
        with_heads = record.precision == "fp32" and importlib.util.find_spec("polygraphy") is not None
        heads_of = stack.enter_context(_heads_on_tensorrt(subject)) if with_heads else None
        yield lambda images: Answer(engine.infer(images).detections[0], heads_of(images) if heads_of else None)


def incomparable(record: EngineRecord, card: ModelCard) -> str | None:
    """Return why an engine's detections are not those of model.onnx by its making, None where they should be."""
    if (size := frame_size_of(record)) is not None:
        return f"letterboxes frames of {size[1]}x{size[0]} itself: python runtime/evaluate.py --engine {record.file} measures its AP"
    if nms_of(record, card) != card.nms:
        return "was built with NMS options other than the card's, which the reference has"
    return None


@contextmanager
def _heads_on_tensorrt(subject: Subject) -> Iterator[Callable[[NDArray[np.uint8]], Heads]]:
    from retinanet_edge.export.tensorrt_parity import engine_without_plugin

    shape = (1, subject.card.input.height, subject.card.input.width, 3)
    with engine_without_plugin(subject.reference, "fp32", shape) as run:

        def heads_of(images: NDArray[np.uint8]) -> Heads:
            logits, deltas, anchors = (run(images)[name] for name in HEADS)
            return logits, deltas, anchors

        yield heads_of
