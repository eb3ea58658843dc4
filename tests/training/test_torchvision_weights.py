"""torchvision's own RetinaNets, built without weights and given ones that matter, against ours with the same tensors."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_convert

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, NetworkSpec
from retinanet_edge.training.anchors import TORCHVISION_ANCHORS, make_anchors
from retinanet_edge.training.backbones import Backbone
from retinanet_edge.training.checkpoint import read_tensors
from retinanet_edge.training.decoders import TorchvisionDecoder
from retinanet_edge.training.model import RetinaNet, build_network
from retinanet_edge.training.torchvision_weights import (
    coco_categories,
    is_torchvision_retinanet,
    load_torchvision_backbone,
    load_torchvision_retinanet,
    torchvision_network_spec,
)

HEIGHT, WIDTH = 160, 224  # whose coarsest levels have 3 x 4 and 2 x 2 cells, which do not divide the sides
CATEGORIES = coco_categories()
OBJECTS = {index: name for index, name in enumerate(CATEGORIES) if name not in ("__background__", "N/A")}
NAMES = tuple(OBJECTS.values())
ROWS = list(OBJECTS)
INPUT = InputSpec(HEIGHT, WIDTH, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def random_image(seed: int = 0) -> Tensor:
    """A uint8 [H, W, 3] image of smooth blobs."""
    coarse = torch.randint(0, 255, (1, 3, 12, 18), generator=torch.Generator().manual_seed(seed)).float()
    return nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic").clamp(0, 255)[0].permute(1, 2, 0).byte()


def as_theirs(bgr: Tensor) -> Tensor:
    return bgr.flip(-1).permute(2, 0, 1).double() / 255


@torch.no_grad()
def make_weights_matter(model: Any) -> None:
    """Let the norms' statistics be those of an image, and heads have something to say of it."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.2)
        norm.momentum = 1.0
    model.backbone.body.layer1[0].conv1.weight[:8] *= 1e-3  # variances for which an epsilon counts
    images = torch.stack([as_theirs(random_image(seed)) for seed in (1, 2)])
    images = ((images - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]).float()
    model.backbone.train()(images)
    for head, last in ((model.head.classification_head, "cls_logits"), (model.head.regression_head, "bbox_reg")):
        for module in head.conv.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        getattr(head, last).weight.normal_(0, 0.01)
    model.eval()
    raw = model.head(list(model.backbone(images).values()))
    model.head.classification_head.cls_logits.weight *= 0.5 / raw["cls_logits"].std()
    model.head.classification_head.cls_logits.bias.uniform_(-5, -3)
    model.head.regression_head.bbox_reg.weight *= 0.3 / raw["bbox_regression"].std()
    nothing = [row for row in range(len(CATEGORIES)) if row not in OBJECTS]  # which a trained network never finds
    model.head.classification_head.cls_logits.weight.unflatten(0, (9, -1))[:, nothing] = 0
    model.head.classification_head.cls_logits.bias.unflatten(0, (9, -1))[:, nothing] = -50


@dataclass(frozen=True)
class Theirs:
    """A network of torchvision's and its tensors, as its file has them."""

    model: Any
    tensors: dict[str, Tensor]


@pytest.fixture(scope="module", params=["v1", "v2"])
def theirs(request: pytest.FixtureRequest) -> Theirs:
    torch.manual_seed(0)
    build = retinanet_resnet50_fpn if request.param == "v1" else retinanet_resnet50_fpn_v2
    model = build(weights=None, weights_backbone=None, min_size=HEIGHT, max_size=WIDTH)
    make_weights_matter(model)
    tensors = model.state_dict()
    if request.param == "v1":  # whose norms are frozen, without a count of batches, and with an epsilon of 0
        tensors = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    return Theirs(model.double(), dict(tensors))


def old_name(key: str) -> str:
    """The name that files written before torchvision 0.12 have."""
    key = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", key)
    return re.sub(r"conv\.(\d)\.0\.(weight|bias)$", lambda found: f"conv.{2 * int(found[1])}.{found[2]}", key)


def load(tensors: dict[str, Tensor], spec: NetworkSpec | None = None, classes: tuple[str, ...] = NAMES) -> tuple[RetinaNet, list[str]]:
    network = build_network(spec or torchvision_network_spec(tensors, "file"), INPUT, TORCHVISION_ANCHORS.spec, len(classes))
    return network.eval(), load_torchvision_retinanet(network, tensors, classes, "file")


