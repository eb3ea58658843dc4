"""Float images, as DeepStream hands them over, in place of uint8 ones: on ONNX Runtime, against the graph that they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.export.camera_input import bake_camera
from retinanet_edge.export.input_form import FloatInput, to_fp32_nchw
from retinanet_edge.export.level_top_k import append_level_top_k
from retinanet_edge.export.nms import append_efficient_nms
from retinanet_edge.export.quantize import quantize
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, NetworkSpec, NmsSpec
from retinanet_edge.runtime.model_folder import read_card
from tests.conftest import Project
from tests.export.front_graphs import GREY, SPEC, input_of, kinds, pixel_model, run

WIDE = InputSpec(64, 96, (123.0, 117.0, 104.0), (40.0, 55.0, 85.0))  # deviations as different as none are: mean 60
REST = (1.5, 60 / 55, 60 / 85)  # (x - mean) / std = rest * (x - mean) / 60


def images_of(spec: InputSpec, count: int = 2) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, spec.height, spec.width, 3), dtype=np.uint8)


def as_nvinfer(images: NDArray[np.uint8], form: FloatInput) -> NDArray[np.float32]:
    """What DeepStream's nvinfer makes of uint8 [N, H, W, 3] BGR: float32 [N, 3, H, W] RGB, net-scale-factor * (x - offsets)."""
    rgb = images[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    return np.float32(form.scale) * (rgb - np.array(form.offsets, np.float32)[:, None, None])


def assert_same_outputs(changed: onnx.ModelProto, form: FloatInput, model: onnx.ModelProto, spec: InputSpec) -> None:
    assert input_of(changed) == (TensorProto.FLOAT, ["N", 3, spec.height, spec.width])
    assert list(changed.graph.output) == list(model.graph.output)
    images = images_of(spec)
    floats = as_nvinfer(images, form)
    expected = run(model, images=images)
    for ours, theirs in zip(run(changed, images=floats), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    # and it hangs on the scale: a tenth more shows
    assert np.abs(run(changed, images=floats * np.float32(1.1))[0] - expected[0]).max() > 1e-3


def with_stem(*nodes: onnx.NodeProto, **constants: NDArray[Any]) -> onnx.ModelProto:
    """The graph of pixels with nodes between its image [N, 3, H, W] and what makes it outputs, tensor `stem`."""
    model = pixel_model(WIDE)
    graph = model.graph
    before = list(graph.node)
    del graph.node[:]
    graph.node.extend([*before[:5], *nodes, *before[5:]])
    graph.node[5 + len(nodes)].input[0] = "stem"
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def weights(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def test_scale_and_offsets_are_nvinfers() -> None:
    _, form = to_fp32_nchw(pixel_model(WIDE), WIDE)
    assert form == FloatInput(1 / 60, (123.0, 117.0, 104.0))  # (40 + 55 + 85) / 3 = 60; offsets RGB


def test_equal_deviations_leave_nothing_to_do() -> None:
    changed, form = to_fp32_nchw(pixel_model(GREY), GREY)
    assert form.scale == pytest.approx(1 / 60)
    assert kinds(changed) == ["Transpose", "Reshape", "MatMul"]
    assert_same_outputs(changed, form, pixel_model(GREY), GREY)


def test_a_graph_that_begins_with_no_convolution_begins_with_a_multiplication() -> None:
    model = pixel_model(WIDE)
    changed, form = to_fp32_nchw(model, WIDE)
    assert kinds(changed) == ["Mul", "Transpose", "Reshape", "MatMul"]
    assert_same_outputs(changed, form, model, WIDE)


def test_a_convolution_takes_each_channels_rest_into_its_weights() -> None:
    before = weights(3, 3, 3, 3)
    model = with_stem(helper.make_node("Conv", ["image", "w"], ["stem"], pads=[1, 1, 1, 1]), w=before)
    changed, form = to_fp32_nchw(model, WIDE)
    assert kinds(changed) == ["Conv", "Transpose", "Reshape", "MatMul"]
    folded = [numpy_helper.to_array(tensor) for tensor in changed.graph.initializer if list(tensor.dims) == [3, 3, 3, 3]]
    assert len(folded) == 1  # the former ones are gone
    for channel in range(3):
        np.testing.assert_allclose(folded[0][:, channel], before[:, channel] * REST[channel], rtol=1e-6)
    assert_same_outputs(changed, form, model, WIDE)


def test_weights_that_another_convolution_has_too_stay_as_they_are_for_it() -> None:
    nodes = [helper.make_node("Conv", ["image", "w"], ["first"]), helper.make_node("Conv", ["first", "w"], ["stem"])]
    model = with_stem(*nodes, w=weights(3, 3, 1, 1))
    changed, form = to_fp32_nchw(model, WIDE)
    assert "Mul" not in kinds(changed)
    assert_same_outputs(changed, form, model, WIDE)


def test_every_branch_of_a_stem_is_folded() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["one"]),
        helper.make_node("Conv", ["image", "w3"], ["three"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["one", "three"], ["stem"]),
    ]
    model = with_stem(*nodes, w1=weights(3, 3, 1, 1), w3=weights(3, 3, 3, 3))
    changed, form = to_fp32_nchw(model, WIDE)
    assert "Mul" not in kinds(changed)
    assert_same_outputs(changed, form, model, WIDE)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Conv", ["image", "depthwise"], ["stem"], group=3)],
        [helper.make_node("Pad", ["image", "sides", "one"], ["wider"]), helper.make_node("Conv", ["wider", "w"], ["stem"])],
        [helper.make_node("Conv", ["image", "w1"], ["a"]), helper.make_node("Add", ["a", "image"], ["stem"])],  # a skip of the image
        [helper.make_node("Identity", ["w1"], ["computed"]), helper.make_node("Conv", ["image", "computed"], ["stem"])],
    ],
)
def test_where_folding_would_not_be_the_same_there_is_a_multiplication(nodes: list[onnx.NodeProto]) -> None:
    sides = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    constants = {"depthwise": weights(3, 1, 1, 1), "w": weights(3, 3, 3, 3), "w1": weights(3, 3, 1, 1)}
    read = {name for node in nodes for name in node.input}
    others = {"sides": sides, "one": np.ones((), np.float32)}
    model = with_stem(*nodes, **{name: values for name, values in {**constants, **others}.items() if name in read})
    changed, form = to_fp32_nchw(model, WIDE)
    assert kinds(changed)[0] == "Mul"
    assert_same_outputs(changed, form, model, WIDE)


