"""The GPU backend: an engine file of a model folder on TensorRT, fulfilling the protocol of engine.py."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.engine import Inference
from retinanet_edge.runtime.engine_fit import difference, dla_core_of, is_version_compatible, machine_of, needs_plugin
from retinanet_edge.runtime.engine_outputs import INPUT, describe, detections_of, expected_tensors, form_of, frame_size_of, nms_of
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.lane_tickets import Ticket
from retinanet_edge.runtime.model_card import EngineRecord, ModelCard, Precision
from retinanet_edge.runtime.tensorrt_library import has_plugin, tensorrt_unavailable_reason, this_machine
from retinanet_edge.runtime.tensorrt_session import TensorRTSession

_PLUGIN = "EfficientNMS_TRT"


def misfit(record: EngineRecord) -> str | None:
    """Return None where an engine runs on the TensorRT and GPU that are here, else in words what differs. Prints nothing."""
    if reason := tensorrt_unavailable_reason():
        return f"{record.file} was built for {machine_of(record)}, but here: {reason}"
    here = this_machine()
    if (differs := difference(record, here)) is not None:
        return differs
    if needs_plugin(record) and not has_plugin(_PLUGIN, record.plugin_version):
        return f"{record.file} needs the plugin {_PLUGIN} version {record.plugin_version}, which TensorRT {here.tensorrt} here lacks"
    return None


class TensorRTEngine:
    """A compiled engine of a model folder. Owns its GPU memory; the thread that first runs it runs it, any may close it.

    path: the engine file. record: what the card says of it. card: the model it must belong to. graphs: whether to use CUDA graphs
    where they work. frame_size: height and width of the whole frames that it takes, None where it takes letterboxed images.

    Raises EngineError where there is no TensorRT, GPU or plugin, the engine is another machine's or another model's, or is damaged.
    """

    def __init__(self, path: Path, record: EngineRecord, card: ModelCard, *, graphs: bool = True) -> None:
        if differs := misfit(record):
            raise EngineError(f"{differs}: {_remedy(record)}")
        _check_source(record, card)
        plan = path.read_bytes()
        if hashlib.sha256(plan).hexdigest() != record.sha256:  # TensorRT may crash on a damaged file
            raise EngineError(f"{path} is damaged, it is not the engine that the card vouches for: {_remedy(record)}")
        self.name = f"{path.name} on TensorRT"
        self.backend = f"TensorRT {this_machine().tensorrt}"
        self.precision: Precision = record.precision
        self.file = path
        self.frame_size = frame_size_of(record)
        self._nms = nms_of(record, card)
        self.session = TensorRTSession(
            plan, path.name, graphs=graphs and dla_core_of(record) is None, host_code=is_version_compatible(record),
            dla_core=dla_core_of(record),
        )  # fmt: skip
        self.max_batch = self._checked_max_batch(record, card)

    def _checked_max_batch(self, record: EngineRecord, card: ModelCard) -> int:
        """Return the largest batch. Raises EngineError, with the session closed, where its tensors are not the card's."""
        session = self.session
        found = {name: describe(spec) for name, spec in (session.inputs | session.outputs).items()}
        if found != (expected := expected_tensors(record, card, session.outputs)):
            self.close()
            raise EngineError(f"{self.file} must have the card's tensors {expected}, got {found}: {_remedy(record)}")
        return session.inputs[INPUT].largest[0]

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        """Run uint8 [N, H, W, 3] BGR, 1 <= N <= max_batch. Raises ValueError for another shape or a closed engine.

        Raises EngineError in another thread than the first that ran it, and where CUDA fails.
        """
        return self.collect(self.submit(images))

    def submit(self, images: NDArray[np.uint8]) -> Ticket:
        """Start a batch, as `infer` takes it, so that its upload overlaps the batch before; at most two may be in flight."""
        return self.session.submit({INPUT: images})

    def collect(self, ticket: Ticket) -> Inference:
        """Wait for a batch and return what it gives. Raises as `infer` does, and ValueError for a ticket collected before."""
        run = self.session.collect(ticket)
        start = time.perf_counter()
        detections = detections_of(run.outputs, ticket.count, self._nms)
        if form_of(run.outputs) == "plugin":
            return Inference(detections, run.stage_ms)
        return Inference(detections, {**run.stage_ms, "nms": (time.perf_counter() - start) * 1e3})

    def close(self) -> None:
        """Release the engine and its memory, from any thread; may be called twice."""
        self.session.close()

    def __enter__(self) -> TensorRTEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
