"""Ranges of activations over calibration images, the base of INT8 scales.

One pass, with one image's tensors in memory at a time. ONNX Runtime's own calibrators keep more, look at tensors that nobody
quantizes, and fail on nearly constant ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.progress import track

Method = Literal["minmax", "percentile"]

PERCENTILE = 99.99
_BINS = 4096


def activation_ranges(
    model: onnx.ModelProto, tensors: Sequence[str], images: Sequence[NDArray[np.uint8]], method: Method
) -> dict[str, float]:
    """Return for each tensor of a graph the magnitude up to which INT8 is to reach.

    images: uint8 [H, W, 3] BGR of the graph's input size. method: "minmax" for the largest magnitude of all images, "percentile" for
    the one that 99.99 % of all values keep below. Raises RetinaNetEdgeError for values that are not finite.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of what no tensor of interest needs
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    magnitudes = {name: Magnitudes() for name in tensors}
    for image in track(images, "calibrating"):
        for name, values in zip(tensors, session.run(None, {"images": image[None]}), strict=True):
            if not np.isfinite(values).all():
                raise RetinaNetEdgeError(f"tensor {name} is not finite on a calibration image: train again with a lower --lr")
            magnitudes[name].add(values)
    return {name: found.largest if method == "minmax" else found.percentile(PERCENTILE) for name, found in magnitudes.items()}


class Magnitudes:
    """Histogram of |x| from 0 to a power of two, which doubles when a value is larger: two bins then become one, exactly."""

    def __init__(self) -> None:
        self.largest = 0.0
        self._reach = 0.0  # none before the first value that is not zero
        self._counts = np.zeros(_BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values, finite ones of any shape."""
        magnitudes = np.abs(values).ravel()
        self.largest = max(self.largest, float(magnitudes.max(initial=0)))
        self._widen()
        if self._reach:
            bins = np.minimum(magnitudes * np.float64(_BINS / self._reach), _BINS - 1).astype(np.int64)
            self._counts += np.bincount(bins, minlength=_BINS)
        else:
            self._counts[0] += magnitudes.size

    def percentile(self, percent: float) -> float:
        """Return the upper edge of the bin below which `percent` of the values lie, at most the largest value; 0 without values."""
        total = int(self._counts.sum())
        if not self._reach or not total:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self._counts), total * percent / 100))
        return min((index + 1) * self._reach / _BINS, self.largest)

    def _widen(self) -> None:
        if not self._reach and self.largest:
            self._reach = 2.0 ** math.ceil(math.log2(self.largest))  # zeros counted so far are in the first bin, where they belong
        while self._reach < self.largest:
            self._reach *= 2
            merged = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.concatenate([merged, np.zeros_like(merged)])
