"""Precision, recall and F1 over the score threshold, all classes together, and the threshold with the best F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.matching import IN_CROWD

_WITHOUT_DETECTIONS = 0.5


@dataclass(frozen=True)
class ScoreCurves:
    """Where scores of at least `thresholds` [n], falling, count: precision, recall and F1 at IoU 0.5, [n] each."""

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]

    @property
    def best_threshold(self) -> float:
        """The highest threshold with the best F1; 0.5 where nothing was found at all."""
        return float(self.thresholds[self.f1.argmax()]) if len(self.thresholds) else _WITHOUT_DETECTIONS


def score_curves(samples: Sequence[Sample], detections: Sequence[Detections], matches: Sequence[NDArray[np.int64]]) -> ScoreCurves:
    """Return the curves of all detections together; `matches` are those of `match_by_class`. Raises ValueError without any object."""
    objects = sum(int((~sample.crowd).sum()) for sample in samples)
    if not objects:
        raise ValueError("curves over the score need at least one object to find, got none")
    match, scores = np.concatenate(matches), np.concatenate([found.scores for found in detections]).astype(np.float64)
    match, scores = match[match != IN_CROWD], scores[match != IN_CROWD]
    order = np.argsort(-scores, kind="stable")
    right, thresholds = (match[order] >= 0).cumsum(), scores[order]
    last = np.flatnonzero(np.append(thresholds[1:] != thresholds[:-1], True))[: len(thresholds)]  # equal scores pass together
    count, right = last + 1, right[last]
    return ScoreCurves(thresholds[last], right / count, right / objects, 2 * right / (count + objects))
