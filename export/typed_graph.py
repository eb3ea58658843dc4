"""The typed files for TensorRT 11, which takes the types of a network from its file: FP16, and FP16 with Q/DQ.

    model.onnx       -> model.fp16.onnx        backbone, pyramid and heads in FP16, the rest in FP32; opset 17
    model.int8.onnx  -> model.int8.typed.onnx  the same with Q/DQ at the same places; opset 19, the first whose scales may be FP16

Inputs and outputs are the contract's in name, type and shape, and the plugin is appended as to model.onnx. Needs onnx and NumPy
only, since it runs where engines are built. half_precision.py decides what stays FP32.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from retinanet_edge.export.half_precision import is_subnormal, to_half_precision
from retinanet_edge.runtime.errors import EngineError

_SOURCE_OPSET, _QDQ_OPSET = 17, 19
_PORTS = {"images": ("UINT8", 4), "class_logits": ("FLOAT", 3), "box_deltas": ("FLOAT", 3), "anchors": ("FLOAT", 3)}
_KEPT = "constants_kept_in_fp32"
_FINEST, _SMALLEST_NORMAL = np.float32(2.0**-24), np.float32(2.0**-14)  # FP16's steps below 2^-14 are all 2^-24


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return model.onnx typed for FP16. Raises EngineError for another graph than the contract's, with Q/DQ, or typed already."""
    _check(model, quantized=False)
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    return _typed(typed)


def to_typed_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return model.int8.onnx typed for FP16 with INT8: FP16 scales and INT8 weights. Raises EngineError as to_fp16 does, without Q/DQ.

    Weights become INT8 with their DequantizeLinear alone. TensorRT 10 and later read that as they read Q and DQ; the integers are
    those that the verdict was given for, whatever FP16 does to weights; and the file is a quarter as large.
    """
    _check(model, quantized=True)
    typed = version_converter.convert_version(model, _QDQ_OPSET)
    typed.ir_version = max(typed.ir_version, helper.find_min_ir_version_for(typed.opset_import))
    _store_weights_as_int8(typed.graph)
    return _typed(typed)


def kept_in_fp32(typed: onnx.ModelProto) -> tuple[str, ...]:
    """Return the constants of a typed model that stayed FP32 because FP16 does not hold their values."""
    entries = {entry.key: entry.value for entry in typed.metadata_props}
    return tuple(entries.get(_KEPT, "").splitlines())


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    kept = to_half_precision(model)
    if kept:
        helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | {_KEPT: "\n".join(kept)})
    onnx.checker.check_model(model, full_check=True)
    return model


def _check(model: onnx.ModelProto, *, quantized: bool) -> None:
    """Raise EngineError unless a model is the contract's FP32 graph, with Q/DQ or without."""
    graph = model.graph
    ports = {port.name: port.type.tensor_type for port in (*graph.input, *graph.output)}
    found = {name: (TensorProto.DataType.Name(port.elem_type), len(port.shape.dim)) for name, port in ports.items()}
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if found != _PORTS or opsets != {"": _SOURCE_OPSET}:
        raise EngineError(
            f"the graph must have the types and dimensions {_PORTS} and the opset {_SOURCE_OPSET}, got {found} and {opsets}: "
            "run python export/export_onnx.py"
        )
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer):
        raise EngineError("the graph must be FP32, got one that is typed as FP16 already: take model.onnx or model.int8.onnx")
    if quantized != any(node.op_type == "QuantizeLinear" for node in graph.node):
        wanted, file, command = (
            ("with Q/DQ", "model.int8.onnx", "build_engine.py --int8") if quantized else ("without Q/DQ", "model.onnx", "export_onnx.py")
        )
        raise EngineError(f"the graph must be one {wanted}, as {file} is, got another: run python export/{command}")


def _store_weights_as_int8(graph: onnx.GraphProto) -> None:
    """Replace every QuantizeLinear of an initializer by the integers that it yields."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    axes = {node.input[0]: _axis(node) for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in constants]:
        weights, scales = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
        half = _fp16_scales(scales)
        # Where the scale is as good in FP16, the integers stay; where it is coarser there, they are taken anew for it.
        exact = np.where(scales < _SMALLEST_NORMAL, half, scales)
        integers = _quantized(weights, exact, axes[node.output[0]])
        constants[node.input[1]].CopyFrom(numpy_helper.from_array(half, node.input[1]))
        graph.initializer.append(numpy_helper.from_array(integers, node.output[0]))
        graph.node.remove(node)


def _axis(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 1)


def _quantized(weights: NDArray[np.float32], scales: NDArray[np.float32], axis: int) -> NDArray[np.int8]:
    shape = [1] * weights.ndim
    if scales.ndim:
        shape[axis] = len(scales)
    integers: NDArray[np.int8] = np.clip(np.rint(weights / scales.reshape(shape)), -128, 127).astype(np.int8)
    return integers


def _fp16_scales(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scales as FP16 will hold them, those of channels near zero (below 2^-14) rounded up: none becomes 0 or clips its weights.

    Where all are so small they return as they are, and to_half_precision keeps them in FP32.
    """
    if is_subnormal(scales):
        return scales
    steps = np.maximum(np.ceil(scales / _FINEST), 1) * _FINEST
    return np.where(scales < _SMALLEST_NORMAL, steps, scales).astype(np.float32)
