"""Ranges of activations on small graphs: over all images, one image at a time, and what is refused."""

import weakref
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from retinanet_edge.export.calibrate import activation_ranges, check_active, measure_activations
from retinanet_edge.runtime.errors import UserInputError


def graph(operator: str) -> onnx.ModelProto:
    """images uint8 -> float -> operator."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["pixels"], ["changed"], name="the/layer"),
        helper.make_node("Neg", ["changed"], ["out"]),
    ]
    shape = ["N", 2, 2, 3]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)]
    made = helper.make_graph(nodes, "test", inputs, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(*values: int) -> list[np.ndarray]:
    return [np.full((2, 2, 3), value, np.uint8) for value in values]


def test_ranges_are_over_all_images() -> None:
    assert activation_ranges(graph("Sqrt"), ["pixels", "changed"], images(4, 9), "minmax") == {"pixels": 9, "changed": 3}


def test_a_method_sees_how_often_values_come() -> None:
    ranges = {m: activation_ranges(graph("Sqrt"), ["pixels"], images(200, *[3] * 9999, 4), m)["pixels"] for m in ("minmax", "percentile")}
    # 12 of 120,012 values are 200, which is 1 in 10,001: beyond 99.99 %. Bins are 256 / 4096 wide.
    assert ranges == {"minmax": 200, "percentile": 4 + 256 / 4096}


class Watched(Sequence[np.ndarray]):
    """Images made when asked for; knows how many of them there are at once."""

    def __init__(self, count: int) -> None:
        self.count, self.most = count, 0
        self.made: list[weakref.ref[np.ndarray]] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if index >= self.count:
            raise IndexError
        made = np.full((2, 2, 3), index, np.uint8)
        self.made.append(weakref.ref(made))
        self.most = max(self.most, sum(reference() is not None for reference in self.made))
        return made


def test_one_image_is_in_memory_at_a_time() -> None:
    watched = Watched(50)
    assert activation_ranges(graph("Sqrt"), ["pixels"], watched, "minmax") == {"pixels": 49}
    assert watched.most <= 2  # the one before goes when the next one is there


def test_values_that_are_not_finite_name_tensor_and_layer() -> None:
    with pytest.raises(UserInputError, match=r"^tensor changed of layer the/layer \(Log\) must be finite.*--lr$"):
        measure_activations(graph("Log"), ["changed"], images(1, 0))


def test_a_tensor_that_is_all_zero_names_tensor_and_layer() -> None:
    with pytest.raises(UserInputError, match=r"^tensor changed of layer the/layer \(Sqrt\) must not be 0 everywhere"):
        check_active(graph("Sqrt"), activation_ranges(graph("Sqrt"), ["changed"], images(0, 0), "minmax"), ["changed"])
    seen = activation_ranges(graph("Sqrt"), ["changed"], images(0, 1), "minmax")
    check_active(graph("Sqrt"), seen, ["changed"])
    assert seen == {"changed": 1}
