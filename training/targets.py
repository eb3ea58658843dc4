"""What each anchor should predict: matching by IoU and the encoding of boxes, for one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

IGNORED, BACKGROUND = -2, -1


@dataclass(frozen=True)
class Matcher:
    """IoU from which an anchor is an object, and below which it is background; between the two it is ignored."""

    foreground_iou: float = 0.5
    background_iou: float = 0.4


def match(anchors_xyxy: Tensor, boxes: Tensor, matcher: Matcher) -> Tensor:
    """Return for each anchor xyxy [A, 4] the index of its box [n, 4], or BACKGROUND or IGNORED: int64 [A].

    Every box with any overlap also takes the anchors that fit it best, however small the IoU, so that none goes unlearnt (as
    torchvision's allow_low_quality_matches).
    """
    if len(boxes) == 0:
        return torch.full((len(anchors_xyxy),), BACKGROUND, device=anchors_xyxy.device)
    overlaps: Tensor = box_iou(anchors_xyxy, boxes)  # [A, n]
    best_iou, best_box = overlaps.max(dim=1)
    matches = best_box.clone()
    matches[best_iou < matcher.foreground_iou] = IGNORED
    matches[best_iou < matcher.background_iou] = BACKGROUND
    best_of_box = overlaps.max(dim=0).values
    rescued = ((overlaps == best_of_box) & (best_of_box > 0)).any(dim=1)
    matches[rescued] = best_box[rescued]
    return matches


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return (dx, dy, dw, dh) [n, 4] of xyxy boxes [n, 4] on anchors (cx, cy, w, h) [n, 4]. Inverse of `decode`."""
    target: Tensor = box_convert(boxes, "xyxy", "cxcywh")
    return torch.cat([(target[:, :2] - anchors[:, :2]) / anchors[:, 2:], (target[:, 2:] / anchors[:, 2:]).log()], dim=1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Return xyxy boxes [n, 4] of (dx, dy, dw, dh) [n, 4] on anchors (cx, cy, w, h) [n, 4]. Inverse of `encode`."""
    centre = deltas[:, :2] * anchors[:, 2:] + anchors[:, :2]
    boxes: Tensor = box_convert(torch.cat([centre, deltas[:, 2:].exp() * anchors[:, 2:]], dim=1), "cxcywh", "xyxy")
    return boxes
