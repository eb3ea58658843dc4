"""Names of backbones; and a member of every family built, trained for a step and exported in our network."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import timm
import torch

from retinanet_edge.export.torch_graph import OPSET, to_onnx
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, NetworkSpec
from retinanet_edge.training.backbones import Backbone
from retinanet_edge.training.model import LEVEL_STRIDES, RetinaNet, build_network
from retinanet_edge.training.presets import PRESETS, resolve
from retinanet_edge.training.vitdet import ViTDet

# KerasCV 0.9's list, written out apart from the table.
ARCHITECTURES = [
    *(f"resnet{depth}{version}" for depth in (18, 34, 50, 101, 152) for version in ("", "_v2")),
    "mobilenet_v3_small", "mobilenet_v3_large",
    *(f"csp_darknet_{size}" for size in ("tiny", "s", "m", "l", "xl")),
    *(f"efficientnetv1_b{i}" for i in range(8)),
    *(f"efficientnetv2_{size}" for size in ("s", "m", "l", "b0", "b1", "b2", "b3")),
    *(f"efficientnetlite_b{i}" for i in range(5)),
    "densenet121", "densenet169", "densenet201",
    *(f"yolo_v8_{size}_backbone" for size in ("xs", "s", "m", "l", "xl")),
    "vitdet_base", "vitdet_large", "vitdet_huge",
]  # fmt: skip
WITH_WEIGHTS = [
    "resnet50_imagenet", "resnet50_v2_imagenet", "mobilenet_v3_large_imagenet", "mobilenet_v3_small_imagenet",
    "csp_darknet_tiny_imagenet", "csp_darknet_l_imagenet", "efficientnetv2_s_imagenet", "efficientnetv2_b0_imagenet",
    "efficientnetv2_b1_imagenet", "efficientnetv2_b2_imagenet", "densenet121_imagenet", "densenet169_imagenet", "densenet201_imagenet",
    "vitdet_base_sa1b", "vitdet_large_sa1b", "vitdet_huge_sa1b",
    *(f"yolo_v8_{size}_backbone_coco" for size in ("xs", "s", "m", "l", "xl")),
    "retinanet_resnet50_pascalvoc",
]  # fmt: skip
VIDEO = [
    "videoswin_tiny", "videoswin_small", "videoswin_base", "videoswin_tiny_kinetics400", "videoswin_small_kinetics400",
    "videoswin_base_kinetics400", "videoswin_base_kinetics400_imagenet22k", "videoswin_base_kinetics600_imagenet22k",
    "videoswin_base_something_something_v2",
]  # fmt: skip

INPUT = InputSpec(64, 64, (120.0,) * 3, (60.0,) * 3)
ANCHORS = AnchorSpec(LEVEL_STRIDES, tuple(4.0 * s for s in LEVEL_STRIDES), (1.0,), (1.0,))
# The smallest of each family, and of those that pad as TensorFlow does.
FAMILIES = [
    "resnet18", "resnet18_v2", "mobilenet_v3_small", "csp_darknet_tiny", "csp_darknet_s", "efficientnetv1_b0", "efficientnetv2_b0",
    "efficientnetlite_b0", "efficientnetlite_b1", "densenet121", "yolo_v8_xs_backbone",
]  # fmt: skip


def test_the_table_has_kerascvs_names_and_no_others() -> None:
    assert set(PRESETS) == {*ARCHITECTURES, *WITH_WEIGHTS}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_stands_for_a_network_that_timm_or_we_have(name: str) -> None:
    entry = resolve(name)
    assert entry.name == name
    assert (entry.timm is None) == (entry.kind == "yolo_v8")
    assert entry.timm is None or timm.is_model(entry.timm)
    assert entry.pretrained == (name in WITH_WEIGHTS)


@pytest.mark.parametrize("name", [name for name, entry in PRESETS.items() if entry.weights])
def test_weights_exist_under_the_stated_licence(name: str) -> None:
    entry = resolve(name)
    config = timm.get_pretrained_cfg(entry.timm_name)
    assert config.hf_hub_id or config.url
    assert entry.licence is not None
    assert (config.tag, config.license) == (entry.weights, entry.licence.lower())


def test_only_these_architectures_have_no_weights_to_fetch() -> None:
    without = {name for name in ARCHITECTURES if not resolve(name).weights}
    assert without == {"resnet152_v2", *(name for name in ARCHITECTURES if name.startswith("yolo_v8"))}


def test_a_name_with_weights_is_the_architecture_of_the_same_name() -> None:
    for name in WITH_WEIGHTS[:-1]:
        plain, asking = resolve(name.rpartition("_")[0]), resolve(name)
        assert (asking.kind, asking.timm, asking.weights) == (plain.kind, plain.timm, plain.weights)


def test_names_that_timm_has_too_mean_the_same_but_for_efficientnetv2() -> None:
    differing = {name for name in PRESETS if timm.is_model(name) and resolve(name).timm != name}
    assert differing == {"efficientnetv2_s", "efficientnetv2_m", "efficientnetv2_l"}  # timm's own of these names have no weights


@pytest.mark.parametrize(("name", "base", "tag"), [("convnext_atto", "convnext_atto", None), ("resnet50.tv_in1k", "resnet50", "tv_in1k")])
def test_timms_names_stand_for_themselves(name: str, base: str, tag: str | None) -> None:
    entry = resolve(name)
    assert (entry.kind, entry.timm, entry.weights, entry.timm_name) == ("timm", base, tag, name)


@pytest.mark.parametrize(("name", "nearest"), [
    ("resnet_50", "resnet50"), ("efficientnet_v2_s", "efficientnetv2_s"), ("yolo_v8_n_backbone", "yolo_v8_s_backbone"),
    ("densnet121", "densenet121"), ("ResNet50", "resnet50"), ("vitdet_bse", "vitdet_base"), ("csp_darknet_x", "csp_darknet_xl"),
])  # fmt: skip
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UserInputError, match=rf"got {name}: did you mean .*\b{nearest}\b"):
        resolve(name)


@pytest.mark.parametrize("name", [*VIDEO, "videoswin", "videoswin_giant"])
def test_video_networks_are_refused_with_why_and_one_that_can_be_used(name: str) -> None:
    with pytest.raises(UserInputError, match="clips of a video, not single images") as caught:
        resolve(name)
    assert timm.is_model(str(caught.value).split(": use ")[1])


def test_video_networks_are_answered_by_size() -> None:
    with pytest.raises(UserInputError, match="use convnext_base"):
        resolve("videoswin_base_kinetics400")


def test_an_old_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "is_model", lambda name: name != "cspnext_tiny")
    with pytest.raises(UserInputError, match=r"cspnext_tiny of timm, which timm .* lacks: run pip install -U timm"):
        resolve("csp_darknet_tiny")


def test_a_whole_model_is_no_backbone() -> None:
    with pytest.raises(UserInputError, match="is a whole model: use resnet50"):
        Backbone("retinanet_resnet50_pascalvoc")


def preset(name: str) -> Callable[[], RetinaNet]:
    return lambda: build_network(NetworkSpec(name, 16, 16, 1, "none"), INPUT, ANCHORS, 3)


def small_vitdet() -> RetinaNet:
    """ViTDet of timm's class, narrow and shallow: vitdet_base has 90 million parameters."""
    sizes = {"img_size": 128, "embed_dim": 48, "depth": 2, "num_heads": 2, "window_size": 3, "global_attn_indexes": (1,)}
    backbone = ViTDet("samvit_base_patch16", **sizes)
    return RetinaNet(backbone, NetworkSpec("vitdet_base", 16, 16, 1, "none"), INPUT, ANCHORS, 3)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[*map(preset, FAMILIES), small_vitdet], ids=[*FAMILIES, "vitdet"])
