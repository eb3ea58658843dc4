"""RetinaNet in KerasCV's form: its documented example, its constructor's rules, and how it goes with the rest."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retinanet_edge.runtime.errors import RetinaNetEdgeError, UserInputError
from retinanet_edge.runtime.model_card import InputSpec, NetworkSpec
from retinanet_edge.training.anchors import KERAS_ANCHORS, AnchorGenerator
from retinanet_edge.training.backbones import Backbone
from retinanet_edge.training.box_formats import BOX_FORMATS, convert_boxes
from retinanet_edge.training.decoders import MultiClassNonMaxSuppression, PredictionDecoder, TorchvisionDecoder
from retinanet_edge.training.heads import FeaturePyramid, PredictionHead
from retinanet_edge.training.losses import KERAS_LOSS, LossSpec, compute_losses
from retinanet_edge.training.model import build_network
from retinanet_edge.training.retinanet import RetinaNet
from retinanet_edge.training.targets import LabelEncoder, Matcher

LOW = MultiClassNonMaxSuppression(confidence_threshold=0.001, max_detections=20)  # finds something in a fresh network, too


def small(bounding_box_format: str = "xyxy", num_classes: int = 3, **parts: Any) -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(Backbone("test_resnet"), num_classes, bounding_box_format, **parts).eval()


def scene() -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Two images [2, 64, 96, 3] with two boxes and none, xyxy."""
    images = torch.randint(0, 255, (2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([[4.0, 6, 40, 44], [50, 20, 90, 60]]), torch.zeros(0, 4)]
    return images, boxes, [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.long)]


def test_the_documented_example() -> None:
    torch.manual_seed(0)
    images = torch.ones(1, 512, 512, 3)
    boxes = torch.tensor([[[0.0, 0, 100, 100], [100, 100, 200, 200], [300, 300, 100, 100]]])
    classes = torch.ones(1, 3, dtype=torch.long)
    model = RetinaNet(num_classes=20, bounding_box_format="xywh", backbone=Backbone("resnet50"))

    raw = model(images)
    anchors = 9 * (64**2 + 32**2 + 16**2 + 8**2 + 4**2)
    assert {name: tuple(output.shape) for name, output in raw.items()} == {
        "box": (1, anchors, 4), "classification": (1, anchors, 20)
    }  # fmt: skip

    found = model.predict(images)
    assert found.boxes.shape == (1, 100, 4)
    assert found.confidence.shape == found.classes.shape == (1, 100)
    assert found.num_detections.tolist() == [0]  # a fresh network is nowhere more than half sure
    assert found.boxes.eq(-1).all()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    before = model.train_step(images, boxes, classes, optimizer, clipnorm=10.0)
    with torch.no_grad():
        after = model.compute_loss(images, boxes, classes)
    assert 0 < after.total < before.total


def test_an_anchor_generator_beside_a_label_encoder_is_an_error() -> None:
    with pytest.raises(UserInputError, match="either an anchor_generator or a label_encoder"):
        small(anchor_generator=KERAS_ANCHORS, label_encoder=LabelEncoder(KERAS_ANCHORS))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"prediction_decoder": PredictionDecoder("xywh")}, "the prediction decoder's box format must be the model's, xyxy, got xywh"),
        ({"label_encoder": LabelEncoder(KERAS_ANCHORS, "yxyx")}, "the label encoder's box format must be the model's, xyxy, got yxyx"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"bounding_box_format": "ltrb"}, f"must be one of {', '.join(BOX_FORMATS)}, got ltrb"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(part: dict[str, Any], said: str) -> None:
    with pytest.raises(UserInputError, match=said):
        small(**part)


def test_formats_are_compared_in_any_case() -> None:
    model = small("XYWH", prediction_decoder=PredictionDecoder("xywh"), label_encoder=LabelEncoder(KERAS_ANCHORS, "xyWH"))
    assert model.bounding_box_format == "xywh"


