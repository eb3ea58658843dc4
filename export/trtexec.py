"""The call of NVIDIA's trtexec that builds the same engine: for comparing, for reports to NVIDIA, for machines without Python.

Options as trtexec of TensorRT 8.5 to 11 prints them with --help. It names layers by the ONNX nodes that they come from.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto

from retinanet_edge.export.build_plan import BuildPlan
from retinanet_edge.export.engine_graph import INPUT, input_shape

_TYPE_WORDS = {TensorProto.FLOAT: "fp32", TensorProto.INT32: "int32", TensorProto.INT64: "int32"}
_WITHOUT_PRECISION = ("Constant", "Shape", "QuantizeLinear", "DequantizeLinear")


def trtexec_command(plan: BuildPlan, model: onnx.ModelProto, onnx_file: Path, engine_file: Path) -> str:
    """Return the command, an option a line. model: the whole graph, which is in `onnx_file`."""
    arguments = ["trtexec", f"--onnx={onnx_file}", f"--saveEngine={engine_file}", *_arguments(plan, model)]
    return " \\\n  ".join(map(shlex.quote, arguments))


def _arguments(plan: BuildPlan, model: onnx.ModelProto) -> Iterator[str]:
    options = plan.options
    for name, batch in zip(("min", "opt", "max"), options.batch, strict=True):
        yield f"--{name}Shapes={INPUT}:{'x'.join(map(str, input_shape(model, batch)))}"
    yield from _precision(plan, model)
    if plan.workspace_mib is not None:
        yield f"--memPoolSize=workspace:{plan.workspace_mib}"
    if plan.timing_cache is not None:
        yield f"--timingCacheFile={plan.timing_cache}"
    if plan.here.weakly_typed is not False and not options.external_tactics:
        yield "--tacticSources=-CUBLAS,-CUBLAS_LT,-CUDNN"
    if options.optimization_level is not None:
        yield f"--builderOptimizationLevel={options.optimization_level}"
    if options.version_compatible:
        yield "--versionCompatible"
    if options.hardware_compatible:
        yield "--hardwareCompatibilityLevel=ampere+"
    yield "--profilingVerbosity=detailed"
    if options.verbose:
        yield "--verbose"


def _precision(plan: BuildPlan, model: onnx.ModelProto) -> Iterator[str]:
    options = plan.options
    if options.precision == "fp32":
        yield "--noTF32"
        return
    held = fp32_nodes(model)
    if plan.here.weakly_typed is not False:
        yield "--fp16"
        if options.precision == "int8":
            yield "--int8"
        yield "--precisionConstraints=obey"
        yield "--layerPrecisions=" + ",".join(f"{name}:fp32" for name in held)
        yield "--layerOutputTypes=" + ",".join(f"{name}:{'+'.join(kinds)}" for name, kinds in held.items())
    if options.dla_core is not None:
        yield f"--useDLACore={options.dla_core}"
        yield "--allowGPUFallback"
        yield "--layerDeviceTypes=" + ",".join(f"{name}:GPU" for name in held)


def fp32_nodes(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Return the nodes from the last convolutions to the outputs that compute in FP32, each with trtexec's words for its outputs' types.

    They are those that fp32_layers.py holds in FP32 in the network that TensorRT makes of them.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    ports = (*graph.input, *graph.value_info, *graph.output)
    kinds = {port.name: port.type.tensor_type.elem_type for port in ports} | {t.name: t.data_type for t in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    reached: set[str] = set()  # by first output
    waiting = [output.name for output in graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.output[0] in reached:
            continue
        reached.add(node.output[0])
        if node.op_type not in ("Conv", *_WITHOUT_PRECISION):
            waiting += node.input
    return {
        node.name: [_TYPE_WORDS[kinds[name]] for name in node.output]
        for node in graph.node if node.output[0] in reached and node.op_type not in _WITHOUT_PRECISION and _computes(node, kinds)
    }  # fmt: skip


def _computes(node: onnx.NodeProto, kinds: dict[str, int]) -> bool:
    """Say whether a node has FP32 values to compute with; a Cast of indexes only makes them."""
    names = node.input if node.op_type == "Cast" else (*node.input, *node.output)
    return any(kinds.get(name) == TensorProto.FLOAT for name in names)
