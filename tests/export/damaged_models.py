"""Models that INT8 harms more than FP32 shows, made of a finished one in two ways; and figures as a test wants them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from retinanet_edge.export.measurement import Measurement, measure
from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.model_card import Precision
from retinanet_edge.runtime.model_folder import file_sha256, read_card, write_card
from tests.conftest import Project

FRAGILE = "/backbone/features/conv1/conv1.3/Conv"


def scale_a_channel_apart(model: Path) -> None:
    """Make one channel that FRAGILE reads 10,000 times as large and its weights as much smaller, which FP32 does not notice.

    In INT8 the step of the tensor is then larger than all its other channels. Equalization undoes it.
    """
    graph, maker, reader, weights = _opened(model)
    for name, channel, factor in (
        (maker.input[1], np.s_[0], 1e4), (maker.input[2], np.s_[0], 1e4), (reader.input[1], np.s_[:, 0], 1e-4),
    ):  # fmt: skip
        weights[name] = weights[name].copy()
        weights[name][channel] *= np.float32(factor)
    _save(model, graph, weights)


def add_weights_that_cancel(model: Path) -> None:
    """Give FRAGILE two more channels to read, both copies of its first, with weights 10,000 times as large as any and of both signs.

    They cancel in FP32. In INT8 all its other weights are below a step; scaling the channels would only move that to what it reads.
    """
    graph, maker, reader, weights = _opened(model)
    kernel, bias, following = (weights[name] for name in (*maker.input[1:], reader.input[1]))
    large = np.full_like(following[:, :1], 1e4 * np.abs(following).max())
    weights[maker.input[1]] = np.concatenate([kernel, kernel[:1], kernel[:1]])
    weights[maker.input[2]] = np.concatenate([bias, bias[:1], bias[:1]])
    weights[reader.input[1]] = np.concatenate([following, large, -large], axis=1)
    _save(model, graph, weights)


def _opened(model: Path) -> tuple[onnx.ModelProto, onnx.NodeProto, onnx.NodeProto, dict[str, np.ndarray]]:
    """Return the graph, the convolution whose output FRAGILE reads through a ReLU, FRAGILE, and all constants."""
    graph = onnx.load(model / "model.onnx")
    makers = {node.output[0]: node for node in graph.graph.node}
    reader = next(node for node in graph.graph.node if node.name == FRAGILE)
    maker = makers[makers[reader.input[0]].input[0]]
    assert (makers[reader.input[0]].op_type, maker.op_type) == ("Relu", "Conv")
    return graph, maker, reader, {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def _save(model: Path, graph: onnx.ModelProto, weights: dict[str, np.ndarray]) -> None:
    for tensor in graph.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    del graph.graph.value_info[:]
    onnx.save(graph, model / "model.onnx")
    card = read_card(model)
    assert card.onnx is not None
    write_card(model, card.with_onnx(dataclasses.replace(card.onnx, sha256=file_sha256(model / "model.onnx"))))


def figures(project: Project, ap: Callable[[onnx.ModelProto], float]) -> Callable[[Path, Precision], Measurement]:
    """Return what stands for measuring: AP 0.5 for FP32, for INT8 what `ap` says of its graph."""
    samples = read_dataset(project.folder / "data" / "squares").val
    found = measure(read_card(project.model), project.model / "model.onnx", "fp32", samples)

    def measured(file: Path, precision: Precision) -> Measurement:
        points = 0.5 if precision == "fp32" else ap(onnx.load(file))
        return dataclasses.replace(found, metrics=dataclasses.replace(found.metrics, ap=points))

    return measured
