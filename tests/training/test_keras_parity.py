"""Every value that KerasCV computed (REAL_DATA/keras_cv/golden.npz), against ours: exact where integers, to 1e-4 otherwise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert

from retinanet_edge.training.anchors import KERAS_ANCHORS, AnchorGenerator
from retinanet_edge.training.box_formats import BOX_FORMATS, convert_boxes
from retinanet_edge.training.decoders import MultiClassNonMaxSuppression, NonMaxSuppression, PredictionDecoder
from retinanet_edge.training.heads import FeaturePyramid, PredictionHead, prior_bias
from retinanet_edge.training.losses import KERAS_LOSS, LossSpec, box_loss, delta_loss, focal_loss
from retinanet_edge.training.targets import BACKGROUND, LabelEncoder, Matcher, decode

YXHW = [1, 0, 3, 2]  # KerasCV's order of deltas in ours, and back
IMAGE = (128, 192)
UNCLIPPED = AnchorGenerator(ratio_is="w/h", outer="scale")


@pytest.fixture(scope="module")
def golden(real_data: Path) -> dict[str, Tensor]:
    """All arrays by name."""
    with np.load(real_data / "keras_cv" / "golden.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert torch.allclose(found.double(), expected.double(), rtol=0, atol=1e-4), (found.double() - expected.double()).abs().max()


@pytest.mark.parametrize("size", ["128x192", "200x300", "97x131"])
@pytest.mark.parametrize("clip", [True, False])
def test_anchors(golden: dict[str, Tensor], size: str, clip: bool) -> None:
    height, width = map(int, size.split("x"))
    rule = KERAS_ANCHORS if clip else UNCLIPPED
    assert rule.clip == clip
    assert_close(box_convert(rule(height, width), "cxcywh", "xyxy"), golden[f"anchors/{size}/clip_{clip}"])


@pytest.mark.parametrize(("upper", "lower"), [(0.5, 0.4), (0.7, 0.3), (0.9, 0.1)])
def test_targets(golden: dict[str, Tensor], upper: float, lower: float) -> None:
    real = [classes >= 0 for classes in golden["encode/gt_classes"]]  # the rest is padding, which ours does not need
    boxes = [b[r] for b, r in zip(golden["encode/gt_boxes_xyxy"], real, strict=True)]
    classes = [c[r].long() for c, r in zip(golden["encode/gt_classes"], real, strict=True)]
    height, width = golden["encode/image_hw"].tolist()
    labels = LabelEncoder(KERAS_ANCHORS, matcher=Matcher(upper, lower, force_match=False))((height, width), boxes, classes)
    name = f"encode/pos{upper}_neg{lower}_forceFalse"
    assert torch.equal(labels.classes, golden[f"{name}/class_targets"].long())
    for image, of_image in enumerate(boxes):
        if len(of_image):
            assert_close(labels.boxes[image][:, YXHW], golden[f"{name}/box_targets"][image])
        else:  # KerasCV's box targets are those of the padding here; all its anchors are background, so no loss takes them
            assert (labels.classes[image] == BACKGROUND).all()


@pytest.mark.parametrize(("alpha", "gamma", "smoothing"), [(0.25, 2.0, 0.0), (0.5, 1.0, 0.0), (0.25, 2.0, 0.1)])
def test_focal_loss(golden: dict[str, Tensor], alpha: float, gamma: float, smoothing: float) -> None:
    found = focal_loss(
        golden["loss/logits"], golden["loss/one_hot"], alpha=alpha, gamma=gamma, label_smoothing=smoothing, alpha_after_smoothing=True
    )
    assert_close(found.sum(dim=-1), golden[f"loss/focal_a{alpha}_g{gamma}_ls{smoothing}"])


def test_smooth_l1(golden: dict[str, Tensor]) -> None:
    assert_close(delta_loss(golden["loss/box_pred"], golden["loss/box_true"], KERAS_LOSS), golden["loss/smooth_l1"])


def test_giou(golden: dict[str, Tensor]) -> None:
    # Given a batch, KerasCV's loss without reduction compares the first box with every other: a row of all pairs.
    others = golden["loss/giou_b"][0]
    first = box_convert(golden["loss/giou_a"][0, :1], "xyxy", "cxcywh").expand_as(others)
    assert_close(box_loss(torch.zeros_like(others), others, first, LossSpec(box_loss="giou")), golden["loss/giou"])


@pytest.mark.parametrize("source", BOX_FORMATS)
@pytest.mark.parametrize("target", BOX_FORMATS)
def test_formats(golden: dict[str, Tensor], source: str, target: str) -> None:
    height, width = golden["formats/image_hw"].tolist()
    assert_close(convert_boxes(golden[f"formats/{source}"], source, target, (height, width)), golden[f"formats/{target}"])


def keras_deltas(golden: dict[str, Tensor]) -> Tensor:
    return golden["decode/deltas_yxhw_variance"][..., YXHW] * golden["decode/variance"][YXHW].float()


def test_decoding(golden: dict[str, Tensor]) -> None:
    assert_close(decode(keras_deltas(golden), KERAS_ANCHORS(*IMAGE)), golden["decode/boxes_xyxy"])


@pytest.mark.parametrize(
    ("suppression", "name"), [(NonMaxSuppression(), "class_agnostic"), (MultiClassNonMaxSuppression(), "multi_class")]
)
def test_prediction_decoders(golden: dict[str, Tensor], suppression: Any, name: str) -> None:
    decoder = PredictionDecoder(suppression=suppression)
    found = decoder(keras_deltas(golden), golden["predict/logits"], KERAS_ANCHORS.levels(*IMAGE), IMAGE)
    assert torch.equal(found.num_detections, golden[f"predict/{name}/num_detections"].long())
    assert torch.equal(found.classes, golden[f"predict/{name}/classes"].long())
    assert_close(found.confidence, golden[f"predict/{name}/confidence"])
    assert_close(found.boxes, golden[f"predict/{name}/boxes"])


def test_feature_pyramid(golden: dict[str, Tensor]) -> None:
    pyramid = FeaturePyramid([8, 16, 32], p6_from="C5", tensorflow_padding=True)
    for number, conv in enumerate([*pyramid.lateral, *pyramid.output, pyramid.p6, pyramid.p7]):
        conv.weight.data = _sine_kernel(conv.weight, 2 * number)
        conv.bias.data = torch.sin(0.37 * torch.arange(256.0, dtype=torch.float64) + 2 * number + 1).float()
    with torch.no_grad():
        levels = pyramid([golden[f"fpn/in/P{level}"].permute(0, 3, 1, 2) for level in (3, 4, 5)])
    for level, found in zip(range(3, 8), levels, strict=True):
        assert_close(found.permute(0, 2, 3, 1), golden[f"fpn/out/P{level}"])


def _sine_kernel(weight: Tensor, number: int) -> Tensor:
    outputs, inputs, height, width = weight.shape
    index = torch.arange(weight.numel(), dtype=torch.float64)
    flat = torch.sin(0.37 * index + number) / (height * width * inputs) ** 0.5
    return flat.reshape(height, width, inputs, outputs).permute(3, 2, 0, 1).float()


def test_parameter_count_of_pyramid_and_heads(golden: dict[str, Tensor]) -> None:
    parts = [FeaturePyramid([512, 1024, 2048], p6_from="C5"), PredictionHead(9 * 20, prior_bias()), PredictionHead(9 * 4, 0.0)]
    ours = sum(p.numel() for part in parts for p in part.parameters())
    resnet50, statistics = 23_508_032, 53_120  # weights without the classifier; running means and variances, which Keras counts
    assert ours + resnet50 + statistics == int(golden["parameters/retinanet_resnet50_20_classes"])