def network(request: pytest.FixtureRequest) -> RetinaNet:
    """A network after one pass in training mode, which moves its norms' statistics off their start; with outputs of size 1."""
    torch.manual_seed(0)
    network: RetinaNet = request.param()
    class_logits, box_deltas = network.train()(torch.randint(0, 255, (4, 64, 64, 3), dtype=torch.uint8))
    (class_logits.square().mean() + box_deltas.square().mean()).backward()
    network.eval()
    images = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():  # fresh heads say the prior everywhere, in which a wrong backbone would not be seen
        for output, head in zip(network(images), (network.class_head, network.box_head), strict=True):
            head.predict.weight.div_(output.std(dim=1).mean())
    return network


def test_gradients_reach_the_first_layer(network: RetinaNet) -> None:
    name, first = next((name, p) for name, p in network.backbone.named_parameters() if p.ndim == 4)
    assert first.grad is not None, name
    assert first.grad.isfinite().all()
    assert first.grad.abs().sum() > 0, name


def test_the_exported_graph_says_what_pytorch_says(network: RetinaNet) -> None:
    model = to_onnx(network, INPUT)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    constants = {tensor.name for tensor in model.graph.initializer}
    if not isinstance(network.backbone, ViTDet):  # whose windows are cut by arithmetic on shapes
        assert "Shape" not in {node.op_type for node in model.graph.node}
        assert all(node.input[1] in constants for node in model.graph.node if node.op_type == "Pad")
    images = torch.randint(0, 255, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = [output.numpy() for output in network(images)]
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": images.numpy()})
    for output, reference in zip(found, expected, strict=False):
        assert np.ptp(reference) > 0.5  # or any backbone would pass
        np.testing.assert_allclose(output, reference, atol=1e-3)
