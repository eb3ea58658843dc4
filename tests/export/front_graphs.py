"""Graphs of the contract made by hand: the exporter's normalisation, and behind it nothing but what a test wants to see."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.runtime.model_card import InputSpec

SPEC = InputSpec(32, 48, (123.0, 117.0, 104.0), (58.0, 57.0, 56.0))
GREY = InputSpec(32, 48, (120.0, 120.0, 120.0), (60.0, 60.0, 60.0))


def pixel_model(spec: InputSpec = SPEC, *, made: dict[str, Any] | None = None) -> onnx.ModelProto:
    """A graph whose class_logits [N, H * W, 3] are the normalised pixels, RGB, on anchors (cx, cy, w, h) of each pixel, deltas 0.

    made: what another exporter would do otherwise (order, axis, mean, std, perm, kind).
    """
    made = made or {}
    height, width = spec.height, spec.width
    count = height * width
    y, x = np.divmod(np.arange(count), width)
    constants = {
        "order": np.array(made.get("order", [2, 1, 0])),
        "mean": np.array(made.get("mean", spec.mean), np.float32),
        "inverse_std": (1 / np.array(made.get("std", spec.std))).astype(np.float32),
        "flat": np.array([-1, count, 3]),
        "no_deltas": np.zeros((3, 4), np.float32),
        "anchors": np.stack([x + 0.5, y + 0.5, 0 * x + 4, 0 * y + 6], axis=-1)[None].astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["float", "order"], ["rgb"], axis=made.get("axis", 3)),
        helper.make_node("Sub", ["rgb", "mean"], ["centred"]),
        helper.make_node(made.get("kind", "Mul"), ["centred", "inverse_std"], ["normal"]),
        helper.make_node("Transpose", ["normal"], ["image"], perm=made.get("perm", [0, 3, 1, 2])),
        helper.make_node("Transpose", ["image"], ["pixels"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["pixels", "flat"], ["class_logits"], "to_logits"),
        helper.make_node("MatMul", ["class_logits", "no_deltas"], ["box_deltas"], "to_deltas"),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", height, width, 3])]
    shapes = {"class_logits": ["N", count, 3], "box_deltas": ["N", count, 4], "anchors": [1, count, 4]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    return helper.make_model(
        helper.make_graph(nodes, "pixels", inputs, outputs, tensors), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def run(model: onnx.ModelProto, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
    """Run a model on ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[NDArray[Any]] = session.run(None, inputs)
    return outputs


def input_of(model: onnx.ModelProto) -> tuple[int, list[int | str]]:
    """Return element type and shape of the only input."""
    (port,) = model.graph.input
    return port.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim]


def kinds(model: onnx.ModelProto) -> list[str]:
    """Return the operators in their order, without constants."""
    return [node.op_type for node in model.graph.node if node.op_type != "Constant"]
