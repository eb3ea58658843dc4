"""What the GPU tests share: they are skipped, with the reason, where TensorRT, pycuda or a GPU is missing; and a tiny network.

Nothing here needs torch or OpenVINO, so that a bare GPU machine can run them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retinanet_edge.runtime.boxes import iou
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.model_card import (
    AnchorSpec,
    Calibration,
    EngineRecord,
    InputSpec,
    Int8Record,
    ModelCard,
    NetworkSpec,
    NmsSpec,
    OnnxRecord,
    Precision,
)  # fmt: skip
from retinanet_edge.runtime.model_folder import INT8_FILE, ONNX_FILE, file_sha256
from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason

SIDE, CLASSES, PER_CELL, STRIDES, CHANNELS = 64, 3, 2, (8, 16), 16
NMS = NmsSpec(score_threshold=0.3, iou_threshold=0.5, max_detections=100)


@pytest.fixture(autouse=True, scope="session")
def _needs_gpu() -> None:
    if (reason := tensorrt_unavailable_reason()) is not None:
        pytest.skip(reason)


class TinyNetwork:
    """Writes ONNX of the contract: uint8 images, two levels with a class and a box convolution each, constant anchors.

    Weights are random, the same on every machine. With `quantized`, the two trunk convolutions have Q/DQ on input and weights.
    """

    def __init__(self, quantized: bool, class_bias: float) -> None:
        import onnx

        self._onnx, self._random = onnx, np.random.default_rng(7)
        self._quantized, self._class_bias = quantized, class_bias
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def build(self) -> Any:
        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        x = self._node("Cast", ["images"], to=kinds.FLOAT)
        x = self._node("Gather", [x, self._constant(np.array([2, 1, 0]))], axis=3)  # BGR -> RGB
        x = self._node("Sub", [x, self._constant(np.full(3, 127.5, np.float32))])
        x = self._node("Mul", [x, self._constant(np.full(3, 1 / 64, np.float32))])
        x = self._node("Transpose", [x], perm=[0, 3, 1, 2])
        fine = self._node("Relu", [self._convolution(x, 3, CHANNELS, STRIDES[0], self._quantized)])
        coarse = self._node("Relu", [self._convolution(fine, CHANNELS, CHANNELS, 2, self._quantized)])
        self._head("class_logits", [fine, coarse], CLASSES, 2.0, self._class_bias)
        self._head("box_deltas", [fine, coarse], 4, 0.2, 0.0)
        anchors = tiny_anchors()
        self._constants.append(self._onnx.numpy_helper.from_array(anchors, "anchors"))
        count = anchors.shape[1]
        shapes = {"class_logits": ["N", count, CLASSES], "box_deltas": ["N", count, 4], "anchors": [1, count, 4]}
        graph = helper.make_graph(
            self._nodes, "tiny", [helper.make_tensor_value_info("images", kinds.UINT8, ["N", SIDE, SIDE, 3])],
            [helper.make_tensor_value_info(name, kinds.FLOAT, shape) for name, shape in shapes.items()], self._constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        self._onnx.checker.check_model(model, full_check=True)
        return model

    def _node(self, kind: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        output = output or f"t{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes))
        return output

    def _constant(self, values: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def _convolution(
        self, x: str, inputs: int, outputs: int, stride: int, quantized: bool, spread: float = 1.4, bias: float = 0.0
    ) -> str:
        size = max(3, stride)
        weights = self._random.normal(0, spread / np.sqrt(inputs * size * size), (outputs, inputs, size, size)).astype(np.float32)
        kernel = self._constant(weights)
        if quantized:
            x = self._through_int8(x, np.float32(4 / 127))
            kernel = self._through_int8(kernel, np.abs(weights).max((1, 2, 3)) / 127, axis=0)
        biases = self._constant(np.full(outputs, bias, np.float32))
        pad = (size - stride + 1) // 2
        pads = [pad, pad, size - stride - pad, size - stride - pad]
        return self._node("Conv", [x, kernel, biases], kernel_shape=[size, size], strides=[stride] * 2, pads=pads)

    def _through_int8(self, x: str, scale: Any, **axis: int) -> str:
        parts = [self._constant(np.asarray(scale, np.float32)), self._constant(np.zeros(np.shape(scale), np.int8))]
        return self._node("DequantizeLinear", [self._node("QuantizeLinear", [x, *parts], **axis), *parts], **axis)

    def _head(self, output: str, levels: list[str], values: int, spread: float, bias: float) -> None:
        parts = []
        for level in levels:
            x = self._convolution(level, CHANNELS, PER_CELL * values, 1, False, spread, bias)
            x = self._node("Transpose", [x], perm=[0, 2, 3, 1])
            cells = (SIDE // STRIDES[len(parts)]) ** 2
            parts.append(self._node("Reshape", [x, self._constant(np.array([-1, cells * PER_CELL, values]))]))
        self._node("Concat", parts, output, axis=1)


def tiny_anchors() -> NDArray[np.float32]:
    """Anchors [1, A, 4] (cx, cy, w, h): in every cell a square of two strides and a tall one of half the width."""
    rows = []
    for stride in STRIDES:
        centres = (np.arange(SIDE // stride) + 0.5) * stride
        for y in centres:
            for x in centres:
                rows += [(x, y, 2 * stride, 2 * stride), (x, y, stride, 2 * stride)]
    return np.array(rows, np.float32)[None]


class TinyModel:
    """A model folder with a tiny network in FP32 and with Q/DQ, its card, and the answers of an independent implementation."""

    def __init__(self, folder: Path, class_bias: float = -3.5) -> None:
        import onnx

        self.folder = folder
        onnx.save(TinyNetwork(False, class_bias).build(), folder / ONNX_FILE)
        onnx.save(TinyNetwork(True, class_bias).build(), folder / INT8_FILE)
        source, quantized = file_sha256(folder / ONNX_FILE), file_sha256(folder / INT8_FILE)
        self.card = ModelCard(
            tuple(f"class{i}" for i in range(CLASSES)), InputSpec(SIDE, SIDE, (127.5,) * 3, (64.0,) * 3),
            AnchorSpec(STRIDES, tuple(2.0 * s for s in STRIDES), (1.0,), (1.0, 2.0)),
            NetworkSpec("none", CHANNELS, CHANNELS, 1, "none"), nms=NMS, onnx=OnnxRecord(source, "0" * 64, 17, 0.0),
            int8=Int8Record(quantized, source, Calibration("minmax", 1, "0" * 64, 0)),
        )  # fmt: skip

    def source(self, precision: Precision) -> Path:
        return self.folder / (INT8_FILE if precision == "int8" else ONNX_FILE)

    def build(self, precision: Precision, **options: Any) -> EngineRecord:
        """Compile an engine into the folder and enter it into the card."""
        from retinanet_edge.export.build_options import BuildOptions
        from retinanet_edge.export.compiler import build_engine

        record = build_engine(self.folder, self.card, self.source(precision), BuildOptions(precision, **options))
        self.card = self.card.with_engine(record)
        return record

    def open(self, record: EngineRecord, *, graphs: bool = True, **other: Any) -> Any:
        """Open an engine of the folder; `other` are fields of its record to falsify."""
        from retinanet_edge.runtime.tensorrt_engine import TensorRTEngine

        return TensorRTEngine(self.folder / record.file, replace(record, **other), self.card, graphs=graphs)

    def expected(self, images: NDArray[np.uint8], precision: Precision = "fp32") -> list[Detections]:
        """Return what ONNX Runtime and the NumPy twin of the plugin make of `images`."""
        onnxruntime = pytest.importorskip("onnxruntime", reason="no onnxruntime to compare with")
        session = onnxruntime.InferenceSession(str(self.source(precision)), providers=["CPUExecutionProvider"])
        logits, deltas, anchors = session.run(["class_logits", "box_deltas", "anchors"], {"images": images})
        return efficient_nms(logits, deltas, anchors, self.card.nms)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return TinyModel(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def silent_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """One that finds nothing: every logit is far below the threshold."""
    return TinyModel(tmp_path_factory.mktemp("silent"), class_bias=-50.0)


@pytest.fixture(scope="session")
def engine_of(model: TinyModel) -> Callable[[Precision], EngineRecord]:
    """Engines of batch 1 to 4, each built once."""

    @functools.cache
    def build(precision: Precision) -> EngineRecord:
        return model.build(precision, max_batch=4)

    return build


@pytest.fixture(scope="session")
def images() -> NDArray[np.uint8]:
    """Four images uint8 [4, 64, 64, 3] with structure at the scale of the strides, so that cells differ."""
    random = np.random.default_rng(3)
    blocks = random.integers(0, 256, (4, SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
    return blocks.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="session")
def agreement() -> Callable[[Detections, Detections, float, float], float]:
    """Return the share of detections, of both sides, that have a partner of their class, near in score and overlapping enough."""

    def share(found: Detections, expected: Detections, least_iou: float, score_tolerance: float) -> float:
        near = (
            (iou(found.xyxy, expected.xyxy) >= least_iou)
            & (np.abs(found.scores[:, None] - expected.scores[None]) <= score_tolerance)
            & (found.classes[:, None] == expected.classes[None])
        )
        return float((near.any(1).sum() + near.any(0).sum()) / max(1, len(found) + len(expected)))

    return share