def test_defaults_are_keras_s() -> None:
    model = small(num_classes=7)
    assert model.anchor_generator == KERAS_ANCHORS
    assert not model.label_encoder.matcher.force_match
    assert model.pyramid.p6_from == "C5"
    assert len(model.class_head.convs) == len(model.box_head.convs) == 3
    assert model.class_head.predict.out_channels == 9 * 7
    assert model.class_head.predict.bias.tolist() == pytest.approx([-4.59512] * 63)  # -log(99)
    rows = model.box_head.convs[0].weight.flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(256), atol=1e-4)  # orthogonal


class Decoder:
    """A decoder of one's own: says what it was given."""

    bounding_box_format = "xyxy"

    def __call__(self, box_deltas: Tensor, class_logits: Tensor, anchors: Sequence[Tensor], image_shape: tuple[int, int]) -> Any:
        return box_deltas, class_logits, torch.cat(list(anchors)), image_shape


class Head(nn.Module):
    """A head of one's own: the mean of the channels everywhere."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.filters = filters

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [x.mean(dim=1, keepdim=True).expand(-1, self.filters, -1, -1) for x in levels]


def test_every_part_can_be_replaced() -> None:
    images, *_ = scene()
    rule = AnchorGenerator(scales=(1.0,), ratios=(1.0, 2.0))
    encoder = LabelEncoder(rule, matcher=Matcher(0.9, 0.1), box_variance=(0.5, 1.0, 2.0, 3.0))
    pyramid = FeaturePyramid(Backbone("test_resnet").channels, 16)
    model = small(
        label_encoder=encoder, prediction_decoder=Decoder(), feature_pyramid=pyramid, classification_head=Head(2 * 3), box_head=Head(8)
    )
    deltas, logits, anchors, shape = model.predict(images)  # type: ignore[misc]
    assert torch.equal(anchors, rule(64, 96))
    assert shape == (64, 96)
    assert deltas.shape == (2, len(anchors), 4)
    assert logits.shape == (2, len(anchors), 3)
    assert torch.allclose(deltas, deltas[..., :1] * torch.tensor([1.0, 2.0, 4.0, 6.0]))  # the variances, over that of dx
    assert small(feature_pyramid=pyramid)(images)["box"].shape == (2, len(KERAS_ANCHORS(64, 96)), 4)  # heads of 16 channels follow


def test_a_head_of_other_channels_is_refused() -> None:
    with pytest.raises(UserInputError, match="the classification head must give 9 anchors x 3 channels, got 20"):
        small(classification_head=PredictionHead(20, 0.0))(scene()[0])


@pytest.mark.parametrize("decoder", [PredictionDecoder, TorchvisionDecoder])
def test_predictions_are_in_the_model_s_format(decoder: Any) -> None:
    images, *_ = scene()
    options = {"suppression": LOW} if decoder is PredictionDecoder else {"score_threshold": 0.001, "max_detections": 20}
    corners = small("xyxy", prediction_decoder=decoder("xyxy", **options)).predict(images)
    relative = small("rel_xywh", prediction_decoder=decoder("rel_xywh", **options)).predict(images)
    assert corners.num_detections.tolist() == [20, 20]
    assert torch.allclose(convert_boxes(relative.boxes, "rel_xywh", "xyxy", (64, 96)), corners.boxes, atol=1e-3)


def test_predicting_leaves_the_modes_as_they_were() -> None:
    images, *_ = scene()
    model = small(prediction_decoder=PredictionDecoder(suppression=LOW))
    expected = model.predict(images)
    model.train()
    model.backbone.eval()  # as one trains it with fixed statistics
    statistics = copy.deepcopy(dict(model.named_buffers()))
    found = model.predict(images)
    assert torch.equal(found.boxes, expected.boxes)
    assert model.training
    assert model.class_head.training
    assert not any(part.training for part in model.backbone.modules())
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())


def test_bytes_and_floats_are_the_same_image() -> None:
    images, *_ = scene()
    model = small()
    assert torch.equal(model(images)["box"], model(images.float())["box"])


def test_labels_do_not_depend_on_format_and_padding() -> None:
    images, boxes, classes = scene()
    expected = small("xyxy").compute_loss(images, boxes, classes)
    padded = torch.full((2, 4, 4), -1.0)
    padded[0, 1:3] = convert_boxes(boxes[0], "xyxy", "center_yxhw")
    found = small("center_yxhw").compute_loss(images, padded, torch.tensor([[-1, 0, 2, -1], [-1] * 4]))  # type: ignore[arg-type]
    assert torch.allclose(found.total, expected.total, rtol=1e-5)
    assert expected.boxes > 0


@pytest.mark.parametrize("box_loss", ["smooth_l1", "huber", "l1", "giou"])
def test_the_loss_is_that_of_the_training_loop(box_loss: Any) -> None:
    images, boxes, classes = scene()
    model, spec = small(), dataclasses.replace(KERAS_LOSS, box_loss=box_loss)
    raw = model(images)
    deltas = raw["box"] * torch.tensor([0.1, 0.1, 0.2, 0.2])
    expected = compute_losses(raw["classification"], deltas, KERAS_ANCHORS(64, 96), boxes, classes, spec)
    found = model.compute_loss(images, boxes, classes, spec)
    assert torch.allclose(found.classes, expected.classes, rtol=1e-4)
    assert torch.allclose(found.boxes, expected.boxes, rtol=1e-4)
    assert found.boxes > 0


def test_without_boxes_keras_has_no_loss_and_a_gradient_of_zero() -> None:
    images, boxes, classes = scene()
    model = small()
    losses = model.compute_loss(images[1:], boxes[1:], classes[1:])
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert losses.total == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.box_head.parameters())


def test_classes_that_the_model_has_not_are_refused() -> None:
    images, boxes, _ = scene()
    with pytest.raises(UserInputError, match="classes must be from 0 to 2, got 3"):
        small().compute_loss(images, boxes, [torch.tensor([0, 3]), torch.zeros(0, dtype=torch.long)])


def test_the_step_is_no_longer_than_the_clipnorm() -> None:
    images, boxes, classes = scene()
    model = small()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model.train_step(images, boxes, classes, torch.optim.SGD(model.parameters(), lr=1.0), clipnorm=0.01)
    moved = sum((now.detach() - then).square().sum() for now, then in zip(model.parameters(), before, strict=True))
    assert float(moved) ** 0.5 == pytest.approx(0.01, rel=1e-3)


def test_a_step_that_diverges_changes_nothing() -> None:
    images, boxes, classes = scene()
    model = small()
    before = copy.deepcopy(model.state_dict())
    spoilt = dataclasses.replace(KERAS_LOSS, box_weight=float("nan"))
    with pytest.raises(RetinaNetEdgeError, match="loss and gradient must be finite, got nan"):
        model.train_step(images, boxes, classes, torch.optim.SGD(model.parameters(), lr=1.0), loss=spoilt)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_few_steps_learn_an_image() -> None:
    images, boxes, classes = scene()
    model = small().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    totals = [float(model.train_step(images, boxes, classes, optimizer, loss=LossSpec()).total) for _ in range(12)]
    assert totals[-1] < 0.8 * totals[0]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(64, 96, 3), r"images must be \[any, any, any, 3\] .*, got \[64, 96, 3\]"),
        (torch.zeros(1, 3, 64, 96), r"images must be \[any, any, any, 3\] .*, got \[1, 3, 64, 96\]"),
    ],
)
def test_images_of_another_shape_are_refused(images: Tensor, said: str) -> None:
    with pytest.raises(UserInputError, match=said):
        small()(images)


def test_the_network_of_a_card_takes_the_weights_and_says_the_same() -> None:
    model = small()
    spec = NetworkSpec("test_resnet", 256, 256, 3, "none", "C5", tensorflow_padding=True)
    info = model.backbone.info
    network = build_network(spec, InputSpec(64, 96, info.mean, info.std), KERAS_ANCHORS.spec, 3).eval()
    network.load_state_dict(model.state_dict())
    images, *_ = scene()
    raw, (class_logits, box_deltas) = model(images), network(images.flip(-1))  # a card's network takes BGR
    assert torch.allclose(raw["classification"], class_logits, atol=1e-5)
    assert torch.allclose(raw["box"] * torch.tensor([0.1, 0.1, 0.2, 0.2]), box_deltas, atol=1e-5)
    assert torch.equal(network.anchors, model.anchor_generator(64, 96))
