"""How many detections of one backend another one has too, and how far apart their boxes are; looks at no ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.boxes import iou
from retinanet_edge.runtime.detections import Detections

LEAST_SCORE, SCORE_TOLERANCE, LEAST_IOU = 0.3, 0.05, 0.9


@dataclass(frozen=True)
class Agreement:
    """Of the `compared` detections of both sides, `matched` have a partner. box_distance: the largest between partners, pixels."""

    matched: int
    compared: int
    box_distance: float

    @property
    def share(self) -> float:
        """Matched of compared, 0..1; nan where neither side has anything to compare."""
        return self.matched / self.compared if self.compared else float("nan")


def agreement(found: Sequence[Detections], expected: Sequence[Detections]) -> Agreement:
    """Compare detections image by image, both ways: those of either side with a score of 0.3 or more look for a partner on the other.

    A partner has the same class, an IoU of 0.9 or more and a score, below 0.3 too, at most 0.05 away. Boxes of both sides have one frame of
    reference; their distance is that of the farthest coordinate, nan without any match.
    """
    distances = [np.zeros(0)]
    compared = 0
    for ours, theirs in zip(found, expected, strict=True):
        for those, others in ((ours, theirs), (theirs, ours)):
            those = those.filtered(LEAST_SCORE)
            compared += len(those)
            distances.append(_distances(those, others))
    together = np.concatenate(distances)
    return Agreement(len(together), compared, float(together.max()) if len(together) else float("nan"))


def _distances(those: Detections, others: Detections) -> NDArray[np.float64]:
    """Return for each of `those` that has a partner the distance to it, of several to the nearest."""
    with np.errstate(over="ignore", invalid="ignore"):  # a wild delta gives an infinite box, which has no partner
        overlaps = iou(those.xyxy, others.xyxy)
        apart = np.abs(those.xyxy[:, None].astype(np.float64) - others.xyxy[None]).max(axis=2)
    near = np.abs(those.scores[:, None] - others.scores[None]) <= SCORE_TOLERANCE
    partners = near & (overlaps >= LEAST_IOU) & (those.classes[:, None] == others.classes[None])
    nearest = np.where(partners, apart, np.inf).min(axis=1, initial=np.inf)
    distances: NDArray[np.float64] = nearest[partners.any(axis=1)]
    return distances
