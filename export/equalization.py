"""Cross-layer equalization: the same FP32 function with channels between convolutions scaled to what INT8 holds best.

M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019), section 4.1, with two differences. Weights
have a scale for each output channel here, so that not the first convolution's weights are weighed against the second's but what comes out
of it. And factors are powers of two: in FP32 nothing is rounded, and the last digits, in which machines differ, hardly ever matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from retinanet_edge.export.calibrate import tensor_session
from retinanet_edge.export.graph_editing import copy_of, readers
from retinanet_edge.export.placement import quantizable_layers

_IMAGES: Final = 16  # for what comes out of each channel
_CHECKED_IMAGES, _TOLERANCE = 4, 1e-3


@dataclass(frozen=True)
class Pair:
    """A convolution, the one that alone reads it, and the tensors between them: its output, and that of a ReLU where there is one."""

    maker: onnx.NodeProto
    reader: onnx.NodeProto
    tensors: tuple[str, ...]


def equalized(model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]]) -> onnx.ModelProto:
    """Return a copy of the portable FP32 graph with equalized channels, where pairs() has some.

    A channel is multiplied by sqrt(w / a): a is the largest magnitude that comes out of it, w that of the weights that read it. images:
    letterboxed uint8 [H, W, 3] BGR, of which the first ones are looked at.
    """
    found, weights = pairs(model.graph), _constants(model)
    if not found:
        return copy_of(model)
    reaches = _reaches(model, [pair.tensors[-1] for pair in found], images[:_IMAGES])
    return scaled(model, {pair.maker.name: _factors(reaches[pair.tensors[-1]], weights[pair.reader.input[1]]) for pair in found})


def pairs(graph: onnx.GraphProto) -> list[Pair]:
    """Return the INT8 convolutions whose channels can be scaled, each with the INT8 one, dense or depthwise, that undoes it.

    That one alone must read it, at once or through a ReLU, which leaves a factor as it is; ReLU6 and smooth activations do not. Weights
    or biases that others use, too, as those of the heads on all levels, stay.
    """
    layers, shapes = set(quantizable_layers(graph)), {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    found = []
    for maker in (node for node in graph.node if node.name in layers):
        tensors = [maker.output[0]]
        reader = _only_reader(graph, tensors[0], uses)
        if reader is not None and reader.op_type == "Relu":
            tensors.append(reader.output[0])
            reader = _only_reader(graph, tensors[1], uses)
        if reader is None or reader.name not in layers:
            continue
        changed = (*maker.input[1:], reader.input[1])
        if all(name in shapes and uses[name] == 1 for name in changed) and _is_dense_or_depthwise(shapes, maker, reader):
            found.append(Pair(maker, reader, tuple(tensors)))
    return found


def scaled(model: onnx.ModelProto, factors: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """Return a copy with output channels multiplied by `factors`, by the name of a pair's maker, and the reader's weights divided."""
    made, weights = copy_of(model), _constants(model)
    for pair in pairs(model.graph):
        factor = factors[pair.maker.name].reshape(-1, 1, 1, 1)
        kernel, *bias = pair.maker.input[1:]
        with np.errstate(over="ignore"):  # is_same_function finds what is no longer finite
            weights[kernel] = weights[kernel] * factor
            for name in bias:
                weights[name] = weights[name] * factor.ravel()
        following = weights[pair.reader.input[1]]
        weights[pair.reader.input[1]] = following / (factor if _is_depthwise(following.shape, len(factor)) else factor.swapaxes(0, 1))
    for tensor in made.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return made


def is_same_function(model: onnx.ModelProto, other: onnx.ModelProto, images: Sequence[NDArray[np.uint8]]) -> bool:
    """Say whether two networks give the same logits and deltas on images but for what rounding may do."""
    networks = [tensor_session(each, ("class_logits", "box_deltas")) for each in (model, other)]
    for image in images[:_CHECKED_IMAGES]:
        outputs = zip(*(network.run(None, {"images": image[None]}) for network in networks), strict=True)
        if not all(np.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE) for expected, found in outputs):
            return False
    return True


def _factors(reaches: NDArray[np.float32], kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the factor of each channel, 1 where it or what reads it is 0; kernel: of the reader [outputs, inputs, h, w]."""
    by_channel = kernel if _is_depthwise(kernel.shape, len(reaches)) else kernel.swapaxes(0, 1)
    weights = np.abs(by_channel).max(axis=(1, 2, 3))
    alive = (reaches > 0) & (weights > 0)
    ratios = np.where(alive, weights, 1).astype(np.float64) / np.where(alive, reaches, 1)
    factors: NDArray[np.float32] = np.exp2(np.rint(np.log2(ratios) / 2)).astype(np.float32)
    return factors


def _reaches(model: onnx.ModelProto, tensors: Sequence[str], images: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
    """Return the largest magnitude of each channel of tensors [N, C, h, w] over images."""
    session = tensor_session(model, tensors)
    reaches: dict[str, NDArray[np.float32]] = {}
    for image in images:
        for name, values in zip(tensors, session.run(None, {"images": image[None]}), strict=True):
            reaches[name] = np.maximum(np.abs(values).max(axis=(0, 2, 3)), reaches.get(name, np.float32(0)))
    return reaches


def _only_reader(graph: onnx.GraphProto, name: str, uses: Mapping[str, int]) -> onnx.NodeProto | None:
    """Return the node that reads a tensor, None where that is used more than once or is an output."""
    return next(iter(readers(graph, name)), None) if uses[name] == 1 else None


def _is_dense_or_depthwise(shapes: Mapping[str, tuple[int, ...]], maker: onnx.NodeProto, reader: onnx.NodeProto) -> bool:
    """Whether each channel between the two has weights of its own in the reader."""
    channels, kernel = shapes[maker.input[1]][0], shapes[reader.input[1]]
    return kernel[1] == channels or _is_depthwise(kernel, channels)


def _is_depthwise(kernel: Sequence[int], channels: int) -> bool:
    """Say it of weights of the shape (outputs, inputs of a group, h, w) that read so many channels."""
    return kernel[0] == channels and kernel[1] == 1


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
