"""Which detection is which thing seen before: ByteTrack (Zhang et al. 2021, arXiv:2110.06864) in NumPy.

Tracks are predicted (kalman.py) and matched by overlap: first with certain detections; what is left of the tracks then with doubtful
ones, which are mostly things half hidden. Doubtful detections continue tracks and never begin one.

Two decisions were measured by benchmarks/tracking.py: the `trackers` package is no better, and needs SciPy, matplotlib, NumPy 2 and an
OpenCV of its own, of which a Jetson's OpenCV bears the last two neither; and taking the best pair first gives ids as stable as the exact
assignment does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime import kalman
from retinanet_edge.runtime.boxes import iou
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import UserInputError

DEFAULT_LOST_S = 1.0

# Least overlap of prediction and detection.
_CERTAIN_IOU, _DOUBTFUL_IOU = 0.2, 0.3
_SECOND_IOU = 0.1  # of what has been seen once, whose velocity nobody knows


class Tracker:
    """Gives the detections of one camera stable ids. Not for several threads.

    high_threshold: score, 0..1, from which a detection is certain; one number, or one for each class index [K]. May be changed at any
    time. lost_s: a track ends when it has not been seen for longer, so it must be longer than the time between two frames.

    A thing gets its id when it is seen in two frames in a row. Ids count from 1 and never come again, nor does a track change its class.
    Memory holds only tracks that have not ended. Raises UserInputError where lost_s is not positive.
    """

    def __init__(self, high_threshold: float | NDArray[np.float32], lost_s: float = DEFAULT_LOST_S) -> None:
        if not lost_s > 0:
            raise UserInputError(f"lost_s must be a positive number of seconds, got {lost_s}")
        self.high_threshold, self._lost_s = high_threshold, lost_s
        self._last_id, self._now_s = 0, 0.0
        self.end_tracks()

    def __len__(self) -> int:
        return len(self._ids)

    def end_tracks(self) -> None:
        """End all tracks, as where the picture has changed altogether. Ids go on."""
        self._states = kalman.start(np.zeros((0, 4)))  # [5, T, 4]
        self._ids = np.zeros(0, np.int64)  # [T], -1: seen once only
        self._classes = np.zeros(0, np.int64)  # [T]
        self._seen_s = np.zeros(0)  # [T]

    def update(self, detections: Detections, timestamp_s: float) -> NDArray[np.int64]:
        """Return the track id [M] of each detection of the next frame, -1 where it has none.

        detections: all that the model gives, doubtful ones too. timestamp_s: by the camera's clock; where it goes back, all tracks end.
        """
        self._advance(timestamp_s)
        found = self._find(detections)
        ids = np.full(len(detections), -1, np.int64)
        hit = found >= 0
        self._correct(hit, detections.xyxy[found[hit]])
        ids[found[hit]] = self._ids[hit]
        self._keep(hit | (self._ids >= 0))
        fresh = self._certain(detections)
        fresh[found[hit]] = False
        self._begin(detections[fresh])
        return ids

    def smoothed(self, detections: Detections, track_ids: NDArray[np.int64]) -> Detections:
        """Return detections of the last update with steadier boxes, where the filter believes them to be, if they have an id."""
        index, row = np.nonzero((track_ids[:, None] == self._ids) & (track_ids[:, None] >= 0))
        boxes = detections.xyxy.copy()
        boxes[index] = kalman.boxes_of(self._states)[row]
        return detections.with_boxes(boxes)

    def _advance(self, timestamp_s: float) -> None:
        """End tracks that have not been seen for too long and predict the others."""
        if timestamp_s < self._now_s:
            self.end_tracks()
        self._keep(timestamp_s - self._seen_s <= self._lost_s)
        self._states = kalman.predict(self._states, timestamp_s - self._now_s)
        self._now_s = timestamp_s

    def _find(self, detections: Detections) -> NDArray[np.int64]:
        """Return the index of the detection of each track [T], -1 for none."""
        overlap = iou(kalman.boxes_of(self._states), detections.xyxy) * (self._classes[:, None] == detections.classes)  # [T, M]
        certain, known = self._certain(detections), self._ids >= 0
        found, free = np.full(len(self._ids), -1, np.int64), np.ones(len(detections), bool)
        for tracks, wanted, least in (
            (known, certain, _CERTAIN_IOU),
            (known, ~certain, _DOUBTFUL_IOU),
            (~known, certain, _SECOND_IOU),
        ):
            rows, columns = np.flatnonzero(tracks & (found < 0)), np.flatnonzero(wanted & free)
            part = overlap[np.ix_(rows, columns)]
            chosen_rows, chosen_columns = best_pairs_first(np.where(part >= least, part, 0))
            found[rows[chosen_rows]] = columns[chosen_columns]
            free[columns[chosen_columns]] = False
        return found

    def _certain(self, detections: Detections) -> NDArray[np.bool_]:
        least = np.asarray(self.high_threshold, np.float32)
        certain: NDArray[np.bool_] = detections.scores >= (least[detections.classes] if least.ndim else least)
        return certain

    def _correct(self, hit: NDArray[np.bool_], boxes: NDArray[np.float32]) -> None:
        self._states[:, hit] = kalman.correct(self._states[:, hit], boxes)
        self._seen_s[hit] = self._now_s
        named = np.flatnonzero(hit & (self._ids < 0))
        self._ids[named] = self._last_id + 1 + np.arange(len(named))
        self._last_id += len(named)

    def _keep(self, keep: NDArray[np.bool_]) -> None:
        self._states, self._ids = self._states[:, keep], self._ids[keep]
        self._classes, self._seen_s = self._classes[keep], self._seen_s[keep]

    def _begin(self, detections: Detections) -> None:
        self._states = np.concatenate([self._states, kalman.start(detections.xyxy)], axis=1)
        self._ids = np.concatenate([self._ids, np.full(len(detections), -1)])
        self._classes = np.concatenate([self._classes, detections.classes])
        self._seen_s = np.concatenate([self._seen_s, np.full(len(detections), self._now_s)])


def best_pairs_first(similarity: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows [P] and columns [P] of pairs of positive `similarity` [R, C], each row and column in one pair at most.

    The most similar pair is taken, then the most similar of the rest, until none is left.
    """
    rows, columns = np.nonzero(similarity > 0)
    free_rows, free_columns = [True] * similarity.shape[0], [True] * similarity.shape[1]
    pairs = []
    for candidate in np.argsort(-similarity[rows, columns], kind="stable"):
        row, column = rows[candidate], columns[candidate]
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    chosen = np.array(pairs, np.int64).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]
