"""Decode and NMS in FP32 inside an FP16 or INT8 network: asked for before the build, read back after it. TensorRT below 11 only.

FP16 boxes lose a pixel from coordinate 1024 on. TensorRT may run the plugin in FP16 unless it and what feeds it, back to the last
convolutions, are held in FP32 layer by layer; a Cast in the ONNX file does not do it. Without the plugin the same holds for what stands in
its place, or for the raw heads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from retinanet_edge.export.nms import COUNT_OUTPUT, NODE
from retinanet_edge.runtime.errors import EngineError

_PLUGIN_INPUTS = 3
# The engine inspector's words: "Row major linear FP32" in TensorRT 8, "Float" in 10.
_FP32 = re.compile(r"FP32|\bFloat\b")


def hold_nms_in_fp32(network: Any) -> list[str]:
    """Hold all of a parsed network from the last convolutions to its outputs, NMS among it, in FP32. Return the layers' names."""
    import tensorrt as trt

    kinds = trt.LayerType
    without_precision = (kinds.CONSTANT, kinds.SHAPE, kinds.QUANTIZE, kinds.DEQUANTIZE)
    ends = (kinds.CONVOLUTION, *without_precision)
    makers = {tensor.name: layer for layer in _layers(network) for tensor in _outputs(layer)}
    held: list[str] = []
    seen: set[str] = set()
    waiting = [makers[network.get_output(index).name] for index in range(network.num_outputs)]
    while waiting:
        layer = waiting.pop()
        if layer.name in seen:
            continue
        seen.add(layer.name)
        if layer.type not in without_precision and _computes_in_fp32(layer):
            held.append(layer.name)
            _hold(layer, trt.float32)
        if layer.type not in ends:  # through indexes, too: what top-K selects hangs on the logits that it compares
            names = [tensor.name for tensor in _inputs(layer)]
            waiting += [makers[name] for name in names if name in makers]  # the network's inputs have no maker
    return held


def _computes_in_fp32(layer: Any) -> bool:
    """Say whether a layer has FP32 values to compute with; those that make them of others, as a Cast of indexes, only convert."""
    import tensorrt as trt

    kinds = trt.LayerType
    converts = layer.type == kinds.IDENTITY  # the Cast of TensorRT 8.5
    if hasattr(kinds, "CAST"):
        converts = converts or layer.type == kinds.CAST
    tensors = _inputs(layer) if converts else (*_inputs(layer), *_outputs(layer))
    return any(tensor.dtype == trt.float32 for tensor in tensors)


def _hold(layer: Any, fp32: Any) -> None:
    layer.precision = fp32
    for index, tensor in enumerate(_outputs(layer)):
        if tensor.dtype == fp32:  # the plugin also has integer outputs
            layer.set_output_type(index, fp32)


def check_nms_in_fp32(inspection: str) -> None:
    """Raise EngineError unless the NMS plugin of a built engine takes FP32. `inspection` is the engine inspector's JSON."""
    formats = nms_input_formats(inspection)
    if len(formats) != _PLUGIN_INPUTS or not all(_FP32.search(text) for text in formats):
        raise EngineError(
            f"the NMS plugin must take {_PLUGIN_INPUTS} FP32 inputs, but TensorRT built it with {formats}: "
            "run python export/build_engine.py --fp32, and report this TensorRT version"
        )


def nms_input_formats(inspection: str) -> list[str]:
    """Return the formats of the plugin's inputs in the inspector's JSON, [] where it does not show them."""
    try:
        layers = json.loads(inspection)["Layers"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return []
    described = [entry for entry in layers if isinstance(entry, dict)]  # else a bare name: not built with details
    # Most inputs: what stands before the count may also be a reformatting behind the plugin.
    plugin = max(filter(_may_be_nms, described), key=lambda entry: len(entry.get("Inputs", [])), default={})
    return [str(tensor.get("Format/Datatype")) for tensor in plugin.get("Inputs", [])]


def _may_be_nms(entry: dict[str, Any]) -> bool:
    gives_count = COUNT_OUTPUT in (output.get("Name") for output in entry.get("Outputs", []))
    return gives_count or entry.get("Name") == NODE


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]


def _inputs(layer: Any) -> list[Any]:
    tensors = (layer.get_input(index) for index in range(layer.num_inputs))
    return [tensor for tensor in tensors if tensor is not None]  # optional inputs
