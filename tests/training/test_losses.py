import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_convert, box_iou, sigmoid_focal_loss

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import NetworkSpec
from retinanet_edge.training.losses import (
    KERAS_LOSS,
    TORCHVISION_LOSS,
    TORCHVISION_V2_LOSS,
    LossSpec,
    box_loss,
    compute_losses,
    delta_loss,
    focal_loss,
    normalize,
    sum_losses,
)  # fmt: skip
from retinanet_edge.training.targets import BOX_VARIANCES, Matcher, encode

ANCHORS = torch.tensor([[50.0, 50, 20, 20], [150, 150, 20, 20]])
BOX = torch.tensor([[40.0, 40, 60, 60]])  # the first anchor exactly


def losses(class_logits: torch.Tensor, box_deltas: torch.Tensor, boxes: torch.Tensor = BOX) -> tuple[float, float]:
    classes = torch.zeros(len(boxes), dtype=torch.int64)
    result = compute_losses(class_logits, box_deltas, ANCHORS, [boxes], [classes], LossSpec())
    return result.classes.item(), result.boxes.item()


def test_focal_loss_by_hand() -> None:
    # All scores are 0.5: the positive costs 0.25 * 0.5^2 * ln 2, the negative 0.75 * 0.5^2 * ln 2; one anchor is matched.
    found, _ = losses(torch.zeros(1, 2, 1), torch.zeros(1, 2, 4))
    assert found == pytest.approx(0.25 * math.log(2))


def test_perfect_boxes_cost_nothing_and_shifted_ones_cost_their_distance() -> None:
    deltas = torch.zeros(1, 2, 4)
    assert losses(torch.zeros(1, 2, 1), deltas)[1] == 0
    deltas[0, 0, 0] = 0.05  # 0.5 of the variance 0.1; smooth L1 with beta 0.1: 0.5 - 0.1 / 2
    assert losses(torch.zeros(1, 2, 1), deltas)[1] == pytest.approx(0.45)


def test_an_image_without_objects_costs_only_its_scores() -> None:
    class_loss, box_loss = losses(torch.zeros(1, 2, 1), torch.ones(1, 2, 4), torch.zeros(0, 4))
    assert box_loss == 0
    assert class_loss == pytest.approx(2 * 0.75 * 0.25 * math.log(2))


def test_an_ignored_anchor_costs_nothing() -> None:
    # 20 x 8.9 inside the second anchor's 20 x 20: IoU 0.445, between background and object, while a copy of the anchor is matched.
    boxes = torch.tensor([[40.0, 40, 60, 60], [140, 140, 160, 148.9]])
    rescued = torch.tensor([[150.0, 150, 20, 20], [150.0, 144.45, 20, 8.9]])
    anchors = torch.cat([ANCHORS[:1], rescued])
    classes = torch.zeros(2, dtype=torch.int64)
    loud = torch.zeros(1, 3, 1)
    loud[0, 1] = 20.0  # a certain detection, were it counted
    deltas = torch.zeros(1, 3, 4)
    quiet = compute_losses(torch.zeros(1, 3, 1), deltas, anchors, [boxes], [classes], LossSpec()).classes
    assert compute_losses(loud, deltas, anchors, [boxes], [classes], LossSpec()).classes == pytest.approx(quiet.item())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_outputs_in_half_precision_are_summed_in_single(kind: torch.dtype) -> None:
    class_logits = torch.full((1, 2, 1), -4.59375, dtype=kind)  # exact in both
    box_deltas = torch.full((1, 2, 4), 0.0078125, dtype=kind)
    half = losses(class_logits.repeat(1, 1, 500), box_deltas)  # a sum of 1000 small terms, which half precision would stop adding to
    single = losses(class_logits.float().repeat(1, 1, 500), box_deltas.float())
    assert half == single
    assert compute_losses(class_logits, box_deltas, ANCHORS, [BOX], [torch.tensor([0])], LossSpec()).total.dtype == torch.float32


