"""The loss of a batch: focal loss over classes and a box loss over matched anchors, divided by the number of those."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.targets import BOX_VARIANCES, IGNORED, Labels, Matcher, decode, encode, match

BoxLoss = Literal["smooth_l1", "huber", "l1", "giou"]
Normalizer = Literal["batch", "batch_or_zero", "image"]
Reduction = Literal["sum", "mean"]
LARGEST_LOG_SIDE = math.log(1000 / 16)  # a box of 1000 pixels on an anchor of 16 (torchvision's bound)


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserInputError(f"the {what} must be one of {', '.join(choices)}, got {value}")


@dataclass(frozen=True)
class LossSpec:
    """Parameters of the loss. The defaults are ours; KERAS_LOSS, TORCHVISION_LOSS and TORCHVISION_V2_LOSS are theirs.

    alpha and gamma as in Lin et al., Focal Loss. `alpha_after_smoothing`: with label smoothing no target is 1 any more, and KerasCV then
    weighs all with 1 - alpha. beta: where smooth L1 and Huber turn from square to linear, in deltas over their variance; GIoU has
    neither variances nor coordinates. normalizer: sums are divided by the matched anchors of the batch (by 1 where there are none), the
    same with zero loss where there are none, or by those of each image, then averaged. Raises UserInputError for what cannot be.
    """

    alpha: float = 0.25
    gamma: float = 2.0
    beta: float = 0.1
    box_weight: float = 1.0
    matcher: Matcher = field(default_factory=Matcher)
    class_weight: float = 1.0
    label_smoothing: float = 0.0
    alpha_after_smoothing: bool = False
    box_loss: BoxLoss = "smooth_l1"
    coordinates: Reduction = "sum"
    variances: tuple[float, float, float, float] = BOX_VARIANCES
    normalizer: Normalizer = "batch"

    def __post_init__(self) -> None:
        """Check choices and ranges."""
        _check_choice("box loss", self.box_loss, get_args(BoxLoss))
        _check_choice("coordinate reduction", self.coordinates, get_args(Reduction))
        _check_choice("normalizer", self.normalizer, get_args(Normalizer))
        if not (0 <= self.alpha <= 1 and 0 <= self.label_smoothing < 1 and self.gamma >= 0 and self.beta > 0 and min(self.variances) > 0):
            raise UserInputError(
                "the loss needs 0 <= alpha <= 1, 0 <= label smoothing < 1, gamma >= 0, beta > 0, variances > 0,"
                f" got {self.alpha:g}, {self.label_smoothing:g}, {self.gamma:g}, {self.beta:g}, {self.variances}"
            )


_UNIT_VARIANCES = (1.0, 1.0, 1.0, 1.0)
KERAS_LOSS = LossSpec(
    beta=1.0, matcher=Matcher(force_match=False), alpha_after_smoothing=True, coordinates="mean", normalizer="batch_or_zero"
)
TORCHVISION_LOSS = LossSpec(box_loss="l1", variances=_UNIT_VARIANCES, normalizer="image")
TORCHVISION_V2_LOSS = LossSpec(box_loss="giou", variances=_UNIT_VARIANCES, normalizer="image")


@dataclass(frozen=True)
class Losses:
    """Scalar tensors: classification and box loss of a batch."""

    classes: Tensor
    boxes: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.classes + self.boxes


@dataclass(frozen=True)
class LossSums:
    """Before normalisation, for each image [N]: summed classification and box loss, and the number of matched anchors."""

    classes: Tensor
    boxes: Tensor
    positives: Tensor


def compute_losses(
    class_logits: Tensor, box_deltas: Tensor, anchors: Tensor,
    boxes: Sequence[Tensor], classes: Sequence[Tensor], spec: LossSpec,
) -> Losses:  # fmt: skip
    """Return the losses of a batch: `normalize` of `sum_losses`, whose arguments it takes."""
    return normalize(sum_losses(class_logits, box_deltas, anchors, boxes, classes, spec), spec)


def sum_losses(
    class_logits: Tensor, box_deltas: Tensor, anchors: Tensor,
    boxes: Sequence[Tensor], classes: Sequence[Tensor], spec: LossSpec,
) -> LossSums:  # fmt: skip
    """Return the sums of a batch.

    class_logits [N, A, K], box_deltas [N, A, 4], anchors [A, 4] (cx, cy, w, h); boxes and classes: for each image xyxy [n, 4] in
    input pixels and int64 [n]. Computed in float32 whatever the network ran in.
    """
    anchors_xyxy = box_convert(anchors, "cxcywh", "xyxy")
    matches = torch.stack([match(anchors_xyxy, b, spec.matcher) for b in boxes])  # [N, A]
    logits = class_logits.float()
    class_sums = _class_sums(logits, _class_targets(logits, matches, classes), matches == IGNORED, spec)
    box_sums = _box_sums(box_deltas.float(), matches, anchors, boxes, spec)
    return LossSums(class_sums, box_sums, (matches >= 0).sum(dim=1))


def sum_encoded_losses(class_logits: Tensor, box_outputs: Tensor, anchors: Tensor, labels: Labels, spec: LossSpec) -> LossSums:
    """Return the sums of a batch whose labels a LabelEncoder has made: those of `sum_losses` where the encoder matches as the spec does.

    class_logits [N, A, K]; box_outputs [N, A, 4], deltas over the spec's variances as the labels are; anchors [A, 4] (cx, cy, w, h).
    """
    logits, outputs = class_logits.float(), box_outputs.float()
    image, anchor = (labels.classes >= 0).nonzero(as_tuple=True)
    targets = torch.zeros_like(logits)
    targets[image, anchor, labels.classes[image, anchor]] = 1
    found, wanted = outputs[image, anchor], labels.boxes[image, anchor]
    if spec.box_loss == "giou":
        variances, at = outputs.new_tensor(spec.variances), anchors[anchor]
        losses = box_loss(found * variances, decode(wanted * variances, at), at, spec)
    else:
        losses = delta_loss(found, wanted, spec)
    box_sums = (outputs * 0).sum(dim=(1, 2)).index_add(0, image, losses)  # keeps the graph whole when no anchor is matched
    return LossSums(_class_sums(logits, targets, labels.classes == IGNORED, spec), box_sums, (labels.classes >= 0).sum(dim=1))


def normalize(sums: LossSums, spec: LossSpec, positives: Tensor | None = None) -> Losses:
    """Return the losses of the sums of a batch.

    `positives` replaces the batch's own count where the batch is spread over several processes or accumulation steps.
    """
    if spec.normalizer == "image":
        count, class_sum, box_sum = sums.positives, sums.classes, sums.boxes
    else:
        count = sums.positives.sum() if positives is None else positives
        class_sum, box_sum = sums.classes.sum(), sums.boxes.sum()
    divisor = torch.where(count > 0, count, torch.ones_like(count))
    found = (count > 0).float() if spec.normalizer == "batch_or_zero" else 1.0
    return Losses(
        spec.class_weight * (found * class_sum / divisor).mean(), spec.box_weight * (found * box_sum / divisor).mean()
    )


def focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0,
    label_smoothing: float = 0.0, alpha_after_smoothing: bool = False,
) -> Tensor:  # fmt: skip
    """Return the focal loss, not reduced, of logits and targets (0 or 1) of one shape (Lin et al., equation 5).

    Label smoothing moves the targets to label_smoothing / 2 and 1 - label_smoothing / 2.
    """
    smooth = targets * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else targets
    # 1 - (p t + (1 - p) (1 - t)) = t + p (1 - 2 t), in few passes over the scores, of which there are millions.
    miss = torch.addcmul(smooth, logits.sigmoid(), torch.rsub(smooth, 1, alpha=2))
    if gamma < 1:
        miss = miss.clamp(min=1e-7)  # the power of an exact 0 would have no gradient
    weight = torch.where((smooth if alpha_after_smoothing else targets) == 1, alpha, 1 - alpha)
    return miss**gamma * F.binary_cross_entropy_with_logits(logits, smooth, weight, reduction="none")


def _class_targets(logits: Tensor, matches: Tensor, classes: Sequence[Tensor]) -> Tensor:
    targets = torch.zeros_like(logits)
    for image, (of_anchor, of_box) in enumerate(zip(matches, classes, strict=True)):
        positive = (of_anchor >= 0).nonzero()[:, 0]
        targets[image, positive, of_box[of_anchor[positive]]] = 1
    return targets


def _class_sums(logits: Tensor, targets: Tensor, ignored: Tensor, spec: LossSpec) -> Tensor:
    loss = focal_loss(
        logits, targets, alpha=spec.alpha, gamma=spec.gamma,
        label_smoothing=spec.label_smoothing, alpha_after_smoothing=spec.alpha_after_smoothing,
    )  # fmt: skip
    return loss.sum(dim=2).masked_fill(ignored, 0).sum(dim=1)


def _box_sums(deltas: Tensor, matches: Tensor, anchors: Tensor, boxes: Sequence[Tensor], spec: LossSpec) -> Tensor:
    sums = []
    for of_anchor, of_deltas, of_image in zip(matches, deltas, boxes, strict=True):
        positive = (of_anchor >= 0).nonzero()[:, 0]
        loss = box_loss(of_deltas[positive], of_image[of_anchor[positive]], anchors[positive], spec)
        sums.append(loss.sum() + of_deltas.sum() * 0)  # keeps the graph whole when no anchor is matched
    return torch.stack(sums)


def box_loss(deltas: Tensor, boxes: Tensor, anchors: Tensor, spec: LossSpec) -> Tensor:
    """Return the box loss [n] of (dx, dy, dw, dh) [n, 4] on anchors (cx, cy, w, h) [n, 4] against xyxy boxes [n, 4]."""
    if spec.box_loss == "giou":
        giou: Tensor = generalized_box_iou_loss(decode(deltas, anchors, LARGEST_LOG_SIDE), boxes)
        return giou
    variances = deltas.new_tensor(spec.variances)
    return delta_loss(deltas / variances, encode(boxes, anchors) / variances, spec)


def delta_loss(deltas: Tensor, targets: Tensor, spec: LossSpec) -> Tensor:
    """Return smooth L1, Huber or L1 [...] of deltas and targets [..., 4], both over variance; summed or averaged over coordinates."""
    if spec.box_loss == "smooth_l1":
        loss = F.smooth_l1_loss(deltas, targets, beta=spec.beta, reduction="none")
    elif spec.box_loss == "huber":
        loss = F.huber_loss(deltas, targets, delta=spec.beta, reduction="none")
    else:
        loss = F.l1_loss(deltas, targets, reduction="none")
    return loss.mean(dim=-1) if spec.coordinates == "mean" else loss.sum(dim=-1)
