"""Which labelled boxes have a positive anchor: a box without one is learnt by force at best, whatever the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.model_card import InputSpec
from retinanet_edge.training.targets import Matcher, match


@dataclass(frozen=True)
class AnchorCoverage:
    """Boxes that are the best box of an anchor at `foreground_iou` or more, and all boxes; of each class [K] and of all."""

    foreground_iou: float
    matched_of_class: tuple[int, ...]
    boxes_of_class: tuple[int, ...]

    @property
    def matched(self) -> int:
        """Matched boxes of all classes."""
        return sum(self.matched_of_class)

    @property
    def boxes(self) -> int:
        """Boxes of all classes."""
        return sum(self.boxes_of_class)

    @property
    def share(self) -> float:
        """Share of the boxes that is matched, 0..1; nan without boxes."""
        return self.matched / self.boxes if self.boxes else float("nan")


def anchor_coverage(
    anchors: Tensor, samples: Sequence[Sample], input_spec: InputSpec, classes: int, foreground_iou: float = 0.5
) -> AnchorCoverage:
    """Match the samples' boxes, letterboxed into the input, with anchors [A, 4] (cx, cy, w, h); crowds are left out, as in training.

    KerasCV's percent_boxes_matched, without its defect: that counts the best anchor of a box at any IoU. So does forced matching,
    which is therefore off here. Raises UserInputError for an IoU that is not above 0 and at most 1.
    """
    corners = box_convert(anchors, "cxcywh", "xyxy")
    matcher = Matcher(foreground_iou, foreground_iou, force_match=False)
    boxes, matched = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for sample in samples:
        letterbox = Letterbox(sample.height, sample.width, input_spec.height, input_spec.width)
        objects = ~sample.crowd
        in_input = torch.from_numpy(letterbox.boxes_to_input(sample.boxes[objects])).to(anchors.device)
        matches = match(corners, in_input, matcher).cpu().numpy()
        kinds = sample.classes[objects]
        boxes += np.bincount(kinds, minlength=classes)
        matched += np.bincount(kinds[np.unique(matches[matches >= 0])], minlength=classes)
    return AnchorCoverage(foreground_iou, tuple(matched.tolist()), tuple(boxes.tolist()))
