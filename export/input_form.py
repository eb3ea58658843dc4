"""The graph as programs want it that prepare their images themselves: float32 [N, 3, H, W] RGB, after the normalisation.

DeepStream's nvinfer hands over net-scale-factor * (x - offsets[channel]), with one scale for all channels. What is then left of the
standard deviations goes into the first convolution's weights. Plain onnx at opset 17, which TensorRT 8.5 reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from retinanet_edge.export.graph_editing import add_constant, add_node, drop_unread, find_constant, readers
from retinanet_edge.export.graph_front import INPUT, set_input, without_front
from retinanet_edge.runtime.model_card import InputSpec

_PREFIX = "fp32_nchw"


@dataclass(frozen=True)
class FloatInput:
    """What the graph takes as `images`: scale * (x - offsets[channel]) of pixels x of 0 to 255, channels RGB."""

    scale: float
    offsets: tuple[float, float, float]


def to_fp32_nchw(model: onnx.ModelProto, input_spec: InputSpec) -> tuple[onnx.ModelProto, FloatInput]:
    """Return a copy of the portable graph whose `images` are float32 [N, 3, H, W], and how they are made of pixels.

    model: FP32 or with Q/DQ, with or without top-K per level, before NMS is appended. scale is one over the mean of the three standard
    deviations. Where they differ, each channel's rest is folded into the weights of the convolutions that read the image, or, where one
    of its readers is something else, multiplied in front of it. Raises EngineError for a graph that does not begin with its card's
    normalisation.
    """
    changed, normalised = without_front(model, input_spec)
    graph = changed.graph
    set_input(graph, TensorProto.FLOAT, (3, input_spec.height, input_spec.width))
    std = np.array(input_spec.std, np.float64)
    scale = 1 / float(std.mean())
    rest = (1 / (scale * std)).astype(np.float32)  # (x - mean) / std = y * rest
    if np.all(rest == 1):
        _rename(graph, normalised, INPUT)
    elif convolutions := _first_convolutions(graph, normalised):
        _fold(graph, convolutions, rest)
        _rename(graph, normalised, INPUT)
    else:
        _multiply(graph, normalised, rest)
    drop_unread(graph)
    onnx.checker.check_model(changed, full_check=True)
    red, green, blue = input_spec.mean
    return changed, FloatInput(scale, (red, green, blue))


def _first_convolutions(graph: onnx.GraphProto, image: str) -> list[onnx.NodeProto]:
    """Return the convolutions that read the image, directly or behind a border of zeros; [] where anything else reads it, too.

    Of a graph with Q/DQ that is []: both the image's and the weights' scales were calibrated with the deviations taken out, one scale
    for three channels. Folded in, the image would be rounded in other steps for each channel, and its accuracy would be another than
    the one that was measured; a multiplication in front of Q is exact, and joins it in one pass over the image.
    """
    found: list[onnx.NodeProto] = []
    for node in readers(graph, image):
        if node.op_type == "Pad" and _pads_with_zeros(graph, node):
            behind = _first_convolutions(graph, node.output[0])
        else:
            behind = [node] if node.op_type == "Conv" and _channels(graph, node) == 3 else []
        if not behind:
            return []
        found += behind
    return found


def _pads_with_zeros(graph: onnx.GraphProto, pad: onnx.NodeProto) -> bool:
    if any(attribute.name == "mode" and attribute.s != b"constant" for attribute in pad.attribute):
        return False
    if not any(pad.input[2:3]):
        return True  # what ONNX fills with where nothing is named
    fill = find_constant(graph, pad.input[2])
    return fill is not None and not numpy_helper.to_array(fill).any()


def _channels(graph: onnx.GraphProto, convolution: onnx.NodeProto) -> int:
    """Return the input channels that each filter sees; 0 where the weights are computed, as behind DQ."""
    weights = find_constant(graph, convolution.input[1])
    return weights.dims[1] if weights is not None else 0


def _fold(graph: onnx.GraphProto, convolutions: list[onnx.NodeProto], rest: NDArray[np.float32]) -> None:
    """Give each convolution weights of its own [O, 3, kh, kw], times the channel's rest: equal weights may be one constant."""
    for index, convolution in enumerate(convolutions):
        weights = find_constant(graph, convolution.input[1])
        assert weights is not None
        scaled = numpy_helper.to_array(weights) * rest[:, None, None]
        convolution.input[1] = add_constant(graph, f"{_PREFIX}/weights{index}", scaled)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in readers(graph, old):
        node.input[:] = [new if name == old else name for name in node.input]


def _multiply(graph: onnx.GraphProto, normalised: str, rest: NDArray[np.float32]) -> None:
    network = list(graph.node)
    del graph.node[:]
    factors = add_constant(graph, f"{_PREFIX}/rest", rest[:, None, None])
    add_node(graph, "Mul", f"{_PREFIX}/normalised", [INPUT, factors], output=normalised)
    graph.node.extend(network)
