"""What a checked data set holds, in lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.dataset_check import CheckedDataset
from retinanet_edge.runtime.dataset_formats import FORMAT_NAMES

_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
_SMALL, _LARGE = 32**2, 96**2  # pixels of area; COCO's size classes, https://cocodataset.org/#detection-eval
_GROUPS_SHOWN = 20


def summarize(checked: CheckedDataset) -> list[str]:
    """Return the summary: format, splits, classes, sizes of boxes, doubtful images, what was cleaned, and every problem."""
    samples = [sample for split in checked.splits.values() for sample in split]
    name = FORMAT_NAMES[checked.format]
    return [
        f"{checked.root}: {name}, {len(samples)} images, {len(checked.classes)} classes, split: {checked.split_rule}",
        *_section("images and boxes", _split_rows(checked)),
        *_section("boxes of each class", _class_rows(checked)),
        *_section("boxes by COCO's size classes (area in pixels of the image; crowds left out)", _size_class_rows(samples)),
        *_section("sizes and shapes (crowds left out)", _percentile_rows(samples)),
        *_alike_lines(checked),
        *(["", "cleaned when read:"] if checked.cleaned else []),
        *(f"  {what}: {count}" for what, count in checked.cleaned.items()),
        *(["", f"broken: {len(checked.problems)}"] if checked.problems else ["", "broken: nothing"]),
        *(f"  {problem}" for problem in checked.problems),
    ]


def _section(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a titled table: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]) for row in rows
    ]
    return ["", f"{title}:", *(f"  {line.rstrip()}" for line in lines)]


def _split_rows(checked: CheckedDataset) -> list[list[str]]:
    rows = [["split", "images", "boxes", "of them crowds", "images without boxes"]]
    for split, samples in checked.splits.items():
        boxes = sum(len(sample.boxes) for sample in samples)
        crowds = sum(int(sample.crowd.sum()) for sample in samples)
        empty = sum(not len(sample.boxes) for sample in samples)
        rows.append([split, *map(str, (len(samples), boxes, crowds, empty))])
    return rows


def _class_rows(checked: CheckedDataset) -> list[list[str]]:
    """Return boxes by class and split, and on how many images; most frequent first."""
    count = len(checked.classes)
    by_split = {
        split: np.bincount(_joined(sample.classes for sample in samples), minlength=count) for split, samples in checked.splits.items()
    }
    images = np.zeros(count, np.int64)
    for samples in checked.splits.values():
        for sample in samples:
            images[np.unique(sample.classes)] += 1
    total = sum(by_split.values(), np.zeros(count, np.int64))
    header = ["class", *by_split, "all", "images"]
    return [header] + [
        [checked.classes[index], *(str(counts[index]) for counts in by_split.values()), str(total[index]), str(images[index])]
        for index in np.argsort(-total, kind="stable")
    ]


def _size_class_rows(samples: Sequence[Sample]) -> list[list[str]]:
    areas = np.concatenate([sample.areas[~sample.crowd] for sample in samples] or [np.zeros(0, np.float32)])
    small, large = int((areas < _SMALL).sum()), int((areas >= _LARGE).sum())
    counts = {"small, below 32x32": small, "medium": len(areas) - small - large, "large, from 96x96": large}
    return [["", "boxes", "share"]] + [[name, str(n), f"{n / max(1, len(areas)):.0%}"] for name, n in counts.items()]


def _percentile_rows(samples: Sequence[Sample]) -> list[list[str]]:
    images = np.array([(sample.width, sample.height) for sample in samples], np.float64).reshape(-1, 2)
    counts = np.array([int((~sample.crowd).sum()) for sample in samples], np.int64)
    boxes = np.concatenate([sample.boxes[~sample.crowd] for sample in samples] or [np.zeros((0, 4), np.float32)]).astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    relative = sides / np.repeat(images, counts, axis=0)
    figures = {
        "image width, pixels": images[:, 0],
        "image height, pixels": images[:, 1],
        "boxes on an image": counts,
        "box width, pixels": sides[:, 0],
        "box height, pixels": sides[:, 1],
        "box size, pixels (root of its area)": np.sqrt(sides.prod(axis=1)),
        "box width / image width": relative[:, 0],
        "box height / image height": relative[:, 1],
        "box size / image size": np.sqrt(relative.prod(axis=1)),
        "box height / box width": sides[:, 1] / sides[:, 0],  # as anchor ratios are
    }
    header = ["", "least", *(f"{percent}%" for percent in _PERCENTILES[1:-1]), "most"]
    known = {name: np.percentile(values, _PERCENTILES) for name, values in figures.items() if len(values)}
    return [header] + [[name, *(f"{value:.4g}" for value in values)] for name, values in known.items()]


def _alike_lines(checked: CheckedDataset) -> list[str]:
    """Return the images of the same pixels, those in several splits first."""
    leaks = checked.leaks
    lines = ["", f"images of the same pixels: {len(checked.alike)} groups, {len(leaks)} of them in more than one split"]
    if leaks:
        lines[-1] += ": AP on those says nothing, take them out of one"
    ordered = [*leaks, *(group for group in checked.alike if group not in leaks)]
    lines += ["  " + ", ".join(f"{split} {sample.path}" for split, sample in group) for group in ordered[:_GROUPS_SHOWN]]
    return lines + ([f"  and {more} groups more"] if (more := len(ordered) - _GROUPS_SHOWN) > 0 else [])


def _joined(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([*parts, np.zeros(0, np.int64)])
