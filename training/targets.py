"""What each anchor should predict: matching by IoU and the encoding of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.anchors import AnchorGenerator
from retinanet_edge.training.box_formats import check_box_format, convert_boxes

IGNORED, BACKGROUND = -2, -1
BOX_VARIANCES = (0.1, 0.1, 0.2, 0.2)  # of (dx, dy, dw, dh): scale the box targets to about unit variance
_SMALLEST_SIDE = 1e-7  # pixels; a box without width has a finite logarithm


@dataclass(frozen=True)
class Matcher:
    """IoU from which an anchor is an object, and below which it is background; between the two it is ignored.

    With `force_match` every box with any overlap also takes the anchors that fit it best, however small the IoU, so that none
    goes unlearnt (as torchvision's allow_low_quality_matches). Raises UserInputError where the two are not 0 < lower <= upper <= 1.
    """

    foreground_iou: float = 0.5
    background_iou: float = 0.4
    force_match: bool = True

    def __post_init__(self) -> None:
        """Check the order."""
        if not 0 < self.background_iou <= self.foreground_iou <= 1:
            raise UserInputError(
                "IoU thresholds must be 0 < background <= foreground <= 1,"
                f" got background {self.background_iou:g} and foreground {self.foreground_iou:g}"
            )


def match(anchors_xyxy: Tensor, boxes: Tensor, matcher: Matcher) -> Tensor:
    """Return for each anchor xyxy [A, 4] the index of its box [n, 4], or BACKGROUND or IGNORED: int64 [A]."""
    return _match(anchors_xyxy, boxes, matcher)[0]


def _match(anchors_xyxy: Tensor, boxes: Tensor, matcher: Matcher) -> tuple[Tensor, Tensor]:
    """Return the match and the index of the best box, int64 [A] each."""
    if len(boxes) == 0:
        nothing = torch.full((len(anchors_xyxy),), BACKGROUND, device=anchors_xyxy.device)
        return nothing, nothing
    overlaps: Tensor = box_iou(anchors_xyxy, boxes).nan_to_num(0)  # [A, n]; 0 / 0 where neither has an area
    best_iou, best_box = overlaps.max(dim=1)
    matches = best_box.clone()
    matches[best_iou < matcher.foreground_iou] = IGNORED
    matches[best_iou < matcher.background_iou] = BACKGROUND
    if matcher.force_match:
        best_of_box = overlaps.max(dim=0).values
        rescued = ((overlaps == best_of_box) & (best_of_box > 0)).any(dim=1)
        matches[rescued] = best_box[rescued]
    return matches, best_box


@dataclass(frozen=True)
class Labels:
    """Targets of a batch: boxes [N, A, 4] (dx, dy, dw, dh) over variance, classes int64 [N, A] with BACKGROUND and IGNORED."""

    boxes: Tensor
    classes: Tensor


@dataclass(frozen=True)
class LabelEncoder:
    """Turns labelled boxes into the targets of every anchor, as KerasCV's RetinaNetLabelEncoder does by default.

    KerasCV writes its deltas (dy, dx, dh, dw); ours are (dx, dy, dw, dh) everywhere. Raises UserInputError for an unknown box format.
    """

    anchor_generator: AnchorGenerator
    bounding_box_format: str = "xyxy"
    matcher: Matcher = field(default_factory=lambda: Matcher(force_match=False))
    box_variance: tuple[float, float, float, float] = BOX_VARIANCES

    def __post_init__(self) -> None:
        """Check format and variances."""
        check_box_format(self.bounding_box_format)
        if len(self.box_variance) != 4 or min(self.box_variance) <= 0:
            raise UserInputError(f"box variances must be four positive numbers, got {self.box_variance}")

    def __call__(self, image_shape: tuple[int, int], boxes: Sequence[Tensor], classes: Sequence[Tensor]) -> Labels:
        """Return the labels of images of `image_shape` (height, width) with boxes [n, 4] and classes [n] each.

        A box target is that of the anchor's best box, even where the anchor is not positive; 0 in an image without boxes.
        """
        device = boxes[0].device if boxes else torch.device("cpu")
        anchors = self.anchor_generator(*image_shape).to(device)
        in_pixels = [convert_boxes(b, self.bounding_box_format, "xyxy", image_shape) for b in boxes]
        encoded = [self._encode(anchors, b, c) for b, c in zip(in_pixels, classes, strict=True)]
        return Labels(torch.stack([box for box, _ in encoded]), torch.stack([of_class for _, of_class in encoded]))

    def _encode(self, anchors: Tensor, boxes: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        matches, best = _match(box_convert(anchors, "cxcywh", "xyxy"), boxes, self.matcher)
        if len(boxes) == 0:
            return torch.zeros_like(anchors), matches
        targets = encode(boxes[best], anchors) / anchors.new_tensor(self.box_variance)
        return targets, torch.where(matches >= 0, classes.long()[best], matches)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return (dx, dy, dw, dh) [n, 4] of xyxy boxes [n, 4] on anchors (cx, cy, w, h) [n, 4]. Inverse of `decode`."""
    target: Tensor = box_convert(boxes, "xyxy", "cxcywh")
    sides = target[:, 2:].clamp(min=_SMALLEST_SIDE)
    return torch.cat([(target[:, :2] - anchors[:, :2]) / anchors[:, 2:], (sides / anchors[:, 2:]).log()], dim=1)


def decode(deltas: Tensor, anchors: Tensor, largest_log_side: float | None = None) -> Tensor:
    """Return xyxy boxes [..., 4] of (dx, dy, dw, dh) [..., 4] on anchors (cx, cy, w, h) [..., 4]. Inverse of `encode`.

    `largest_log_side` bounds dw and dh, so that an untrained network cannot overflow the exponential.
    """
    centre = deltas[..., :2] * anchors[..., 2:] + anchors[..., :2]
    logs = deltas[..., 2:] if largest_log_side is None else deltas[..., 2:].clamp(max=largest_log_side)
    boxes: Tensor = box_convert(torch.cat([centre, logs.exp() * anchors[..., 2:]], dim=-1), "cxcywh", "xyxy")
    return boxes