def test_a_batch_shares_one_divisor() -> None:
    """Two images with one matched anchor each: the mean of their losses, not their sum; an image without objects adds none."""
    deltas = torch.zeros(3, 2, 4)
    deltas[0, 0, 0] = 0.05  # costs 0.45, as above
    boxes, classes = [BOX, BOX, torch.zeros(0, 4)], [torch.tensor([0]), torch.tensor([0]), torch.zeros(0).long()]
    found = compute_losses(torch.zeros(3, 2, 1), deltas, ANCHORS, boxes, classes, LossSpec())
    assert found.boxes.item() == pytest.approx(0.45 / 2)
    # 2 positives at 0.25 * 0.25 * ln 2 and 4 negatives at 0.75 * 0.25 * ln 2, over 2.
    assert found.classes.item() == pytest.approx((2 * 0.0625 + 4 * 0.1875) * math.log(2) / 2)


def test_gradients_lead_to_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    class_logits = torch.zeros(1, 2, 3, requires_grad=True)
    box_deltas = (torch.randn(1, 2, 4, generator=generator) * 0.05).requires_grad_()
    box, cls = torch.tensor([[38.0, 42, 61, 59]]), torch.tensor([2])
    optimizer = torch.optim.Adam([class_logits, box_deltas], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        compute_losses(class_logits, box_deltas, ANCHORS, [box], [cls], LossSpec()).total.backward()
        optimizer.step()
    assert class_logits[0, 0].argmax() == 2
    assert class_logits[0, 1].max() < -1
    assert torch.allclose(box_deltas[0, :1], encode(box, ANCHORS[:1]), atol=0.01)


def test_network_and_targets_have_the_same_variances() -> None:
    assert NetworkSpec("resnet18", 64, 64, 2, "batch").box_variances == BOX_VARIANCES


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 5), st.integers(0, 1000))
def test_focal_loss_is_torchvisions(alpha: float, gamma: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(20, 7, generator=generator) * 8
    targets = (torch.rand(20, 7, generator=generator) < 0.3).float()
    found = focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    assert torch.allclose(found, sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma), rtol=1e-5, atol=1e-6)


def test_label_smoothing_by_hand() -> None:
    # All scores 0.5; targets 0.95 and 0.05 for smoothing 0.1. The cross entropy is ln 2 whatever the target, 1 - p_t is 0.5.
    logits, targets = torch.zeros(2), torch.tensor([1.0, 0.0])
    usual = focal_loss(logits, targets, label_smoothing=0.1)
    assert usual.tolist() == pytest.approx([0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)])
    keras = focal_loss(logits, targets, label_smoothing=0.1, alpha_after_smoothing=True)  # no target is 1: all weigh 1 - alpha
    assert keras.tolist() == pytest.approx([0.75 * 0.25 * math.log(2)] * 2)


LOGITS = torch.tensor([
    [-1.4261361, 1.2420357, -4.5002823, 0.7727392, -1.1632817], [0.2185594, -0.1514031, 0.4042288, 1.3883439, -1.5167395],
])  # fmt: skip
ONE_HOT = torch.tensor([[0.0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("alpha", "gamma", "smoothing", "expected"),
    [(0.25, 2.0, 0.0, [1.0974928, 1.1543941]), (0.5, 1.0, 0.0, [1.0277425, 1.2118388]), (0.25, 2.0, 0.1, [1.0010327, 1.1227545])],
)
def test_focal_loss_is_what_keras_computed(alpha: float, gamma: float, smoothing: float, expected: list[float]) -> None:
    found = focal_loss(LOGITS, ONE_HOT, alpha=alpha, gamma=gamma, label_smoothing=smoothing, alpha_after_smoothing=True)
    assert found.sum(dim=1).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "coordinates", "expected"),
    [
        # Distances 0.5 and 3, beta 1: smooth L1 0.5^2 / 2 and 3 - 0.5.
        ("smooth_l1", "sum", 0.125 + 2.5), ("smooth_l1", "mean", (0.125 + 2.5) / 4), ("l1", "sum", 3.5), ("l1", "mean", 0.875),
    ],
)  # fmt: skip
def test_box_losses_by_hand(name: Any, coordinates: Any, expected: float) -> None:
    spec = LossSpec(beta=1.0, box_loss=name, coordinates=coordinates)
    assert delta_loss(torch.tensor([0.5, 3.0, 0, 0]), torch.zeros(4), spec).item() == pytest.approx(expected)


