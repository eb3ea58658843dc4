"""The CPU backend: model.onnx and model.int8.onnx on OpenVINO, with the NumPy twin of EfficientNMS_TRT after it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.engine import Inference
from retinanet_edge.runtime.errors import EngineError, ModelFolderError
from retinanet_edge.runtime.level_top_k import level_sizes
from retinanet_edge.runtime.model_card import ModelCard, Precision

_INPUT, _LOGITS, _DELTAS, _ANCHORS = "images", "class_logits", "box_deltas", "anchors"
# FP32 for what is not quantized, whatever the machine's own favourite is: figures must not depend on the machine.
COMPILE_OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


class OpenVINOEngine:
    """An ONNX file on the CPU; fulfils the protocol of engine.py.

    path: the ONNX file. card: the model it must belong to. batch: the most images of a call; it is fixed in the network, so that a
    call with fewer takes as long as one with all.

    Raises ModelFolderError for a file that is no ONNX network or not the card's, EngineError where it does not compile.
    """

    backend = "OpenVINO"
    frame_size: tuple[int, int] | None = None

    def __init__(self, path: Path, card: ModelCard, precision: Precision, batch: int = 1) -> None:
        self.name = f"{path.name} on OpenVINO"
        self.precision: Precision = precision
        self.file = path
        self.max_batch = batch
        self._nms = card.nms
        self._images = np.zeros((batch, card.input.height, card.input.width, 3), np.uint8)
        openvino = import_openvino()
        core = openvino.Core()
        model = _read(openvino, core, path)
        _check_input(model, path, card)
        try:
            model.reshape({_INPUT: list(self._images.shape)})
            _hold_quantization_behind_concats(model)
            _check_outputs(model, path, card, batch)
            self._request = core.compile_model(model, "CPU", COMPILE_OPTIONS).create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"{path} does not compile on OpenVINO ({_last_line(error)}): {_remedy(path)}") from None

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        """Run uint8 [N, H, W, 3] BGR, 1 <= N <= max_batch. Raises ValueError for another shape or a closed engine."""
        start = time.perf_counter()
        heads = self.heads(images)
        inferred = time.perf_counter()
        detections = efficient_nms(*heads, self._nms)  # copies what it returns
        done = time.perf_counter()
        return Inference(detections, {"network": (inferred - start) * 1e3, "nms": (done - inferred) * 1e3})

    def heads(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return class_logits [N, A, K], box_deltas [N, A, 4] and anchors [1 or N, A, 4] of images as `infer` takes them.

        They are the network's own memory: valid until the next call.
        """
        self._check_images(images)
        count = len(images)
        self._images[:count] = images  # what an earlier call left in the other rows does no harm
        self._request.infer({_INPUT: self._images}, share_inputs=True, share_outputs=True)
        logits, deltas, anchors = (self._request.get_tensor(name).data for name in (_LOGITS, _DELTAS, _ANCHORS))
        return logits[:count], deltas[:count], anchors[:count]

    def _check_images(self, images: NDArray[np.uint8]) -> None:
        if self._request is None:
            raise ValueError(f"{self.name} is closed")
        size = self._images.shape[1:]
        if images.dtype != np.uint8 or images.shape[1:] != size or not 1 <= len(images) <= self.max_batch:
            expected = f"uint8 [1..{self.max_batch}, {', '.join(map(str, size))}]"
            raise ValueError(f"images must be {expected}, got {images.dtype} {list(images.shape)}")

    def close(self) -> None:
        """Release the network; may be called twice."""
        self._request = None

    def __enter__(self) -> OpenVINOEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def import_openvino() -> Any:
    """Return the openvino module, imported so that it sends no telemetry.

    Importing it reports that to its makers over the network, unless the package openvino_telemetry is missing: let it seem so.
    """
    hidden = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules["openvino_telemetry"]
        if hidden is not None:
            sys.modules["openvino_telemetry"] = hidden
    return openvino


def _read(openvino: Any, core: Any, path: Path) -> Any:
    if not path.is_file():
        raise ModelFolderError(f"{path} does not exist: {_remedy(path)}")
    try:
        # Asked first: of a file that is not ONNX every reader that OpenVINO has would say on stderr that it is not theirs.
        if openvino.frontend.FrontEndManager().load_by_framework("onnx").supported(str(path)):
            return core.read_model(str(path))
    except RuntimeError:
        pass  # its text is a page of OpenVINO's source lines
    raise ModelFolderError(f"{path} must be an ONNX network, got something else, perhaps a part of one: {_remedy(path)}")


def _hold_quantization_behind_concats(model: Any) -> None:
    """Let the INT8 quantization of a concatenation stay behind it, by making what comes before it an output, too.

    Else OpenVINO (seen in 2026.4) moves it in front, gives each part a zero point of its own, and where processors have INT8 dot
    products, convolutions take no notice of them: what comes out is noise.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Concat" and any(
            target.get_node().get_type_name() in ("FakeQuantize", "QuantizeLinear") for target in node.output(0).get_target_inputs()
        ):
            model.add_outputs(node.output(0))


def _check_input(model: Any, path: Path, card: ModelCard) -> None:
    """Check, before the batch is set, that the file takes what the card says."""
    _check_port(model.inputs, _INPUT, f"u8 [?,{card.input.height},{card.input.width},3]", path)


def _check_outputs(model: Any, path: Path, card: ModelCard, batch: int) -> None:
    """Check, when the batch is set, that the file gives what the card says: every shape is known by then."""
    sizes = level_sizes(card.anchors, card.input)
    most = card.nms.top_k_per_level or max(sizes)
    count = sum(min(size, most) for size in sizes)
    _check_port(model.outputs, _LOGITS, f"f32 [{batch},{count},{len(card.classes)}]", path)
    _check_port(model.outputs, _DELTAS, f"f32 [{batch},{count},4]", path)
    _check_port(model.outputs, _ANCHORS, f"f32 [{1 if max(sizes) <= most else batch},{count},4]", path)


def _check_port(ports: list[Any], name: str, expected: str, path: Path) -> None:
    port = next((port for port in ports if name in port.get_names()), None)
    found = "none" if port is None else f"{port.element_type.get_type_name()} {port.partial_shape}"
    if found != expected:
        raise ModelFolderError(f"{path} must have {name} {expected} to fit its card, got {found}: {_remedy(path)}")


def _remedy(path: Path) -> str:
    return f"run python {'export/build_engine.py --int8' if '.int8.' in path.name else 'export/export_onnx.py'}"


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1].strip()
