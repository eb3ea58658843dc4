"""The one result type: what a detector says about one image."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best score first.

    xyxy: float32 [M, 4], absolute pixels. scores: float32 [M] in 0..1. classes: int64 [M], index into the class names.
    Raises ValueError where shapes do not belong together.
    """

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check the shapes: a mix-up here would show only as misplaced boxes on a screen."""
        count = len(self.scores)
        if self.xyxy.shape != (count, 4) or self.scores.shape != (count,) or self.classes.shape != (count,):
            raise ValueError(
                "xyxy, scores and classes must be [M, 4], [M] and [M], "
                f"got {self.xyxy.shape}, {self.scores.shape} and {self.classes.shape}"
            )

    @classmethod
    def empty(cls) -> Detections:
        """Return no detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Detections:
        return Detections(self.xyxy[keep], self.scores[keep], self.classes[keep])

    def with_boxes(self, xyxy: NDArray[np.float32]) -> Detections:
        """Return the same detections with other boxes [M, 4]."""
        return Detections(xyxy, self.scores, self.classes)

    def filtered(self, threshold: float, classes: Collection[int] | None = None) -> Detections:
        """Return those with score >= threshold and, unless `classes` is None, of one of these classes."""
        keep = self.scores >= threshold
        if classes is not None:
            keep &= np.isin(self.classes, list(classes))
        return self[keep]
