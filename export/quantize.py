"""INT8 as explicit Q/DQ in the ONNX graph, where placement.py says: pairs that TensorRT from 8.5 on, OpenVINO and ONNX Runtime read.

Symmetric: q = clip(round(x / scale), -128, 127), scale = reach / 127, one for an activation, one for each output channel of weights.
Zero points are written out, all of them 0, and scales are FP32, as TensorRT 8.5 wants it; weights stay FP32 in front of their pair.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from retinanet_edge.export.calibrate import activation_ranges, check_active
from retinanet_edge.export.equalization import equalized
from retinanet_edge.export.graph_editing import add_constant, copy_of
from retinanet_edge.export.placement import Placement, choosable_tensors, find_placement
from retinanet_edge.runtime.model_card import CalibrationMethod

_STEPS = 127
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # what is smaller is lost in FP32 itself


def quantize(
    source: Path, target: Path, images: Sequence[NDArray[np.uint8]], method: CalibrationMethod, kept: Collection[str] = (),
    *, equalize: bool = False,
) -> None:  # fmt: skip
    """Write `source`, the portable FP32 graph, with Q/DQ to `target`; scales from `images`, letterboxed uint8 [H, W, 3] BGR.

    kept: names of convolutions that stay in float. equalize: scale channels first, which FP32 does not notice (equalization.py). Raises
    UserInputError as measure_activations and check_active do.
    """
    model = onnx.load(source)
    if equalize:
        model = equalized(model, images)
    # Whatever is kept: what else is measured shows in the last digits, as ONNX Runtime then fuses other operators.
    ranges = activation_ranges(model, choosable_tensors(model.graph), images, method)
    placement = find_placement(model.graph, kept)
    check_active(model, ranges, placement.tensors)
    onnx.save(insert_qdq(model, placement, ranges), target)


def insert_qdq(model: onnx.ModelProto, placement: Placement, ranges: Mapping[str, float]) -> onnx.ModelProto:
    """Return a copy of a graph with Q/DQ; `placement` is of this graph, `ranges` has the reach of each of its tensors."""
    quantized = copy_of(model)
    pairs = _Pairs(quantized.graph)
    reaches = placement.share_ranges(dict(ranges))
    places: dict[int, list[int]] = {}
    for index, place in placement.reads:
        places.setdefault(index, []).append(place)
    nodes = list(quantized.graph.node)
    del quantized.graph.node[:]
    for index, node in enumerate(nodes):
        for place in places.get(index, []):
            node.input[place] = pairs.of_activation(node.input[place], reaches[node.input[place]])
        if index in placement.convolutions:
            node.input[1] = pairs.of_weights(node.input[1])
        quantized.graph.node.append(node)
    quantized.producer_name = "retinanet-edge"
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


class _Pairs:
    """Puts one Q/DQ pair behind each tensor, at the end of what the graph has so far, however many read it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._made: dict[str, str] = {}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}

    def of_activation(self, name: str, reach: float) -> str:
        """Return the name of the tensor behind its pair."""
        return self._made.get(name) or self._add(name, _scales(np.float64(reach)), {})

    def of_weights(self, name: str) -> str:
        """Return the name of the weights [outputs, ...] behind their pair."""
        if name in self._made:
            return self._made[name]
        weights = numpy_helper.to_array(self._weights[name])
        return self._add(name, _scales(np.abs(weights).max(axis=tuple(range(1, weights.ndim)))), {"axis": 0})

    def _add(self, name: str, scales: NDArray[np.float32], axis: dict[str, int]) -> str:
        zeros = np.zeros(scales.shape, np.int8)
        steps = [add_constant(self._graph, f"{name}/scale", scales), add_constant(self._graph, f"{name}/zero_point", zeros)]
        integers, self._made[name] = f"{name}/quantized", f"{name}/dequantized"
        for kind, source, result in (("QuantizeLinear", name, integers), ("DequantizeLinear", integers, self._made[name])):
            self._graph.node.append(helper.make_node(kind, [source, *steps], [result], result, **axis))
        return self._made[name]


def _scales(reach: NDArray[np.float64] | np.float64) -> NDArray[np.float32]:
    """Return what a step of INT8 is worth; 1 where the reach is 0, as of a channel without weights."""
    scales = np.asarray(reach, np.float64) / _STEPS
    return np.where(scales > 0, np.maximum(scales, _SMALLEST_SCALE), 1.0).astype(np.float32)
