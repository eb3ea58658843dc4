"""What stays FP32 and what does not, on graphs of the contract made by hand around the few nodes that each test is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.export.typed_graph import kept_in_fp32, to_fp16, to_typed_int8
from tests.export.node_by_node import run_node_by_node, tensor_types

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
# Pixels 0 to 191, doubled by the first convolution: squares up to 145,924, twice what FP16 holds.
PIXELS = np.arange(192, dtype=np.uint8).reshape(4, 4, 4, 3)
IDENTITY = np.eye(3, dtype=np.float32)[:, :, None, None]


def model(nodes: Sequence[onnx.NodeProto], **constants: ArrayLike) -> onnx.ModelProto:
    """A graph of the contract: pixels doubled are "x", `nodes` make "y" [N, 3, 4, 4] of it, the last convolutions keep it as it is."""
    tensors = {
        "double": 2 * IDENTITY, "keep": IDENTITY, "to_deltas": np.zeros((4, 3, 1, 1)), "anchors": np.ones((1, 16, 4)),
        "flat3": [-1, 16, 3], "flat4": [-1, 16, 4], **constants,
    }  # fmt: skip
    all_nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=FLOAT),
        helper.make_node("Transpose", ["float"], ["pixels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["pixels", "double"], ["x"]),
        *nodes,
    ]
    for weights, flat, output in (("keep", "flat3", "class_logits"), ("to_deltas", "flat4", "box_deltas")):
        all_nodes += [
            helper.make_node("Conv", ["y", weights], [f"{output}_map"]),
            helper.make_node("Transpose", [f"{output}_map"], [f"{output}_last"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"{output}_last", flat], [output]),
        ]
    shapes = {"class_logits": ["N", 16, 3], "box_deltas": ["N", 16, 4], "anchors": [1, 16, 4]}
    graph = helper.make_graph(
        all_nodes, "hand-made", [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 4, 3])],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(as_tensor(values), name) for name, values in tensors.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def as_tensor(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def logits(of: onnx.ModelProto) -> NDArray[np.float32]:
    return run_node_by_node(of, PIXELS)["class_logits"]


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def test_a_norm_of_single_operators_is_fp32_with_its_epsilon() -> None:
    source = model([
        node("Pow", "x two", "squares"), node("ReduceMean", "squares", "mean", axes=[1]), node("Add", "mean epsilon", "variance"),
        node("Sqrt", "variance", "root"), node("Div", "x root", "y"),
    ], two=2.0, epsilon=1e-6)  # fmt: skip
    typed = to_fp16(source)
    types = tensor_types(typed)
    assert {types[name] for name in ("squares", "mean", "variance", "root", "y", "epsilon")} == {FLOAT}
    assert types["x"] == FLOAT16
    assert kept_in_fp32(typed) == ("epsilon",)
    np.testing.assert_allclose(logits(typed), logits(source), rtol=1e-3)


def test_a_mean_over_a_map_is_fp32_and_what_weights_it_is_not() -> None:
    source = model([node("ReduceMean", "x", "mean", axes=[2, 3]), node("HardSigmoid", "mean", "gate"), node("Mul", "x gate", "y")])
    types = tensor_types(to_fp16(source))
    assert (types["mean"], types["gate"], types["y"]) == (FLOAT, FLOAT16, FLOAT16)


def test_a_gelu_is_fp16() -> None:
    source = model([
        node("Div", "x root_of_two", "scaled"), node("Erf", "scaled", "erf"), node("Add", "erf one", "more"), node("Mul", "x more", "y"),
    ], root_of_two=1.4142135, one=1.0)  # fmt: skip
    types = tensor_types(to_fp16(source))
    assert {types[name] for name in ("scaled", "erf", "more", "y")} == {FLOAT16}


def test_layer_norm_is_fp16_with_its_statistics_in_fp32() -> None:
    source = model([
        node("LayerNormalization", "x gain shift", "y", axis=1, epsilon=1e-6),
    ], gain=np.full((3, 4, 4), 0.5), shift=np.full((3, 4, 4), 1e-7))  # fmt: skip
    typed = to_fp16(source)
    layer = next(each for each in typed.graph.node if each.op_type == "LayerNormalization")
    assert {tensor_types(typed)[name] for name in layer.input} == {FLOAT16}
    assert [attribute.name for attribute in layer.attribute if attribute.name == "stash_type"] == []  # the default is FP32
    np.testing.assert_allclose(logits(typed), logits(source), atol=2e-3)


def test_instance_norm_is_fp32() -> None:
    source = model([node("InstanceNormalization", "x gain shift", "y")], gain=np.ones(3), shift=np.zeros(3))
    typed = to_fp16(source)
    assert {tensor_types(typed)[name] for name in ("gain", "shift", "y")} == {FLOAT}
    assert kept_in_fp32(typed) == ()
    np.testing.assert_allclose(logits(typed), logits(source), atol=2e-3)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_factor_that_fp16_does_not_hold_stays(factor: float) -> None:
    source = model([node("Mul", "x factor", "scaled"), node("Div", "scaled factor", "y")], factor=factor)
    typed = to_fp16(source)
    assert kept_in_fp32(typed) == ("factor",)
    assert {tensor_types(typed)[name] for name in ("factor", "scaled", "y")} == {FLOAT}
    np.testing.assert_allclose(logits(typed), logits(source), rtol=1e-3)


def test_weights_beyond_fp16_stay() -> None:
    weights = IDENTITY.copy()
    weights[0, 0] = 70000
    source = model([node("Mul", "x thousandth", "small"), node("Conv", "small weights", "y")], thousandth=1e-3, weights=weights)
    typed = to_fp16(source)
    assert kept_in_fp32(typed) == ("weights",)
    assert tensor_types(typed)["weights"] == FLOAT
    np.testing.assert_allclose(logits(typed), logits(source), rtol=2e-3)


def test_an_addend_near_zero_costs_no_convolution_its_fp16() -> None:
    source = model([node("Conv", "x keep bias", "sum"), node("Add", "sum bias3", "y")], bias=[1e-7] * 3, bias3=np.full((3, 1, 1), 1e-9))
    typed = to_fp16(source)
    assert kept_in_fp32(typed) == ()
    assert {tensor_types(typed)[name] for name in ("sum", "y")} == {FLOAT16}


def test_resize_keeps_its_scales() -> None:
    source = model([
        helper.make_node("Resize", ["x", "", "scales"], ["large"], mode="nearest"),
        node("AveragePool", "large", "y", kernel_shape=[2, 2], strides=[2, 2]),
    ], scales=[1.0, 1.0, 2.0, 2.0])  # fmt: skip
    types = tensor_types(to_fp16(source))
    assert (types["large"], types["scales"]) == (FLOAT16, FLOAT)


def test_a_constant_of_readers_of_both_types_has_two_forms() -> None:
    source = model([node("Mul", "x half", "smaller"), node("Pow", "smaller half", "root"), node("Mul", "root half", "y")], half=0.5)
    types = tensor_types(to_fp16(source))
    assert (types["half"], types["half/fp16"]) == (FLOAT, FLOAT16)
    assert (types["smaller"], types["root"], types["y"]) == (FLOAT16, FLOAT, FLOAT16)


def quantized(activation_scale: float, weight_scales: ArrayLike, weights: ArrayLike) -> onnx.ModelProto:
    return model([
        node("QuantizeLinear", "x scale zero", "x_integers"), node("DequantizeLinear", "x_integers scale zero", "x_again"),
        node("QuantizeLinear", "weights scales zeros", "integers", axis=0), node("DequantizeLinear", "integers scales zeros", "w", axis=0),
        node("Conv", "x_again w", "y"),
    ], scale=activation_scale, zero=np.int8(0), weights=weights, scales=weight_scales, zeros=np.zeros(3, np.int8))  # fmt: skip


def test_q_dq_in_fp16() -> None:
    typed = to_typed_int8(quantized(3.0, [0.01, 0.02, 0.03], 3 * IDENTITY * 0.4))
    types = tensor_types(typed)
    assert {types[name] for name in ("scale/fp16", "x_again", "scales/fp16", "w", "y")} == {FLOAT16}
    assert types["integers"] == TensorProto.INT8
    assert kept_in_fp32(typed) == ()
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in typed.graph.initializer}
    np.testing.assert_array_equal(kept["integers"].reshape(3, 3).diagonal(), [120, 60, 40])  # 1.2 / 0.01, 0.02, 0.03
    assert not {"weights", "scale", "scales"} & kept.keys()


def test_an_activation_scale_below_fp16_keeps_its_pair_in_fp32() -> None:
    source = quantized(1e-5, [0.01] * 3, IDENTITY)
    typed = to_typed_int8(source)
    types = tensor_types(typed)
    assert kept_in_fp32(typed) == ("scale",)
    assert (types["scale"], types["x_again"], types["y"]) == (FLOAT, FLOAT, FLOAT16)
    np.testing.assert_allclose(logits(typed), logits(source), rtol=2e-3)


def test_scales_of_channels_near_zero_are_rounded_up_and_their_weights_follow() -> None:
    tiny = np.array([1.27, 1.27e-4, 1.27e-9], np.float32)  # reach of each channel; scales are reach / 127
    source = quantized(3.0, tiny / 127, IDENTITY * tiny[:, None, None, None])
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in to_typed_int8(source).graph.initializer}
    # 1e-6 is 16.8 steps of 2^-24, so 17; 1e-11 is none, so 1.
    np.testing.assert_array_equal(kept["scales/fp16"], np.array([0.01, 17 * 2.0**-24, 2.0**-24], np.float16))
    # 1.27 / 0.01; 1.27e-4 / (17 * 2^-24) = 125.3; 1.27e-9 / 2^-24 = 0.02
    np.testing.assert_array_equal(kept["integers"].reshape(3, 3).diagonal(), [127, 125, 0])
