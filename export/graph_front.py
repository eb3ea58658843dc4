"""The front of the portable graph: from `images` uint8 [N, H, W, 3] BGR to the network's float32 [N, 3, H, W] RGB, normalised.

It is found by what it does and not by its names, and compared with the card. What takes its place is the caller's matter.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.export.graph_editing import copy_of, drop_unread, find_constant, readers
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import InputSpec

INPUT = "images"
BGR_TO_RGB = (2, 1, 0)
_KINDS = ["Cast", "Gather", "Sub", "Mul", "Transpose"]  # to float, BGR to RGB, mean, std, to NCHW
_TO_NCHW = [0, 3, 1, 2]


def mean_and_inverse_std(spec: InputSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what is subtracted and what is multiplied with, float32 [3] each, RGB: (x - mean) * inverse_std, as in training."""
    return np.array(spec.mean, np.float32), np.float32(1) / np.array(spec.std, np.float32)


def without_front(model: onnx.ModelProto, spec: InputSpec) -> tuple[onnx.ModelProto, str]:
    """Return a copy of the portable graph, FP32 or with Q/DQ, without its front, and the name of the tensor that the front made.

    The tensor, float32 [N, 3, H, W], is for the caller to make otherwise. Raises EngineError for a graph that does not begin with its
    card's normalisation of its card's input size.
    """
    copied = copy_of(model)
    graph = copied.graph
    front = _chain_from_input(graph)
    if _input_type(graph) != [TensorProto.UINT8, spec.height, spec.width, 3] or not _normalises(graph, front, spec):
        raise EngineError(
            f"the graph must begin with {INPUT} uint8 [N, {spec.height}, {spec.width}, 3] and {', '.join(_KINDS)} of its card's mean and "
            f"std, got {_words(_input_type(graph))} and {', '.join(node.op_type for node in front)}: run python export/export_onnx.py"
        )
    for node in front:
        graph.node.remove(node)
    drop_unread(graph)
    return copied, str(front[-1].output[0])


def set_input(graph: onnx.GraphProto, kind: int, sides: tuple[int, int, int]) -> None:
    """Let the graph's only input have this element type and, after the batch, these sides."""
    tensor = graph.input[0].type.tensor_type
    tensor.elem_type = kind
    for dimension, side in zip(tensor.shape.dim[1:], sides, strict=True):
        dimension.dim_value = side


def _input_type(graph: onnx.GraphProto) -> list[int]:
    """Return element type and sides without the batch; [] unless `images` is the only input."""
    if [port.name for port in graph.input] != [INPUT]:
        return []
    tensor = graph.input[0].type.tensor_type
    return [tensor.elem_type, *(dimension.dim_value for dimension in tensor.shape.dim[1:])]


def _words(found: list[int]) -> str:
    if not found:
        return "other inputs"
    return f"{TensorProto.DataType.Name(found[0]).lower()} [N, {', '.join(map(str, found[1:]))}]"


def _chain_from_input(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes from the input on, as many as a front has, as long as each is alone in reading what the one before makes."""
    chain: list[onnx.NodeProto] = []
    name = INPUT
    while len(chain) < len(_KINDS) and len(alone := readers(graph, name)) == 1:
        chain += alone
        name = alone[0].output[0]
    return chain


def _normalises(graph: onnx.GraphProto, chain: list[onnx.NodeProto], spec: InputSpec) -> bool:
    if [node.op_type for node in chain] != _KINDS:
        return False
    cast, gather, subtract, multiply, transpose = chain
    tensors = [find_constant(graph, node.input[1]) for node in (gather, subtract, multiply)]
    constants = [numpy_helper.to_array(tensor) for tensor in tensors if tensor is not None]
    settings = [(a.name, helper.get_attribute_value(a)) for node in (cast, gather, transpose) for a in node.attribute]
    expected = (np.array(BGR_TO_RGB), *mean_and_inverse_std(spec))
    return (
        settings == [("to", TensorProto.FLOAT), ("axis", 3), ("perm", _TO_NCHW)]
        and len(constants) == len(expected)
        and all(ours.shape == card.shape and np.allclose(ours, card, rtol=1e-6) for ours, card in zip(constants, expected, strict=True))
    )
