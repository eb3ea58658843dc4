"""The post-processing of EfficientNMS_TRT in NumPy, decision for decision: what the CPU backend and training's evaluation use.

Follows the plugin's kernels (NVIDIA/TensorRT, plugin/efficientNMSPlugin, 8.5 to 11) with three inputs, score_activation 1,
box_coding 1, class-aware. Results agree with the plugin but for the order of equal scores and IoUs within rounding of the threshold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.boxes import decode_center_size, iou
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.model_card import NmsSpec

MOST_CANDIDATES = 5000  # the plugin's own bound on what goes from its sort into suppression


def efficient_nms(
    class_logits: NDArray[np.float32], box_deltas: NDArray[np.float32], anchors: NDArray[np.float32], nms: NmsSpec
) -> list[Detections]:
    """Return the detections of each image, best first, boxes in input pixels and not clipped to the input.

    class_logits: [N, A, K]. box_deltas: [N, A, 4] (dx, dy, dw, dh). anchors: (cx, cy, w, h), [1, A, 4] for all images or [N, A, 4].
    Nothing returned shares memory with them. Raises ValueError where the shapes do not belong together.
    """
    images, count, _ = class_logits.shape
    if box_deltas.shape != (images, count, 4) or anchors.shape not in ((1, count, 4), (images, count, 4)):
        raise ValueError(
            "class_logits, box_deltas and anchors must be [N, A, K], [N, A, 4] and [1 or N, A, 4], "
            f"got {class_logits.shape}, {box_deltas.shape} and {anchors.shape}"
        )
    each = zip(class_logits, box_deltas, np.broadcast_to(anchors, box_deltas.shape), strict=True)
    return [_one_image(*of_image, nms) for of_image in each]


def _one_image(
    class_logits: NDArray[np.float32], box_deltas: NDArray[np.float32], anchors: NDArray[np.float32], nms: NmsSpec
) -> Detections:
    best = _candidates(class_logits.reshape(-1), nms.score_threshold)
    rows, classes = np.divmod(best, class_logits.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):  # a wild delta gives an infinite box, as it does in the plugin
        boxes = decode_center_size(box_deltas[rows], anchors[rows])
        kept = _suppress(boxes, classes, nms)
    logits = class_logits[rows[kept], classes[kept]]
    scores = np.float32(1) / (np.float32(1) + np.exp(-logits))  # cannot overflow: no logit here is below -4.6
    return Detections(boxes[kept], scores, classes[kept].astype(np.int64))


def _candidates(logits: NDArray[np.float32], score_threshold: float) -> NDArray[np.intp]:
    """Return the indexes of the logits [A * K] that pass the threshold, best first, at most MOST_CANDIDATES. NaN never passes."""
    # In the plugin, too, the threshold becomes a logit in FP32 and no sigmoid is taken before the end.
    threshold = np.float32(score_threshold)
    passing = np.flatnonzero(logits >= np.log(threshold / (1 - threshold)))
    scores = logits[passing]
    if len(scores) > MOST_CANDIDATES:  # sorting millions, as of an untrained network, would take a second
        enough = scores >= np.partition(scores, -MOST_CANDIDATES)[-MOST_CANDIDATES]
        passing, scores = passing[enough], scores[enough]
    return passing[np.argsort(-scores, kind="stable")[:MOST_CANDIDATES]]


def _suppress(boxes: NDArray[np.float32], classes: NDArray[np.intp], nms: NmsSpec) -> NDArray[np.intp]:
    """Return the indexes of the boxes [n, 4], best first, that no better box of their class overlaps; at most max_detections."""
    kept: list[int] = []
    alive = np.ones(len(boxes), np.bool_)
    while len(kept) < nms.max_detections and alive.any():
        best = int(alive.argmax())
        kept.append(best)
        alive[best] = False
        rivals = np.flatnonzero(alive & (classes == classes[best]))
        alive[rivals[iou(boxes[best : best + 1], boxes[rivals])[0] >= nms.iou_threshold]] = False
    return np.array(kept, np.intp)
