"""Which detection is which object, one to one, at IoU 0.5: what AP50 counts, then also across classes, to see what is taken for what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.coco import coco_boxes
from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.detections import Detections

MATCH_IOU = 0.5
UNMATCHED, IN_CROWD = -1, -2


@dataclass(frozen=True)
class ImageOutcome:
    """One image at a score threshold.

    detections: those kept, best score first. correct: int64 [M], for each of them the index of its object among the sample's,
    UNMATCHED, or IN_CROWD, which counts neither for nor against. taken_for: int64 [M], the same, where what is unmatched may also have
    an object of another class. missed: int64 [m], the objects that no detection of their class has; crowds are none.
    """

    detections: Detections
    correct: NDArray[np.int64]
    taken_for: NDArray[np.int64]
    missed: NDArray[np.int64]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Detections that are right, detections that are wrong, and objects that are missed."""
        return int((self.correct >= 0).sum()), int((self.correct == UNMATCHED).sum()), len(self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; nan where there was nothing to find and nothing was found."""
        return f1_score(*self.counts)


def f1_score(right: float, wrong: float, missed: float) -> float:
    """Return the harmonic mean of precision and recall, nan where all three are 0."""
    return 2 * right / (2 * right + wrong + missed) if right + wrong + missed else float("nan")


def match_by_class(sample: Sample, found: Detections) -> NDArray[np.int64]:
    """Return for each detection, best score first, the index of its object, UNMATCHED or IN_CROWD: int64 [M].

    As pycocotools' COCOeval.evaluateImg does: a detection takes the free object of its class with the highest IoU, 0.5 or more (the
    last of equal ones), else it may lie in a crowd of its class by half of its own area or more. Whether a detection has a match does
    not depend on those with lower scores.
    """
    overlaps = _overlaps(sample, found)
    hits = (overlaps >= MATCH_IOU) & (found.classes[:, None] == sample.classes)
    matches = _take(overlaps, hits & ~sample.crowd, np.zeros(len(sample.classes), np.bool_))
    matches[(matches == UNMATCHED) & (hits & sample.crowd).any(axis=1)] = IN_CROWD
    return matches


def outcomes_at(
    samples: Sequence[Sample], detections: Sequence[Detections], matches: Iterable[NDArray[np.int64]], threshold: float
) -> list[ImageOutcome]:
    """Return what becomes of each image where only scores from `threshold` count; `matches` are those of `match_by_class`."""
    return [_outcome(*image, threshold) for image in zip(samples, detections, matches, strict=True)]


def _outcome(sample: Sample, found: Detections, matches: NDArray[np.int64], threshold: float) -> ImageOutcome:
    keep = found.scores >= threshold
    kept, correct = found[keep], matches[keep]
    has_match = np.zeros(len(sample.classes), np.bool_)
    has_match[correct[correct >= 0]] = True
    overlaps = _overlaps(sample, kept)
    rest = _take(overlaps, (overlaps >= MATCH_IOU) & (correct == UNMATCHED)[:, None] & ~sample.crowd, has_match)
    return ImageOutcome(kept, correct, np.where(rest >= 0, rest, correct), np.flatnonzero(~has_match & ~sample.crowd))


def _take(overlaps: NDArray[np.float64], hits: NDArray[np.bool_], taken: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each row [M] the column with the most overlap among its `hits` [M, n] that no row above has, nor `taken` [n]."""
    matches, free = np.full(len(hits), UNMATCHED, np.int64), ~taken
    for row in np.flatnonzero(hits.any(axis=1)):
        columns = np.flatnonzero(hits[row] & free)
        if len(columns):
            values = overlaps[row, columns]
            matches[row] = columns[len(columns) - 1 - int(values[::-1].argmax())]
            free[matches[row]] = False
    return matches


def _overlaps(sample: Sample, found: Detections) -> NDArray[np.float64]:
    """Return IoU [M, n]; with a crowd, the share of the detection that lies in it."""
    if not len(found) or not len(sample.classes):
        return np.zeros((len(found), len(sample.classes)))
    from pycocotools import mask

    overlaps: NDArray[np.float64] = mask.iou(coco_boxes(found.xyxy), coco_boxes(sample.boxes), sample.crowd.astype(np.uint8).tolist())
    return overlaps
