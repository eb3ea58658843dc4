"""Which detections are shown and written: least scores, classes, least size. Scores never below what the model itself lets through."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.arguments import number
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import UserInputError


@dataclass(frozen=True)
class DetectionFilter:
    """What a user wants to see, in class names.

    threshold: least score, 0..1. class_thresholds: others for some classes. only: these classes, None for all. min_size: least width and
    height of a box, in pixels of the frame. Raises UserInputError for what cannot be.
    """

    threshold: float = 0.5
    class_thresholds: Mapping[str, float] = field(default_factory=dict)
    only: tuple[str, ...] | None = None
    min_size: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for threshold in (self.threshold, *self.class_thresholds.values()):
            if not 0 <= threshold <= 1:
                raise UserInputError(f"thresholds must be from 0 to 1, got {threshold}")
        if self.min_size is not None and not (min(self.min_size) >= 0 and max(self.min_size) < np.inf):
            raise UserInputError(f"the least size must be width and height of at least 0 pixels, got {self.min_size}")

    def resolved(self, class_names: Sequence[str], built_in_threshold: float) -> ResolvedFilter:
        """Return the filter for a model. Raises UserInputError for classes that it does not have.

        built_in_threshold: the score below which the model gives nothing (nms.score_threshold of its card).
        """
        named = (*self.class_thresholds, *(self.only or ()))
        if unknown := sorted({name for name in named if name not in class_names}):
            raise UserInputError(f"the model has no class {', '.join(unknown)}: it knows {', '.join(class_names)}")
        thresholds = [self.class_thresholds.get(name, self.threshold) for name in class_names]
        return ResolvedFilter(
            np.array([max(threshold, built_in_threshold) for threshold in thresholds], np.float32),
            np.array([self.only is None or name in self.only for name in class_names], bool),
            self.min_size or (0.0, 0.0),
            tuple(self._warnings(built_in_threshold)),
        )

    def _warnings(self, built_in_threshold: float) -> Iterator[str]:
        given = {"": self.threshold, **{f" of {name}": threshold for name, threshold in self.class_thresholds.items()}}
        for whose, threshold in given.items():
            if threshold < built_in_threshold:
                yield f"threshold {threshold:g}{whose} raised to {built_in_threshold:g}: the model gives nothing below that"


@dataclass(frozen=True, eq=False)
class ResolvedFilter:
    """A filter in class indexes. thresholds: float32 [K]. wanted: bool [K]. min_size: width, height. warnings: a line each, for people."""

    thresholds: NDArray[np.float32]
    wanted: NDArray[np.bool_]
    min_size: tuple[float, float]
    warnings: tuple[str, ...]

    def keep(self, detections: Detections) -> NDArray[np.bool_]:
        """Return which detections [M] pass."""
        return self.fits(detections) & (detections.scores >= self.thresholds[detections.classes])

    def fits(self, detections: Detections) -> NDArray[np.bool_]:
        """Return which detections [M] would pass with any score."""
        sides = detections.xyxy[:, 2:] - detections.xyxy[:, :2]
        fits: NDArray[np.bool_] = self.wanted[detections.classes] & (sides >= np.array(self.min_size, np.float32)).all(axis=1)
        return fits


def class_thresholds(text: str) -> dict[str, float]:
    """Return the scores of `CLASS=SCORE,CLASS=SCORE`, an argparse type."""
    thresholds: dict[str, float] = {}
    for part in text.split(","):
        name, equals, score = (piece.strip() for piece in part.rpartition("="))
        if not (name and equals and score):
            raise argparse.ArgumentTypeError(f"must be CLASS=SCORE with commas between them, as person=0.6,car=0.4, got {text!r}")
        if name in thresholds:
            raise argparse.ArgumentTypeError(f"must name each class once, got {name} twice in {text!r}")
        thresholds[name] = number(0, 1)(score)
    return thresholds

