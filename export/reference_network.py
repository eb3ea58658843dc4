"""ONNX Runtime, the reference of parity: an ONNX file on its CPU provider, all of its tensors within reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from retinanet_edge.runtime.errors import ModelFolderError

HEADS = ("class_logits", "box_deltas", "anchors")
# class_logits [N, A, K], box_deltas [N, A, 4], anchors [1 or N, A, 4].
Heads = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

_REFUSALS = (
    runtime_errors.Fail, runtime_errors.InvalidArgument, runtime_errors.InvalidGraph, runtime_errors.InvalidProtobuf,
    runtime_errors.NotImplemented, runtime_errors.RuntimeException,
)  # fmt: skip


class ReferenceNetwork:
    """An ONNX file on ONNX Runtime. tensors: inner ones that `run` is to give; with any, no node is fused with another.

    Raises ModelFolderError for a file that ONNX Runtime does not run.
    """

    def __init__(self, path: Path, tensors: Sequence[str] = ()) -> None:
        self._path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it warns of what no tensor of interest needs
        # Q and DQ to the letter: fused into integer kernels they differ by more (seen in 1.31: wrong where scales are FP16).
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        if tensors:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        model = with_outputs(onnx.load(path), tensors).SerializeToString()
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except _REFUSALS as error:
            raise self._refusal(error) from None

    def run(self, names: Sequence[str], images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Return tensors by name, of images uint8 [N, H, W, 3]."""
        try:
            values: list[NDArray[Any]] = self._session.run(list(names), {"images": images})
        except _REFUSALS as error:
            raise self._refusal(error) from None
        return values

    def heads(self, images: NDArray[np.uint8]) -> Heads:
        """Return the network's outputs as FP32."""
        logits, deltas, anchors = (values.astype(np.float32, copy=False) for values in self.run(HEADS, images))
        return logits, deltas, anchors

    def _refusal(self, error: Exception) -> ModelFolderError:
        return ModelFolderError(f"{self._path} does not run on ONNX Runtime ({' '.join(str(error).split())}): export and build it again")


def with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of a model that also gives these inner tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {output.name for output in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
    return copy
