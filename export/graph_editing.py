"""The small steps that every change of a finished graph is made of: add a node, a constant; find one; drop what nothing reads.

Plain onnx, since engines are built where there is neither torch nor ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that shares nothing with the model."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def add_node(graph: onnx.GraphProto, kind: str, name: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
    """Add a node of one output behind the others and return the output's name, by default the node's own."""
    graph.node.append(helper.make_node(kind, inputs, [output or name], name, **attributes))
    return output or name


def add_maximum(model: onnx.ModelProto, name: str, values: str, axis: int) -> str:
    """Add the maximum along an axis, which then is gone, and return the output's name. Axes are an input from opset 18 on."""
    graph = model.graph
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    if opset < 18:
        return add_node(graph, "ReduceMax", name, [values], axes=[axis], keepdims=0)
    return add_node(graph, "ReduceMax", name, [values, add_constant(graph, f"{name}/axes", np.array([axis]))], keepdims=0)


def add_constant(graph: onnx.GraphProto, name: str, values: NDArray[Any]) -> str:
    """Add an initializer of the array's type and shape and return its name."""
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def find_constant(graph: onnx.GraphProto, name: str) -> onnx.TensorProto | None:
    """Return the tensor behind a name, be it an initializer or the value of a Constant node; None where it is computed."""
    values = (a.t for n in graph.node if n.op_type == "Constant" and name in n.output for a in n.attribute if a.name == "value")
    return next((tensor for tensor in graph.initializer if tensor.name == name), next(values, None))


def readers(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    """Return the nodes that read a tensor."""
    return [node for node in graph.node if name in node.input]


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the constants that nothing reads any more, and what is noted of tensors that are no more."""
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in [node for node in graph.node if node.op_type == "Constant" and node.output[0] not in read]:
        graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    for value in [value for value in graph.value_info if value.name not in read]:
        graph.value_info.remove(value)
