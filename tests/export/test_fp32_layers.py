"""Which layers are held in FP32: the walk back from the plugin over stand-ins for the layers of a parsed network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from retinanet_edge.export.fp32_layers import hold_nms_in_fp32

trt = pytest.importorskip("tensorrt", reason="no TensorRT in this environment", exc_type=ImportError)


@dataclass
class Tensor:
    name: str
    dtype: Any


@dataclass
class Layer:
    """What the walk reads of a layer, and notes of what it sets."""

    name: str
    type: Any
    inputs: list[Tensor]
    outputs: list[Tensor]
    precision: Any = None
    output_types: dict[int, Any] = field(default_factory=dict)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]

    def set_output_type(self, index: int, kind: Any) -> None:
        self.output_types[index] = kind


class Network:
    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]


def test_top_k_is_held_with_the_logits_that_it_compares_and_index_arithmetic_is_left() -> None:
    kinds, real, whole = trt.LayerType, trt.float32, trt.int32
    integers = {"places", "start", "rows", "num_detections"}

    def tensors(names: str) -> list[Tensor]:
        return [Tensor(name, whole if name in integers else real) for name in names.split()]

    def layer(name: str, kind: Any, inputs: str, outputs: str) -> Layer:
        return Layer(name, kind, tensors(inputs), tensors(outputs))

    layers = [
        layer("trunk", kinds.CONVOLUTION, "images", "features"),
        layer("last", kinds.CONVOLUTION, "features", "logits"),
        layer("best", kinds.REDUCE, "logits", "best"),
        layer("top_k", kinds.TOPK, "best", "values places"),
        layer("start", kinds.CONSTANT, "", "start"),
        layer("rows", kinds.ELEMENTWISE, "places start", "rows"),
        layer("kept", kinds.GATHER, "logits rows", "kept"),
        layer("table", kinds.CONSTANT, "", "table"),
        layer("anchors", kinds.GATHER, "table rows", "anchors"),
        layer("nms", kinds.PLUGIN_V2, "kept anchors", "num_detections boxes"),
    ]
    held = hold_nms_in_fp32(Network(layers))
    assert sorted(held) == ["anchors", "best", "kept", "last", "nms", "top_k"]
    by_name = {each.name: each for each in layers}
    assert {each.name for each in layers if each.precision == real} == set(held)
    assert by_name["top_k"].output_types == {0: real}  # places stay integers
    assert by_name["nms"].output_types == {1: real}
    assert by_name["rows"].output_types == {}