@pytest.fixture(scope="module")
def ours(theirs: Theirs) -> RetinaNet:
    return load(theirs.tensors)[0]


@pytest.fixture(scope="module")
def exact(theirs: Theirs) -> RetinaNet:
    """Ours in float64: random weights make rounding grow, and leave no other difference."""
    spec = torchvision_network_spec(theirs.tensors, "file")
    network = build_network(spec, INPUT, TORCHVISION_ANCHORS.spec, len(NAMES)).double().eval()
    network.normalise.mean = torch.tensor(INPUT.mean, dtype=torch.float64)
    network.normalise.inverse_std = 1 / torch.tensor(INPUT.std, dtype=torch.float64)
    tensors = {key: value.double() if value.is_floating_point() else value for key, value in theirs.tensors.items()}
    assert load_torchvision_retinanet(network, tensors, NAMES, "file") == list(NAMES)
    return network


@torch.no_grad()
def assert_same(theirs: Theirs, network: RetinaNet, bgr: Tensor) -> None:
    """Raw outputs, anchors and detections of an image."""
    image = as_theirs(bgr)
    prepared, _ = theirs.model.transform([image])
    assert prepared.tensors.shape[2:] == (HEIGHT, WIDTH)
    maps = list(theirs.model.backbone(prepared.tensors).values())
    raw = theirs.model.head(maps)
    class_logits, box_deltas = network(bgr[None])
    assert raw["cls_logits"][..., ROWS].std() > 0.3
    assert raw["bbox_regression"].std() > 0.1
    assert (class_logits - raw["cls_logits"][..., ROWS]).abs().max() < 1e-4
    assert (box_deltas - raw["bbox_regression"]).abs().max() < 1e-4

    (anchors,) = theirs.model.anchor_generator(ImageList(prepared.tensors, [(HEIGHT, WIDTH)]), maps)
    assert torch.equal(box_convert(network.anchors, "cxcywh", "xyxy"), anchors)

    (expected,) = theirs.model([image])
    found = TorchvisionDecoder()(box_deltas, class_logits, TORCHVISION_ANCHORS.levels(HEIGHT, WIDTH), (HEIGHT, WIDTH))
    count = int(found.num_detections[0])
    assert count == len(expected["boxes"]) > 20
    assert [ROWS[c] for c in found.classes[0, :count].tolist()] == expected["labels"].tolist()
    assert (found.confidence[0, :count] - expected["scores"]).abs().max() < 1e-4
    assert (found.boxes[0, :count] - expected["boxes"]).abs().max() < 1e-3  # pixels; ours are decoded in float32


def test_a_network_of_theirs_is_one_of_ours(theirs: Theirs, exact: RetinaNet) -> None:
    assert_same(theirs, exact, random_image())


@pytest.mark.parametrize("name", ["bccd/BCCD/JPEGImages/BloodImage_00007.jpg", "coco_cc_free"])
def test_a_network_of_theirs_is_one_of_ours_on_photographs(theirs: Theirs, exact: RetinaNet, real_data: Path, name: str) -> None:
    file = real_data / name if name.endswith(".jpg") else sorted((real_data / name).rglob("*.jpg"))[0]
    photograph = cv2.imread(str(file))
    assert photograph is not None
    assert_same(theirs, exact, torch.from_numpy(cv2.resize(photograph, (WIDTH, HEIGHT))))


def test_old_names_are_read_from_a_file(theirs: Theirs, ours: RetinaNet, tmp_path: Path) -> None:
    renamed = {old_name(key): value for key, value in theirs.tensors.items()}
    assert set(renamed) != set(theirs.tensors)
    save_file(renamed, tmp_path / "old.safetensors")
    tensors = read_tensors(tmp_path / "old.safetensors")
    assert is_torchvision_retinanet(tensors)
    assert torchvision_network_spec(tensors, "old") == torchvision_network_spec(theirs.tensors, "new")
    network, kept = load(tensors)
    assert kept == list(NAMES)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in network.state_dict().items())


def test_the_network_is_read_from_the_tensors(theirs: Theirs) -> None:
    first = NetworkSpec("resnet50", 256, 256, 4, "none", "P5", box_variances=(1.0, 1.0, 1.0, 1.0))
    second = NetworkSpec("resnet50", 256, 256, 4, "group", "C5", box_variances=(1.0, 1.0, 1.0, 1.0))
    is_first = "head.classification_head.conv.0.0.bias" in theirs.tensors
    assert torchvision_network_spec(theirs.tensors, "file") == (first if is_first else second)


