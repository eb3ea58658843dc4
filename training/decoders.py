"""From raw network outputs to boxes: decoding and non-maximum suppression as KerasCV and as torchvision do them.

They exist for parity. Every AP that is reported comes from runtime/efficient_nms.py, the twin of the device's plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, nms

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.box_formats import check_box_format, convert_boxes
from retinanet_edge.training.losses import LARGEST_LOG_SIDE
from retinanet_edge.training.targets import decode

PADDING = -1


@dataclass(frozen=True)
class PaddedDetections:
    """Detections of a batch, best first, then rows of -1: boxes [N, M, 4], confidence [N, M], classes int64 [N, M], counts int64 [N]."""

    boxes: Tensor
    confidence: Tensor
    classes: Tensor
    num_detections: Tensor


@dataclass(frozen=True)
class NonMaxSuppression:
    """KerasCV's class-agnostic suppression: an anchor's best class alone counts, and a box suppresses those of every class."""

    iou_threshold: float = 0.5
    confidence_threshold: float = 0.5
    max_detections: int = 100

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_thresholds(self.iou_threshold, self.confidence_threshold, self.max_detections)

    def __call__(self, boxes: Tensor, class_logits: Tensor) -> PaddedDetections:
        """Return the detections of xyxy boxes [N, A, 4] with class_logits [N, A, K]."""
        return _pad([self._image(b, s) for b, s in zip(boxes, class_logits.sigmoid(), strict=True)], self.max_detections)

    def _image(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        confidence, classes = scores.max(dim=1)
        candidates = (confidence > self.confidence_threshold).nonzero()[:, 0]
        kept = candidates[nms(boxes[candidates], confidence[candidates], self.iou_threshold)][: self.max_detections]
        return boxes[kept], confidence[kept], classes[kept]


@dataclass(frozen=True)
class MultiClassNonMaxSuppression:
    """KerasCV's suppression within each class: at most `max_detections_per_class` of each, then the best of all."""

    iou_threshold: float = 0.5
    confidence_threshold: float = 0.5
    max_detections: int = 100
    max_detections_per_class: int = 100

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_thresholds(self.iou_threshold, self.confidence_threshold, min(self.max_detections, self.max_detections_per_class))

    def __call__(self, boxes: Tensor, class_logits: Tensor) -> PaddedDetections:
        """Return the detections of xyxy boxes [N, A, 4] with class_logits [N, A, K]."""
        return _pad([self._image(b, s) for b, s in zip(boxes, class_logits.sigmoid(), strict=True)], self.max_detections)

    def _image(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept = [self._of_class(boxes, of_class) for of_class in scores.unbind(dim=1)]
        anchors = torch.cat(kept)
        classes = torch.cat([torch.full_like(indices, number) for number, indices in enumerate(kept)])
        confidence = scores[anchors, classes]
        best = confidence.argsort(descending=True, stable=True)[: self.max_detections]
        return boxes[anchors[best]], confidence[best], classes[best]

    def _of_class(self, boxes: Tensor, scores: Tensor) -> Tensor:
        candidates = (scores > self.confidence_threshold).nonzero()[:, 0]
        kept: Tensor = nms(boxes[candidates], scores[candidates], self.iou_threshold)
        return candidates[kept[: self.max_detections_per_class]]


@dataclass(frozen=True)
class PredictionDecoder:
    """KerasCV's `predict`: decode, suppress, convert. `suppression` is any callable of xyxy boxes and logits; nothing is clipped."""

    bounding_box_format: str = "xyxy"
    suppression: Callable[[Tensor, Tensor], PaddedDetections] = field(default_factory=MultiClassNonMaxSuppression)

    def __post_init__(self) -> None:
        """Check the format."""
        check_box_format(self.bounding_box_format)

    def __call__(
        self, box_deltas: Tensor, class_logits: Tensor, anchors: Sequence[Tensor], image_shape: tuple[int, int]
    ) -> PaddedDetections:
        """Return detections in the decoder's box format.

        box_deltas [N, A, 4] (dx, dy, dw, dh) with variances applied, class_logits [N, A, K], anchors (cx, cy, w, h) of each level
        (AnchorGenerator.levels), image_shape (height, width) of the network's input.
        """
        found = self.suppression(decode(box_deltas.float(), torch.cat(list(anchors))), class_logits.float())
        return _in_format(found, self.bounding_box_format, image_shape)


@dataclass(frozen=True)
class TorchvisionDecoder:
    """torchvision's RetinaNet.postprocess_detections: the best (anchor, class) pairs of each level, clipped, suppressed by class."""

    bounding_box_format: str = "xyxy"
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 300
    top_k_per_level: int = 1000

    def __post_init__(self) -> None:
        """Check format and ranges."""
        check_box_format(self.bounding_box_format)
        _check_thresholds(self.iou_threshold, self.score_threshold, min(self.max_detections, self.top_k_per_level))

    def __call__(
        self, box_deltas: Tensor, class_logits: Tensor, anchors: Sequence[Tensor], image_shape: tuple[int, int]
    ) -> PaddedDetections:
        """Return detections in the decoder's box format; arguments as PredictionDecoder's."""
        counts = [len(level) for level in anchors]
        deltas, logits = (torch.split(x.float(), counts, dim=1) for x in (box_deltas, class_logits))
        levels = list(zip(deltas, logits, anchors, strict=True))
        found = [
            self._image([self._level(d[i], s[i], a, image_shape) for d, s, a in levels]) for i in range(len(box_deltas))
        ]
        return _in_format(_pad(found, self.max_detections), self.bounding_box_format, image_shape)

    def _level(
        self, deltas: Tensor, logits: Tensor, anchors: Tensor, image_shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        scores = logits.sigmoid().flatten()
        candidates = (scores > self.score_threshold).nonzero()[:, 0]
        best = scores[candidates].topk(min(self.top_k_per_level, len(candidates))).indices
        pairs = candidates[best]
        of_anchor, classes = pairs // logits.shape[1], pairs % logits.shape[1]
        boxes = decode(deltas[of_anchor], anchors[of_anchor], LARGEST_LOG_SIDE)
        return clip_boxes_to_image(boxes, image_shape), scores[pairs], classes

    def _image(self, levels: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*levels, strict=True))
        kept = batched_nms(boxes, scores, classes, self.iou_threshold)[: self.max_detections]
        return boxes[kept], scores[kept], classes[kept]


def _pad(images: list[tuple[Tensor, Tensor, Tensor]], length: int) -> PaddedDetections:
    counts = torch.tensor([len(boxes) for boxes, _, _ in images], device=images[0][0].device)
    boxes, confidence, classes = (
        torch.stack([
            torch.cat([part, part.new_full((length - len(part), *part.shape[1:]), PADDING)]) for part in parts
        ])
        for parts in zip(*images, strict=True)
    )  # fmt: skip
    return PaddedDetections(boxes, confidence, classes, counts)


def _in_format(found: PaddedDetections, target: str, image_shape: tuple[int, int]) -> PaddedDetections:
    padding = (torch.arange(found.boxes.shape[1], device=found.boxes.device) >= found.num_detections[:, None])[..., None]
    boxes = convert_boxes(found.boxes, "xyxy", target, image_shape).masked_fill(padding, PADDING)
    return PaddedDetections(boxes, found.confidence, found.classes, found.num_detections)


def _check_thresholds(iou: float, score: float, count: int) -> None:
    if not (0 <= iou <= 1 and 0 <= score <= 1 and count >= 1):
        raise UserInputError(
            f"a decoder needs thresholds from 0 to 1 and room for at least 1 detection, got IoU {iou:g}, score {score:g}, {count}"
        )
