"""What build_engine.py --dry-run prints: the graph, and every decision of the plan. Needs neither TensorRT nor a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper

from retinanet_edge.export.build_options import NmsPath, size_text
from retinanet_edge.export.build_plan import BuildPlan
from retinanet_edge.export.engine_graph import EngineGraph, input_shape, typed_file_name
from retinanet_edge.export.graph_editing import find_constant
from retinanet_edge.export.nms import PLUGIN, PLUGIN_VERSION

_NMS_WORDS: dict[NmsPath, str] = {
    "efficient": f"plugin {PLUGIN} {PLUGIN_VERSION}, decode and sigmoid inside",
    "native": "ONNX NonMaxSuppression, decode and sigmoid as operators",
    "none": "none: raw heads",
}


def plan_lines(plan: BuildPlan, graph: EngineGraph, source: str) -> list[str]:
    """Return the lines. source: the name of the ONNX file that the engine is made of."""
    options = plan.options
    low, tuned, high = options.batch
    rows = {
        "source": source,
        **_graph_rows(graph.model),
        "input": _input_words(plan, graph),
        "batch": f"{low} to {high} images, tuned for {tuned}",
        "precision": f"{options.precision}: {_route(plan)}",
        "NMS": _nms_words(plan),
        "top-K": plan.top_k_words,
        "candidates": f"{plan.anchors} anchors an image",
        "memory": _memory_words(plan, graph.model),
        "workspace": _workspace_words(plan),
        "device": "GPU" if options.dla_core is None else f"DLA core {options.dla_core}, the GPU for what it does not take",
        "also": ", ".join(_further(plan)) or "nothing",
        "timing cache": str(plan.timing_cache or "one for each GPU and TensorRT, in the model folder"),
        "TensorRT": str(plan.here.machine) if plan.here.machine else _no_machine(plan),
        "engine": plan.engine_file() or f"model.{options.precision}.<gpu>-trt<version>-<hash of the options>.engine",
    }
    return [f"{name:13s} {words}" for name, words in rows.items()]


def _graph_rows(model: onnx.ModelProto) -> dict[str, str]:
    graph = model.graph
    return {
        "graph": f"{len(graph.node)} operators, {_parameters(graph):,} parameters",
        "takes": ", ".join(map(_port_words, graph.input)),
        "gives": ", ".join(map(_port_words, graph.output)),
    }


def _port_words(port: onnx.ValueInfoProto) -> str:
    tensor = port.type.tensor_type
    kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    sizes = (str(size.dim_value) if size.HasField("dim_value") else size.dim_param for size in tensor.shape.dim)
    return f"{port.name} {kind} [{', '.join(sizes)}]"


def _weights(graph: onnx.GraphProto) -> list[TensorProto]:
    """Return the weights and biases of the convolutions, those behind Q/DQ or a Cast, too."""
    makers = {output: node for node in graph.node for output in node.output}
    names = {name for node in graph.node if node.op_type == "Conv" for name in node.input[1:]}
    found = []
    for name in sorted(names):
        source = name
        while source in makers and makers[source].op_type in ("QuantizeLinear", "DequantizeLinear", "Cast"):
            source = makers[source].input[0]
        if (tensor := find_constant(graph, source)) is not None:
            found.append(tensor)
    return found


def _parameters(graph: onnx.GraphProto) -> int:
    return sum(math.prod(tensor.dims) for tensor in _weights(graph))


def _input_words(plan: BuildPlan, graph: EngineGraph) -> str:
    if plan.options.camera_size is not None:
        return f"whole frames of {size_text(plan.options.camera_size)} pixels, letterboxed in the engine; boxes in frame pixels"
    if graph.float_input is not None:
        scale, offsets = graph.recorded().values()
        return f"RGB planes, {scale} * (pixel - offset), offsets {offsets} (DeepStream: net-scale-factor, offsets, model-color-format=0)"
    return "letterboxed images, BGR"


def _route(plan: BuildPlan) -> str:
    precision = plan.options.precision
    if precision == "fp32":
        return "without TF32"
    flags = f"{'FP16' if precision == 'fp16' else 'INT8 and FP16'} allowed by builder flags, decode and NMS held in FP32"
    typed = f"types of {typed_file_name(precision, weakly_typed=False)}, which is made of the source"
    if plan.here.weakly_typed is None:
        return f"below TensorRT 11 {flags}; from 11 on {typed}"
    return flags if plan.here.weakly_typed else typed


def _nms_words(plan: BuildPlan) -> str:
    nms, path = plan.nms, plan.options.nms
    words = _NMS_WORDS[path]
    if path != "none":
        words += f"; score {nms.score_threshold:g}, IoU {nms.iou_threshold:g}, at most {nms.max_detections} boxes"
    if path == "efficient" and plan.here.has_plugin is False:
        words += "; this TensorRT does not have it: --nms native does without"
    return words


def _memory_words(plan: BuildPlan, model: onnx.ModelProto) -> str:
    """Say what is known before the build: activations are the builder's choice."""
    bytes_each = {"fp32": 4, "fp16": 2, "int8": 1}[plan.options.precision]
    kind = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    images = math.prod(input_shape(model, plan.options.max_batch)) * kind.itemsize
    parts = [f"weights about {_mib(_parameters(model.graph) * bytes_each)}", f"input {_mib(images)}"]
    if plan.options.nms == "efficient":
        parts.append(f"plugin {_mib(plan.plugin_bytes)}")
    return f"{', '.join(parts)} at batch {plan.options.max_batch}, besides activations"


def _mib(count: float) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def _workspace_words(plan: BuildPlan) -> str:
    if plan.workspace_mib is None:
        return "half of what is free on the GPU"
    share = "" if plan.options.workspace_mib is not None else f", half of the {(plan.here.free_bytes or 0) >> 20} MiB that are free"
    return f"{plan.workspace_mib} MiB{share}"


def _further(plan: BuildPlan) -> Iterator[str]:
    options = plan.options
    if options.optimization_level is not None:
        yield f"optimisation level {options.optimization_level}"
    if options.version_compatible:
        yield "version compatible"
    if options.hardware_compatible:
        yield "hardware compatible (Ampere and newer)"


def _no_machine(plan: BuildPlan) -> str:
    if plan.here.tensorrt is None:
        return f"none here: {plan.here.lacking}"
    return f"{plan.here.tensorrt}, but no engine can be built here: {plan.here.lacking}"