def test_in_float32_only_rounding_is_left(ours: RetinaNet, exact: RetinaNet) -> None:
    image = random_image()[None]
    with torch.no_grad():
        for found, expected in zip(ours(image), exact(image), strict=True):
            assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_other_classes_begin_anew_and_all_else_is_kept(theirs: Theirs, ours: RetinaNet) -> None:
    torch.manual_seed(1)
    network, kept = load(theirs.tensors, classes=("cell", "dog"))
    assert kept == ["dog"]
    weight = network.class_head.predict.weight.unflatten(0, (9, 2))
    dog = theirs.tensors["head.classification_head.cls_logits.weight"].unflatten(0, (9, 91))[:, 18]  # COCO's id of dogs
    assert torch.equal(weight[:, 1], dog)
    assert weight[:, 0].std().item() == pytest.approx(0.01, rel=0.05)  # as it begins
    assert network.class_head.predict.bias.unflatten(0, (9, 2))[:, 0].tolist() == pytest.approx([-4.59512] * 9)  # -log(99)
    expected = ours.state_dict()
    for key, value in network.state_dict().items():
        if not key.startswith("class_head.predict."):
            assert torch.equal(value, expected[key]), key


def test_the_backbone_goes_into_a_network_with_other_heads(theirs: Theirs, ours: RetinaNet) -> None:
    backbone = Backbone("resnet50")
    load_torchvision_backbone(backbone, theirs.tensors, "file")
    expected = ours.backbone.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.state_dict().items())
    with pytest.raises(ModelFolderError, match=r"\d+ unknown \(features\.layer1\.0\.bn3"):
        load_torchvision_backbone(Backbone("resnet18"), theirs.tensors, "file")


def test_variances_of_the_network_do_not_change_what_it_says(theirs: Theirs, ours: RetinaNet) -> None:
    spec = torchvision_network_spec(theirs.tensors, "file")
    other, _ = load(theirs.tensors, NetworkSpec(**{**vars(spec), "box_variances": (0.1, 0.1, 0.2, 0.2)}))
    image = random_image()[None]
    with torch.no_grad():
        assert torch.allclose(other(image)[1], ours(image)[1], atol=1e-5)


def test_tensors_of_unknown_classes_give_all_but_those(theirs: Theirs) -> None:
    tensors = {**theirs.tensors}
    for part in ("weight", "bias"):
        key = f"head.classification_head.cls_logits.{part}"
        tensors[key] = tensors[key][: 9 * 5]
    assert load(tensors, classes=("dog", "person"))[1] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head_depth": 3}, r"0 missing, [46] unknown \(box_head\.convs\.3\."),
        ({"fpn_channels": 128}, r"other shapes \(.*\(256, 256, 3, 3\) for \(256, 128, 3, 3\)"),
        ({"backbone": "resnet18"}, r"\d+ unknown \(backbone\.features\.layer1\.0"),
    ],
)
def test_what_does_not_fit_is_named(theirs: Theirs, change: dict[str, Any], said: str) -> None:
    spec = NetworkSpec(**{**vars(torchvision_network_spec(theirs.tensors, "file")), **change})
    with pytest.raises(ModelFolderError, match=said) as caught:
        load(theirs.tensors, spec)
    assert "\n" not in str(caught.value)


def test_one_anchor_a_cell_does_not_fit_nine(theirs: Theirs) -> None:
    anchors = AnchorSpec(TORCHVISION_ANCHORS.strides, TORCHVISION_ANCHORS.sizes, (1.0,), (1.0,))
    network = build_network(torchvision_network_spec(theirs.tensors, "file"), INPUT, anchors, 80)
    assert len(make_anchors(anchors, HEIGHT, WIDTH)) * 9 == len(TORCHVISION_ANCHORS(HEIGHT, WIDTH))
    with pytest.raises(ModelFolderError, match=r"box_head\.predict\.bias \(36,\) for \(4,\)"):
        load_torchvision_retinanet(network, theirs.tensors, NAMES, "file")


def test_other_tensors_are_not_theirs() -> None:
    tensors = {"backbone.body.conv1.weight": torch.zeros(64, 3, 7, 7)}
    with pytest.raises(ModelFolderError, match=r"it lacks pyramid\.p7\.bias"):
        torchvision_network_spec(tensors, "file")
    assert not is_torchvision_retinanet({"backbone.features.conv1.weight": torch.zeros(1)})
