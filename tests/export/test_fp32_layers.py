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
        self.outputs = layers[-1].outputs

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]


INTEGERS = {"places", "start", "rows", "num_detections", "selected", "image"}


def layer(name: str, kind: Any, inputs: str, outputs: str) -> Layer:
    tensors = ([Tensor(each, trt.int32 if each in INTEGERS else trt.float32) for each in names.split()] for names in (inputs, outputs))
    return Layer(name, kind, *tensors)


def test_top_k_is_held_with_the_logits_that_it_compares_and_index_arithmetic_is_left() -> None:
    kinds, real = trt.LayerType, trt.float32
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


def test_raw_heads_are_held_back_to_the_last_convolutions_from_every_output() -> None:
    kinds = trt.LayerType
    layers = [
        layer("trunk", kinds.CONVOLUTION, "images", "features"),
        layer("class", kinds.CONVOLUTION, "features", "maps"),
        layer("box", kinds.CONVOLUTION, "features", "more_maps"),
        layer("anchors", kinds.CONSTANT, "", "anchors"),
        layer("class_logits", kinds.SHUFFLE, "maps", "class_logits"),
        layer("box_deltas", kinds.SHUFFLE, "more_maps", "box_deltas"),
    ]
    network = Network(layers)
    network.outputs = [layers[4].outputs[0], layers[5].outputs[0], layers[3].outputs[0]]
    assert sorted(hold_nms_in_fp32(network)) == ["box", "box_deltas", "class", "class_logits"]


def test_a_cast_of_indexes_is_not_held_but_what_it_joins_is() -> None:
    kinds = trt.LayerType
    layers = [
        layer("last", kinds.CONVOLUTION, "features", "scores"),
        layer("nms", kinds.ACTIVATION, "scores", "selected"),
        layer("image", kinds.GATHER, "selected", "image"),
        layer("float_image", getattr(kinds, "CAST", kinds.IDENTITY), "image", "float_image"),
        layer("detections", kinds.CONCATENATION, "float_image scores", "detections"),
    ]
    assert sorted(hold_nms_in_fp32(Network(layers))) == ["detections", "last", "nms"]
    assert layers[3].precision is None
