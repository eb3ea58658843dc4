"""Labelled images side by side on one picture, on which wrong labels show at a glance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.dataset import Sample, read_image
from retinanet_edge.runtime.draw import class_color, draw_box
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.model_folder import write_atomically

_TILE = 400  # pixels; an image fills this height or width
_CAPTION = 24  # pixels below it
_GAP = 8
_GROUND, _TEXT = 255, (40, 40, 40)


def choose_samples(splits: dict[str, tuple[Sample, ...]], count: int) -> list[tuple[str, Sample]]:
    """Return up to `count` (split, sample): as many classes as fit, the rarest first, then images spread evenly over the rest."""
    places = [(split, sample) for split, samples in splits.items() for sample in samples]
    kinds = [frozenset(sample.classes.tolist()) for _, sample in places]
    frequency = Counter(kind for found in kinds for kind in found)
    chosen: set[int] = set()
    shown: set[int] = set()
    for kind in sorted(frequency, key=lambda kind: (frequency[kind], kind)):
        if len(chosen) < count and kind not in shown:
            best = max((number for number, found in enumerate(kinds) if kind in found), key=lambda number: len(kinds[number] - shown))
            chosen.add(best)
            shown |= kinds[best]
    rest = [number for number in range(len(places)) if number not in chosen]
    missing = min(count - len(chosen), len(rest))
    chosen |= {rest[index * len(rest) // missing] for index in range(missing)}
    return [places[number] for number in sorted(chosen)]


def draw_sheet(chosen: Sequence[tuple[str, Sample]], classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return the picture uint8 [h, w, 3] BGR of the samples with their boxes and class names, in rows, the split and file name below.

    Raises DatasetError where an image does not decode.
    """
    columns = max(1, math.ceil(math.sqrt(len(chosen) * 1.5)))  # wider than high, as screens are
    cells = [_cell(split, sample, classes) for split, sample in chosen]
    rows = [cells[first : first + columns] for first in range(0, len(cells), columns)]
    heights = [max(cell.shape[0] for cell in row) + _GAP for row in rows]
    sheet = np.full((sum(heights) + _GAP, columns * (_TILE + _GAP) + _GAP, 3), _GROUND, np.uint8)
    for top, row in zip(np.cumsum([_GAP, *heights]).tolist(), rows, strict=False):
        for column, cell in enumerate(row):
            left = _GAP + column * (_TILE + _GAP)
            sheet[top : top + cell.shape[0], left : left + _TILE] = cell
    return sheet


def write_sheet(path: Path, sheet: NDArray[np.uint8]) -> None:
    """Write a picture as PNG or JPEG, as the suffix says, whole or not at all."""
    import cv2

    ok, data = cv2.imencode(path.suffix, sheet)
    assert ok, "OpenCV writes PNG and JPEG"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data.tobytes())


def _cell(split: str, sample: Sample, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return the image with its caption, _TILE pixels wide."""
    import cv2

    tile = _tile(sample, classes)
    cell = np.full((tile.shape[0] + _CAPTION, _TILE, 3), _GROUND, np.uint8)
    cell[: tile.shape[0], : tile.shape[1]] = tile
    cv2.putText(cell, f"{split}: {sample.path.name}", (2, cell.shape[0] - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _TEXT, 1, cv2.LINE_AA)
    return cell


def _tile(sample: Sample, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return the image fitted into the tile, the largest boxes drawn first so that they cover no smaller one."""
    fit = Letterbox(sample.height, sample.width, _TILE, _TILE)
    tile = fit.apply(read_image(sample))[: fit.content_height, : fit.content_width].copy()
    boxes = fit.boxes_to_input(sample.boxes)
    for index in np.argsort(-sample.areas, kind="stable"):
        kind = int(sample.classes[index])
        draw_box(tile, boxes[index], classes[kind] + (" (crowd)" if sample.crowd[index] else ""), class_color(kind))
    return tile
