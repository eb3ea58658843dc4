"""The confusion matrix of a detector: which class is taken for which, what is missed, and what is seen where nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.matching import UNMATCHED, ImageOutcome


@dataclass(frozen=True)
class ConfusionMatrix:
    """counts: int64 [K + 1, K + 1], rows the object, columns the detection on it; the last of each is background.

    The last column holds objects that nothing was detected on, the last row detections that no object is under. The sum of a row is
    the class's objects, that of a column its detections.
    """

    counts: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.int64]:
        """Objects [K] found as what they are."""
        diagonal: NDArray[np.int64] = np.diag(self.counts)[:-1]
        return diagonal

    @property
    def objects(self) -> NDArray[np.int64]:
        """Objects [K] of each class."""
        total: NDArray[np.int64] = self.counts[:-1].sum(axis=1)
        return total

    @property
    def detections(self) -> NDArray[np.int64]:
        """Detections [K] of each class."""
        total: NDArray[np.int64] = self.counts[:, :-1].sum(axis=0)
        return total

    def mix_ups(self) -> list[tuple[int, int, int]]:
        """Return (object's class, detection's class, count) of every two different classes, most frequent first."""
        between = self.counts[:-1, :-1] * ~np.eye(len(self.counts) - 1, dtype=np.bool_)
        rows, columns = np.nonzero(between)
        found = [(int(row), int(column), int(between[row, column])) for row, column in zip(rows, columns, strict=True)]
        return sorted(found, key=lambda mix_up: -mix_up[2])

    def most_confused(self, count: int) -> list[int]:
        """Return up to `count` classes that occur, in their order: those most mixed up with others, then most missed or invented."""
        mixed = self.counts[:-1, :-1].sum(axis=0) + self.counts[:-1, :-1].sum(axis=1) - 2 * self.right
        invented_or_missed = self.counts[-1, :-1] + self.counts[:-1, -1]
        order = [int(index) for index in np.lexsort((-invented_or_missed, -mixed))]
        return sorted([index for index in order if self.objects[index] or self.detections[index]][:count])


def confusion_matrix(samples: Sequence[Sample], outcomes: Sequence[ImageOutcome], class_count: int) -> ConfusionMatrix:
    """Return the matrix of all images together; detections in a crowd of their class and crowds themselves are in no cell."""
    counts = np.zeros((class_count + 1, class_count + 1), np.int64)
    for sample, outcome in zip(samples, outcomes, strict=True):
        objects, kinds = outcome.taken_for, outcome.detections.classes
        on_object = objects >= 0
        np.add.at(counts, (sample.classes[objects[on_object]], kinds[on_object]), 1)
        np.add.at(counts[-1], kinds[objects == UNMATCHED], 1)
        unseen = ~sample.crowd
        unseen[objects[on_object]] = False
        np.add.at(counts[:, -1], sample.classes[unseen], 1)
    return ConfusionMatrix(counts)