def test_huber_is_beta_times_smooth_l1() -> None:
    deltas = torch.tensor([[0.1, 0.4, 2.0, -3.0]])
    # beta 0.5: 0.1^2 / 2 = 0.005; 0.4^2 / 2 = 0.08; 0.5 * (2 - 0.25) = 0.875; 0.5 * (3 - 0.25) = 1.375.
    huber = delta_loss(deltas, torch.zeros(1, 4), LossSpec(beta=0.5, box_loss="huber"))
    assert huber.item() == pytest.approx(0.005 + 0.08 + 0.875 + 1.375)
    assert huber.item() == pytest.approx(0.5 * delta_loss(deltas, torch.zeros(1, 4), LossSpec(beta=0.5)).item())


def test_smooth_l1_is_what_keras_computed() -> None:
    deltas = torch.tensor([[2.0960321, -0.6321397, 1.1824739, -1.2680378]])
    targets = torch.tensor([[-1.8543040, 1.4042155, -1.6915499, -0.8406917]])
    assert delta_loss(deltas, targets, KERAS_LOSS).item() == pytest.approx(1.8630070, abs=1e-5)


def test_giou_by_hand_and_as_keras_computed() -> None:
    spec = LossSpec(box_loss="giou")
    anchors = torch.tensor([[5.0, 5, 10, 10]])
    # 10 x 10 boxes side by side, 10 apart: no overlap, enclosing box 30 x 10, union 200: GIoU = 0 - 100 / 300.
    assert box_loss(torch.tensor([[2.0, 0, 0, 0]]), torch.tensor([[0.0, 0, 10, 10]]), anchors, spec).item() == pytest.approx(4 / 3)
    first = torch.tensor([[69.4841995, 27.7466640, 112.2587967, 95.7522812]])
    second = torch.tensor([[57.4414978, 32.8820229, 101.1873093, 105.3554001]])
    assert box_loss(torch.zeros(1, 4), second, box_convert(first, "xyxy", "cxcywh"), spec).item() == pytest.approx(0.5517366, abs=1e-5)


def random_batch(images: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    anchors = torch.cat([torch.rand(400, 2, generator=generator) * 100, 10 + torch.rand(400, 2, generator=generator) * 40], dim=1)
    xyxy = box_convert(anchors, "cxcywh", "xyxy")
    boxes = [xyxy[torch.randperm(400, generator=generator)[: 3 + 2 * i]] + 1.5 for i in range(images)]
    classes = [torch.randint(0, 5, (len(b),), generator=generator) for b in boxes]
    logits = torch.randn(images, 400, 5, generator=generator)
    return logits, torch.randn(images, 400, 4, generator=generator) * 0.3, anchors, boxes, classes


@pytest.mark.parametrize(("spec", "name"), [(TORCHVISION_LOSS, "l1"), (TORCHVISION_V2_LOSS, "giou")])
@pytest.mark.parametrize("empty", [False, True])
def test_the_whole_loss_is_torchvisions(spec: LossSpec, name: str, empty: bool) -> None:
    logits, deltas, anchors, boxes, classes = random_batch()
    if empty:
        boxes[1], classes[1] = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    xyxy = box_convert(anchors, "cxcywh", "xyxy")
    head = RetinaNetHead(8, 1, 5)
    head.regression_head._loss_type = name
    matcher = TorchvisionMatcher(0.5, 0.4, allow_low_quality_matches=True)
    matches = [matcher(box_iou(b, xyxy)) if len(b) else torch.full((400,), -1) for b in boxes]
    targets = [{"boxes": b, "labels": c} for b, c in zip(boxes, classes, strict=True)]
    theirs = head.compute_loss(targets, {"cls_logits": logits, "bbox_regression": deltas}, [xyxy, xyxy], matches)
    ours = compute_losses(logits, deltas, anchors, boxes, classes, spec)
    assert ours.classes.item() == pytest.approx(theirs["classification"].item(), rel=1e-5)
    assert ours.boxes.item() == pytest.approx(theirs["bbox_regression"].item(), rel=1e-5)


def test_normalizers_divide_by_what_they_say() -> None:
    batch = random_batch()
    sums = sum_losses(*batch, LossSpec())
    first, second = sums.positives.tolist()
    assert first != second
    assert min(first, second) > 0
    whole = compute_losses(*batch, LossSpec())
    assert whole.classes.item() == pytest.approx(sums.classes.sum().item() / (first + second))
    by_image = compute_losses(*batch, LossSpec(normalizer="image"))
    assert by_image.boxes.item() == pytest.approx((sums.boxes[0].item() / first + sums.boxes[1].item() / second) / 2)
    shared = normalize(sums, LossSpec(), positives=torch.tensor(10.0))  # as counted over several processes
    assert shared.boxes.item() == pytest.approx(sums.boxes.sum().item() / 10)


def test_without_a_match_keras_has_no_loss_and_we_have_that_of_the_scores() -> None:
    logits = torch.zeros(1, 2, 1, requires_grad=True)
    arguments = (logits, torch.ones(1, 2, 4), ANCHORS, [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)])
    keras = compute_losses(*arguments, KERAS_LOSS)
    assert keras.total.item() == 0
    keras.total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad == 0).all()
    assert compute_losses(*arguments, LossSpec()).classes.item() > 0


