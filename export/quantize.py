"""INT8 as explicit Q/DQ in the ONNX graph, placed where TensorRT fuses best; made by ONNX Runtime's quantizer.

What is quantized: the inputs and weights of every convolution but the last of each head, and the skip side of every addition
of two branches. What is not: outputs of convolutions (their consumers quantize them), the convolution side of an addition, so
that convolution and addition fuse, anything before a Resize, biases, and all from the last convolutions on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from retinanet_edge.export.calibrate import Method, activation_ranges

_QUANTIZED = ("Conv", "Add")
_OPTIONS = {
    "ActivationSymmetric": True,  # TensorRT takes no zero point
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,  # TensorRT 8 refuses an INT8 initializer in front of DQ
    "QuantizeBias": False,
    "DedicatedQDQPair": False,
    "QDQOpTypePerChannelSupportToAxis": {"Conv": 0},
    "OpTypesToExcludeOutputQuantization": ["Conv", "Add"],
    "ForceQuantizeNoInputCheck": True,
    "QDQDisableWeightAdjustForInt32Bias": True,
}


def quantize(source: Path, target: Path, images: Sequence[NDArray[np.uint8]], method: Method) -> None:
    """Write `source`, the portable FP32 graph, with Q/DQ to `target`; scales from `images`, letterboxed uint8 [H, W, 3] BGR."""
    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    graph = model.graph
    excluded = [*_last_convolutions(graph), *_additions_of_constants(graph)]
    ranges = activation_ranges(model, _quantized_activations(graph, excluded), images, method)
    limits = {name: (np.float32(-limit), np.float32(limit)) for name, limit in ranges.items()}
    quantizer = QDQQuantizer(
        model, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8, activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits), nodes_to_quantize=[], nodes_to_exclude=excluded,
        op_types_to_quantize=list(_QUANTIZED), extra_options=_OPTIONS,
    )  # fmt: skip
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    model = quantizer.model.model
    _free_convolution_sides(model.graph)
    _free_resizes(model.graph)
    _remove_orphans(model.graph)
    _keep_used_domains(model)
    model.producer_name = "retinanet-edge"
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def _quantized_activations(graph: onnx.GraphProto, excluded: Sequence[str]) -> list[str]:
    """Return the tensors that convolutions and additions read, but for weights and what only excluded nodes read."""
    constants = _constants(graph)
    nodes = (node for node in graph.node if node.op_type in _QUANTIZED and node.name not in excluded)
    return list(dict.fromkeys(name for node in nodes for name in node.input if name not in constants))


def _constants(graph: onnx.GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}


def _producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in graph.node for output in node.output}


def _last_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the convolutions nearest to the outputs, and of what stands between: none of it is quantized."""
    producers, excluded = _producers(graph), []
    waiting = [output.name for output in graph.output]
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.name in excluded:
            continue
        excluded.append(node.name)
        if node.op_type != "Conv":
            waiting += node.input
    return excluded


def _additions_of_constants(graph: onnx.GraphProto) -> list[str]:
    """Return the names of additions that do not join two branches (an activation's or normalisation's arithmetic)."""
    constants = _constants(graph)
    return [node.name for node in graph.node if node.op_type == "Add" and constants & set(node.input)]


def _free_convolution_sides(graph: onnx.GraphProto) -> None:
    """Let every addition take its convolution's output as it is. Where both sides are convolutions, the deeper branch's."""
    producers = _producers(graph)
    depths = _depths(graph)
    for node in graph.node:
        if node.op_type != "Add":
            continue
        raw = [_before_qdq(name, producers) for name in node.input]
        sides = [i for i, name in enumerate(raw) if name in producers and producers[name].op_type == "Conv"]
        if sides:
            side = max(sides, key=lambda i: depths[raw[i]])
            node.input[side] = raw[side]


def _free_resizes(graph: onnx.GraphProto) -> None:
    producers = _producers(graph)
    for node in graph.node:
        if node.op_type == "Resize":
            node.input[0] = _before_qdq(node.input[0], producers)


def _before_qdq(name: str, producers: dict[str, onnx.NodeProto]) -> str:
    """Return the tensor behind a Q/DQ pair, or `name` where there is none."""
    dequantize = producers.get(name)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return name
    raw: str = producers[dequantize.input[0]].input[0]
    return raw


def _depths(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the longest path from the input to each tensor, in nodes. ONNX graphs are sorted, so one pass does it."""
    depths: dict[str, int] = {}
    for node in graph.node:
        depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
        depths.update(dict.fromkeys(node.output, depth))
    return depths


def _remove_orphans(graph: onnx.GraphProto) -> None:
    """Remove Q and DQ nodes, and their scales, that nothing reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        orphans = [node for node in graph.node if not read & set(node.output)]
        if not orphans:
            break
        for node in orphans:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)


def _keep_used_domains(model: onnx.ModelProto) -> None:
    used = {node.domain for node in model.graph.node}
    for entry in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(entry)
