import math

import pytest
import torch

from retinanet_edge.training.losses import LossSpec, compute_losses
from retinanet_edge.training.targets import encode

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