def test_weights_scale_their_part() -> None:
    batch = random_batch()
    plain = compute_losses(*batch, LossSpec())
    weighted = compute_losses(*batch, LossSpec(class_weight=3.0, box_weight=0.5))
    assert weighted.classes.item() == pytest.approx(3 * plain.classes.item())
    assert weighted.boxes.item() == pytest.approx(0.5 * plain.boxes.item())


@pytest.mark.parametrize("name", ["smooth_l1", "huber", "l1", "giou"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_and_agrees(name: Any, dtype: torch.dtype) -> None:
    logits, deltas, anchors, boxes, classes = random_batch()
    spec = LossSpec(box_loss=name, gamma=0.5, label_smoothing=0.1)
    # Certain of what is wrong, and boxes far beyond any image: as a young network in half precision may be.
    low_logits, low_deltas = logits.to(dtype), deltas.to(dtype)
    low_logits[0, :50], low_logits[0, 50:100], low_deltas[0, :200] = 60000.0, -60000.0, 300.0
    low_logits.requires_grad_()
    low_deltas.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        low = compute_losses(low_logits, low_deltas, anchors, boxes, classes, spec)
    low.total.backward()  # type: ignore[no-untyped-call]
    full = compute_losses(low_logits.detach().float(), low_deltas.detach().float(), anchors, boxes, classes, spec)
    assert torch.isfinite(low.total)
    assert low.total.item() == pytest.approx(full.total.item(), rel=1e-5)
    for tensor in (low_logits, low_deltas):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_score_beyond_doubt_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([100.0, -100.0, 100.0, -100.0], requires_grad=True)  # 1 - p_t is exactly 0, 1, 1, 0
    loss = focal_loss(logits, torch.tensor([1.0, 1.0, 0.0, 0.0]), gamma=gamma)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert loss.tolist() == pytest.approx([0, 0.25 * 100, 0.75 * 100, 0])
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([0, -0.25, 0.75, 0])


@pytest.mark.parametrize("name", ["smooth_l1", "huber", "l1", "giou"])
def test_every_box_loss_leads_to_the_box(name: Any) -> None:
    box_deltas = torch.tensor([[[0.03, -0.05, 0.08, 0.02], [0, 0, 0, 0]]], requires_grad=True)
    box, spec = torch.tensor([[38.0, 42, 61, 59]]), LossSpec(box_loss=name)
    optimizer = torch.optim.Adam([box_deltas], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        compute_losses(torch.zeros(1, 2, 1), box_deltas, ANCHORS, [box], [torch.tensor([0])], spec).boxes.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    assert torch.allclose(box_deltas[0, :1], encode(box, ANCHORS[:1]), atol=0.02)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"box_loss": "iou"}, "box loss must be one of smooth_l1, huber, l1, giou, got iou"),
        ({"normalizer": "none"}, "normalizer must be one of batch, batch_or_zero, image, got none"),
        ({"coordinates": "max"}, "coordinate reduction must be one of sum, mean, got max"),
        ({"alpha": 1.5}, "0 <= alpha <= 1"), ({"label_smoothing": 1.0}, "label smoothing < 1"), ({"gamma": -1.0}, "gamma >= 0"),
        ({"beta": 0.0}, "beta > 0"), ({"variances": (1.0, 1.0, 0.0, 1.0)}, "variances > 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserInputError, match=said):
        dataclasses.replace(LossSpec(matcher=Matcher()), **change)
