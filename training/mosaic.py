"""Mosaic: four images in one, whose parts meet in a random point, so that a batch shows more surroundings and objects cut off.

Bochkovskiy et al., "YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_edge.training.augment import Augmentation, Example

IMAGES = 4
_NEAREST = 0.25  # of a side of the input, between the point where the images meet and the edge


def make_mosaic(augmentation: Augmentation, examples: Sequence[Example]) -> Example:
    """Return one example of the input's size from four: top left, top right, bottom left, bottom right.

    Each is augmented by itself, in its part of the input: so objects have the sizes that they have in single images, of which each
    mosaic shows a crop, and the grey beside a small image keeps its colour.
    """
    height, width = augmentation.height, augmentation.width
    above, before = _meeting_point(height), _meeting_point(width)
    spans = [(top, bottom, left, right) for top, bottom in ((0, above), (above, height)) for left, right in ((0, before), (before, width))]
    image = torch.empty(3, height, width, dtype=torch.uint8)
    boxes: list[Tensor] = []
    classes: list[Tensor] = []
    for example, (top, bottom, left, right) in zip(examples, spans, strict=True):
        image[:, top:bottom, left:right], found, kinds = augmentation.pane(example, bottom - top, right - left)
        boxes.append(found + torch.tensor([left, top, left, top]))
        classes.append(kinds)
    return image, torch.cat(boxes), torch.cat(classes)


def _meeting_point(side: int) -> int:
    return round(side * float(torch.empty(1).uniform_(_NEAREST, 1 - _NEAREST)))