@pytest.mark.parametrize(("fill", "mode"), [([], "constant"), ([""], "constant"), (["zero"], "constant"), ([], "reflect")])
def test_a_border_in_front_of_the_convolution_is_no_hindrance(fill: list[str], mode: str) -> None:
    nodes = [helper.make_node("Pad", ["image", "sides", *fill], ["wider"], mode=mode), helper.make_node("Conv", ["wider", "w"], ["stem"])]
    zeros = {name: np.zeros((), np.float32) for name in fill if name}
    model = with_stem(*nodes, sides=np.array([0, 0, 1, 1, 0, 0, 1, 1]), w=weights(3, 3, 3, 3), **zeros)
    changed, form = to_fp32_nchw(model, WIDE)
    assert ("Mul" in kinds(changed)) == (mode == "reflect")  # reflecting would do, too, but no network of ours begins so
    assert_same_outputs(changed, form, model, WIDE)


@pytest.fixture(scope="module")
def exported():
    """Networks as export_onnx.py writes them, by the name of the backbone, each made once."""
    torch = pytest.importorskip("torch")
    from retinanet_edge.export.torch_graph import to_onnx
    from retinanet_edge.training.model import LEVEL_STRIDES, build_network

    made: dict[str, onnx.ModelProto] = {}

    def export(backbone: str) -> onnx.ModelProto:
        if backbone not in made:
            torch.manual_seed(0)
            anchors = AnchorSpec(LEVEL_STRIDES, tuple(4.0 * stride for stride in LEVEL_STRIDES), (1.0,), (1.0,))
            network = build_network(NetworkSpec(backbone, 16, 16, 1, "none"), WIDE, anchors, 3)
            for head in (network.class_head, network.box_head):
                torch.nn.init.normal_(head.predict.weight, std=0.5)  # so that outputs hang on the image more than a little
            made[backbone] = to_onnx(network.eval(), WIDE)
        return made[backbone]

    return export


# A plain one, one whose first convolution came from slices, one padded as in TensorFlow.
BACKBONES = ("test_resnet", "cs3darknet_focus_s", "tf_mobilenetv3_small_minimal_100")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_exported_networks_take_it_into_their_first_convolution(exported, backbone: str) -> None:
    model = exported(backbone)
    changed, form = to_fp32_nchw(model, WIDE)
    front = ["Cast", "Gather", "Sub", "Mul", "Transpose"]
    assert kinds(model) == [*front, *kinds(changed)]
    assert_same_outputs(changed, form, model, WIDE)


@pytest.mark.parametrize("backbone", BACKBONES[::2])
def test_quantized_networks_keep_their_scales_behind_a_multiplication(exported, backbone: str, tmp_path: Path) -> None:
    onnx.save(exported(backbone), tmp_path / "model.onnx")
    quantize(tmp_path / "model.onnx", tmp_path / "model.int8.onnx", list(images_of(WIDE)), "minmax")
    model = onnx.load(tmp_path / "model.int8.onnx")
    changed, form = to_fp32_nchw(model, WIDE)
    assert kinds(changed)[0] == "Mul"
    assert kinds(changed).count("QuantizeLinear") == kinds(model).count("QuantizeLinear") > 0
    assert_same_outputs(changed, form, model, WIDE)


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_a_trained_model_gives_the_same_for_float_images(finished_project: Project, file: str) -> None:
    card, model = read_card(finished_project.model), onnx.load(finished_project.model / file)
    changed, form = to_fp32_nchw(model, card.input)
    assert "Cast" not in kinds(changed)
    assert_same_outputs(changed, form, model, card.input)


def test_top_k_before_it_and_the_plugin_behind_it() -> None:
    bounded = append_level_top_k(pixel_model(WIDE), (64 * 96,), 50)
    changed, form = to_fp32_nchw(bounded, WIDE)
    assert_same_outputs(changed, form, bounded, WIDE)
    assert kinds(append_efficient_nms(changed, NmsSpec()))[-1] == "EfficientNMS_TRT"


def test_the_given_model_is_not_changed() -> None:
    model = pixel_model()
    before = model.SerializeToString()
    to_fp32_nchw(model, SPEC)
    assert model.SerializeToString() == before


def test_graphs_that_are_past_it_are_refused_with_the_command_to_run() -> None:
    changed, _ = to_fp32_nchw(pixel_model(), SPEC)
    for model in (changed, bake_camera(pixel_model(), SPEC, 100, 50), pixel_model(WIDE)):
        with pytest.raises(EngineError, match=r"begin with images uint8 \[N, 32, 48, 3\].*run python export/export_onnx\.py") as caught:
            to_fp32_nchw(model, SPEC)
        assert "\n" not in str(caught.value)
