"""What a graph computes of constants alone (pads, resampled tables) becomes a constant of it."""

from __future__ import annotations

import onnx
import onnxruntime
from onnx import helper, numpy_helper

from retinanet_edge.export.graph_editing import drop_unread


def fold_constants(model: onnx.ModelProto) -> None:
    """Replace every node that depends on no input of the graph by the initializers that it yields, in place.

    Compilers and quantizers then see the amounts of a Pad, and shape inference goes on behind it. Constant nodes that feed other
    nodes directly stay as they are.
    """
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    folded = []
    for node in graph.node:
        if node.input and all(not name or name in known for name in node.input):
            folded.append(node)
        if node.op_type == "Constant" or (folded and folded[-1] is node):
            known.update(node.output)
    if not folded:
        return
    kept = [node for node in graph.node if not any(node is other for other in folded)]
    read = {name for node in kept for name in node.input} | {output.name for output in graph.output}
    names = [name for node in folded for name in node.output if name in read]
    values = _evaluate(model, folded, names)
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(values)
    drop_unread(graph)


def _evaluate(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]) -> list[onnx.TensorProto]:
    """Return the tensors `names`, as ONNX Runtime computes them."""
    read = {name for node in nodes for name in node.input}
    constants = [node for node in model.graph.node if node.op_type == "Constant" and node.output[0] in read]
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in read]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]  # of a type that inference finds
    graph = helper.make_graph([*constants, *nodes], "constants", [], outputs, initializers)
    part = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    )
    session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    return [numpy_helper.from_array(value, name) for name, value in zip(names, session.run(names, {}), strict=True)]
