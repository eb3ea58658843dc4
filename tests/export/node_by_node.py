"""Runs a graph node by node, each on its own in ONNX Runtime, so that what passes between nodes is rounded to its stated type.

ONNX Runtime has few FP16 kernels for CPUs: it computes whole stretches in FP32 between two Casts, and so hides what FP16 loses. A GPU
rounds behind every kernel, and sums in FP32 within one, as this does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every tensor."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def run_node_by_node(model: onnx.ModelProto, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Return every tensor of the graph, by name."""
    types = tensor_types(model)
    values: dict[str, NDArray[Any]] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values["images"] = images
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for node in model.graph.node:
        inputs = [helper.make_tensor_value_info(name, types[name], None) for name in dict.fromkeys(node.input) if name]
        outputs = [helper.make_tensor_value_info(name, types[name], None) for name in node.output]
        alone = helper.make_model(
            helper.make_graph([node], "node", inputs, outputs), opset_imports=model.opset_import, ir_version=model.ir_version
        )
        session = onnxruntime.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(None, {port.name: values[port.name] for port in inputs})
        values.update(zip(node.output, found, strict=True))
    return values
