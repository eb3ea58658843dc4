"""INT8 as explicit Q/DQ in the ONNX graph, placed where TensorRT fuses best; made by ONNX Runtime's static quantizer.

What is quantized: the inputs and weights of every convolution but the last of each head, and the skip side of every addition
of two branches. What is not: outputs of convolutions (their consumers quantize them), the convolution side of an addition, so
that convolution and addition fuse, anything before a Resize, biases, and all from the last convolutions on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from retinanet_edge.runtime.progress import Progress

Method = Literal["minmax", "percentile"]

# Not offered: ONNX Runtime's entropy method, which as quantize_static calls it considers only the whole range, so is min-max.
_METHODS = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
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
    "CalibPercentile": 99.99,
    "CalibStridedMinMax": 1,  # image by image, with both methods: else all tensors of all images are in memory together
}


def quantize(source: Path, target: Path, images: Sequence[NDArray[np.uint8]], method: Method) -> None:
    """Write `source`, the portable FP32 graph, with Q/DQ to `target`; scales from `images`, letterboxed uint8 [H, W, 3] BGR."""
    with TemporaryDirectory(dir=target.parent, prefix=".quantize-") as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_optimization=True, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        # What the percentile method prints for each image is swallowed.
        with Progress("calibrating", len(images)) as progress, redirect_stdout(io.StringIO()):
            quantize_static(
                prepared, target, _Images(images, progress), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv", "Add"],
                nodes_to_exclude=[*_last_convolutions(graph), *_additions_of_constants(graph)], per_channel=True,
                activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, calibrate_method=_METHODS[method],
                extra_options=_OPTIONS,
            )  # fmt: skip
    model = onnx.load(target)
    _free_convolution_sides(model.graph)
    _free_resizes(model.graph)
    _remove_orphans(model.graph)
    _keep_used_domains(model)
    model.producer_name = "retinanet-edge"
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Hands images to the calibrator: `set_range` says which are next, `get_next` gives them one by one."""

    def __init__(self, images: Sequence[NDArray[np.uint8]], progress: Progress) -> None:
        self._images, self._progress = images, progress
        self._waiting: Iterator[NDArray[np.uint8]] = iter(images)

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Let `get_next` begin at one index and end before the other."""
        self._waiting = iter(self._images[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next input, None at the end."""
        image = next(self._waiting, None)
        if image is None:
            return None
        self._progress.advance()
        return {"images": image[None]}


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
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
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
