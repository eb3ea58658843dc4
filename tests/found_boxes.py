"""Samples and detections made by hand or at random, without image files: what tests of measuring are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.detections import Detections


def sample(
    *boxes: Any, classes: Sequence[int] | None = None, crowd: Sequence[bool] | None = None, areas: Sequence[float] | None = None,
    path: Path = Path("none.png"), height: int = 400, width: int = 400,
) -> Sample:  # fmt: skip
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(xyxy)
    of_box = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    return Sample(
        path, height, width, xyxy, np.array(classes or [0] * count, np.int64), np.array(crowd or [False] * count, np.bool_),
        of_box if areas is None else np.array(areas, np.float32),
    )  # fmt: skip


def detections(*boxes: Any, scores: Any = None, classes: Sequence[int] | None = None) -> Detections:
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    values = np.linspace(0.9, 0.5, len(xyxy)) if scores is None else scores
    return Detections(xyxy, np.array(values, np.float32), np.array(classes or [0] * len(xyxy), np.int64))


def random_boxes(rng: np.random.Generator, count: int) -> Any:
    corner, side = rng.uniform(0, 250, (count, 2)), rng.uniform(5, 150, (count, 2))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def random_scene(rng: np.random.Generator, classes: int = 3) -> tuple[Sample, Detections]:
    """Return a sample of random objects, some of them crowds, of areas below their boxes', and detections: some moved, some others.

    Scores are rounded, so that many are equal.
    """
    boxes = random_boxes(rng, int(rng.integers(0, 8)))
    kinds = rng.integers(0, classes, len(boxes))
    truth = sample(*boxes, classes=kinds.tolist(), crowd=(rng.random(len(boxes)) < 0.15).tolist())
    truth = sample(*boxes, classes=kinds.tolist(), crowd=truth.crowd.tolist(), areas=truth.areas * rng.uniform(0.3, 1, len(boxes)))
    times = rng.integers(0, 3, len(boxes))  # not found, found, found twice
    moved = boxes.repeat(times, axis=0)
    moved = moved + rng.normal(0, 6, moved.shape).astype(np.float32)
    found = [*kinds.repeat(times).tolist(), *rng.integers(0, classes, 3).tolist()]
    scores = np.sort(rng.random(len(found)).round(1))[::-1]
    order = rng.permutation(len(found))
    xyxy = np.concatenate([moved, random_boxes(rng, 3)])[order]
    return truth, detections(*xyxy, scores=scores, classes=[found[index] for index in order])
