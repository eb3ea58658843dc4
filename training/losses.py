"""The loss of a batch: focal loss over classes, smooth L1 over boxes, both divided by the number of matched anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, sigmoid_focal_loss

from retinanet_edge.training.model import BOX_VARIANCES
from retinanet_edge.training.targets import BACKGROUND, IGNORED, Matcher, encode, match


@dataclass(frozen=True)
class LossSpec:
    """Parameters of the loss; alpha and gamma as in Lin et al., beta where smooth L1 turns from square to linear."""

    alpha: float = 0.25
    gamma: float = 2.0
    beta: float = 0.1
    box_weight: float = 1.0
    matcher: Matcher = field(default_factory=Matcher)


@dataclass(frozen=True)
class Losses:
    """Scalar tensors: classification and box loss of a batch."""

    classes: Tensor
    boxes: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.classes + self.boxes


def compute_losses(
    class_logits: Tensor, box_deltas: Tensor, anchors: Tensor,
    boxes: Sequence[Tensor], classes: Sequence[Tensor], spec: LossSpec,
) -> Losses:  # fmt: skip
    """Return the losses of a batch.

    class_logits [N, A, K], box_deltas [N, A, 4], anchors [A, 4] (cx, cy, w, h); boxes and classes: for each image xyxy [n, 4] in
    input pixels and int64 [n]. Computed in float32 whatever the network ran in.
    """
    anchors_xyxy = box_convert(anchors, "cxcywh", "xyxy")
    matches = torch.stack([match(anchors_xyxy, b, spec.matcher) for b in boxes])  # [N, A]
    class_sum = _class_loss(class_logits.float(), matches, classes, spec)
    box_sum = _box_loss(box_deltas.float(), matches, anchors, boxes, spec)
    matched = (matches >= 0).sum().clamp(min=1)
    return Losses(class_sum / matched, spec.box_weight * box_sum / matched)


def _class_loss(logits: Tensor, matches: Tensor, classes: Sequence[Tensor], spec: LossSpec) -> Tensor:
    targets = torch.zeros_like(logits)
    for image, (of_anchor, of_box) in enumerate(zip(matches, classes, strict=True)):
        positive = (of_anchor >= 0).nonzero()[:, 0]
        targets[image, positive, of_box[of_anchor[positive]]] = 1
    counted = matches != IGNORED
    loss: Tensor = sigmoid_focal_loss(
        logits[counted], targets[counted], alpha=spec.alpha, gamma=spec.gamma, reduction="sum"
    )
    return loss


def _box_loss(deltas: Tensor, matches: Tensor, anchors: Tensor, boxes: Sequence[Tensor], spec: LossSpec) -> Tensor:
    variances = torch.tensor(BOX_VARIANCES, device=deltas.device)
    total = deltas.sum() * 0  # keeps the graph whole when no anchor is matched
    for image, (of_anchor, of_image) in enumerate(zip(matches, boxes, strict=True)):
        positive = of_anchor > BACKGROUND
        target = encode(of_image[of_anchor[positive]], anchors[positive])
        total = total + F.smooth_l1_loss(deltas[image, positive] / variances, target / variances, beta=spec.beta, reduction="sum")
    return total
