"""Ranges of activations over calibration images, the base of INT8 scales.

One pass, with one image and its tensors in memory at a time. ONNX Runtime's own calibrators keep more, look at tensors that nobody
quantizes, and fail on nearly constant ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from retinanet_edge.export.graph_editing import copy_of
from retinanet_edge.export.histograms import Histogram
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import CalibrationMethod
from retinanet_edge.runtime.progress import track


def activation_ranges(
    model: onnx.ModelProto, tensors: Sequence[str], images: Sequence[NDArray[np.uint8]], method: CalibrationMethod
) -> dict[str, float]:
    """Return for each tensor of a graph the magnitude up to which INT8 is to reach; arguments and errors as measure_activations."""
    return {name: found.reach(method) for name, found in measure_activations(model, tensors, images).items()}


def measure_activations(
    model: onnx.ModelProto, tensors: Sequence[str], images: Sequence[NDArray[np.uint8]]
) -> dict[str, Histogram]:
    """Return how large the values of each tensor of a graph are.

    images: uint8 [H, W, 3] BGR of the graph's input size, read one by one. Raises UserInputError, naming tensor and layer, for values
    that are not finite.
    """
    histograms = {name: Histogram() for name in tensors}
    session = tensor_session(model, tensors)
    for image in track(images, "calibrating"):
        for name, values in zip(tensors, session.run(None, {"images": image[None]}), strict=True):
            if not np.isfinite(values).all():
                raise UserInputError(
                    f"{_described(model, name)} must be finite, got values that are not on a calibration image: "
                    "train again with a lower --lr"
                )
            histograms[name].add(values)
    return histograms


def check_active(model: onnx.ModelProto, ranges: Mapping[str, float], tensors: Sequence[str]) -> None:
    """Raise UserInputError, naming tensor and layer, where one of these was 0 on all images, which says nothing of its range."""
    for name in tensors:
        if not ranges[name]:
            raise UserInputError(
                f"{_described(model, name)} must not be 0 everywhere, got nothing else on any calibration image: "
                "give others with --calibration DIR, or train again, as this layer no longer does anything"
            )


def tensor_session(model: onnx.ModelProto, tensors: Sequence[str]) -> onnxruntime.InferenceSession:
    """Return a session that takes `images` and gives these FP32 tensors of a graph, and nothing else."""
    probe = copy_of(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of what no tensor of interest needs
    options.enable_cpu_mem_arena = False  # which grows for every output and is not given back
    return onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _described(model: onnx.ModelProto, tensor: str) -> str:
    maker = next((node for node in model.graph.node if tensor in node.output), None)
    return f"tensor {tensor}" + (f" of layer {maker.name or '(no name)'} ({maker.op_type})" if maker else "")
