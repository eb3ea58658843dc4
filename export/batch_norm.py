"""BatchNorm that no convolution precedes (pre-activation ResNets, DenseNets), as a multiplication and an addition."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper


def replace_batch_norm(graph: onnx.GraphProto) -> None:
    """Turn every BatchNormalization of a graph into Mul and Add of constants [C, 1, 1], in place: y = x * scale + shift.

    scale = gamma / sqrt(variance + epsilon), shift = beta - mean * scale. The statistics must be initializers.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.extend(_scale_and_shift(node, graph, constants) if node.op_type == "BatchNormalization" else [node])
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _scale_and_shift(
    node: onnx.NodeProto, graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    gamma, beta, mean, variance = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[1:5])
    epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
    scale = gamma / np.sqrt(variance + epsilon)
    output = node.output[0]
    for part, values in (("scale", scale), ("shift", beta - mean * scale)):
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32)[:, None, None], f"{output}/{part}"))
    return (
        onnx.helper.make_node("Mul", [node.input[0], f"{output}/scale"], [f"{output}/scaled"], name=f"{node.name}/scale"),
        onnx.helper.make_node("Add", [f"{output}/scaled", f"{output}/shift"], [output], name=f"{node.name}/shift"),
    )
