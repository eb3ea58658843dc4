"""Ranges of activations: by hand, against NumPy's own percentiles, and on a graph."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from retinanet_edge.export.calibrate import Magnitudes, activation_ranges
from retinanet_edge.runtime.errors import RetinaNetEdgeError


def magnitudes(*parts: np.ndarray) -> Magnitudes:
    found = Magnitudes()
    for part in parts:
        found.add(part.astype(np.float32))
    return found


def test_a_rare_outlier_counts_for_minmax_only() -> None:
    usual = np.linspace(-1, 1, 100_000)
    found = magnitudes(usual, np.array([50.0]))
    assert found.largest == 50.0
    # 99.99 % of 100,001 values: all but the 10 largest magnitudes, so just below 1; bins are 64 / 4096 wide.
    assert 1 - 2e-4 <= found.percentile(99.99) <= 1 + 64 / 4096


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), st.floats(1, 100))
def test_the_percentile_is_numpys_to_a_bin_in_whatever_order_values_come(scales: list[float], percent: float) -> None:
    generator = np.random.default_rng(0)
    parts = [scale * generator.normal(size=200) for scale in scales]
    found = magnitudes(*parts)
    everything = np.abs(np.concatenate(parts).astype(np.float32))
    width = 2 * everything.max() / 4096  # the histogram reaches at most twice as far as the largest value
    exact = np.percentile(everything, percent, method="inverted_cdf")
    assert exact - 1e-6 <= found.percentile(percent) <= exact + width * 1.001


@pytest.mark.parametrize(("values", "expected"), [([], 0.0), ([0.0, 0.0], 0.0), ([0.3, 0.3], 0.3), ([1e-30, 0.0], 1e-30), ([-8.0], 8.0)])
def test_empty_zero_constant_and_tiny_values(values: list[float], expected: float) -> None:
    assert magnitudes(np.array(values)).percentile(99.99) == pytest.approx(expected)


def graph(operator: str) -> onnx.ModelProto:
    """images uint8 -> float -> operator."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["pixels"], ["changed"]),
        helper.make_node("Neg", ["changed"], ["out"]),
    ]
    shape = ["N", 2, 2, 3]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)]
    made = helper.make_graph(nodes, "test", inputs, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_ranges_are_over_all_images() -> None:
    images = [np.full((2, 2, 3), value, np.uint8) for value in (4, 9)]
    assert activation_ranges(graph("Sqrt"), ["pixels", "changed"], images, "minmax") == {"pixels": 9, "changed": 3}


def test_values_that_are_not_finite_name_the_tensor() -> None:
    with pytest.raises(RetinaNetEdgeError, match="tensor changed is not finite"):
        activation_ranges(graph("Log"), ["changed"], [np.zeros((2, 2, 3), np.uint8)], "minmax")
