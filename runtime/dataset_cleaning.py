"""From objects as stated to boxes that can be used: what is broken is refused, what is harmless is mended and counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.dataset_labels import LabelledImage, LabelledObject
from retinanet_edge.runtime.errors import DatasetError

NO_AREA = "boxes without area left out"
OUTSIDE = "boxes outside the image left out"
CLIPPED = "boxes over the edge clipped"
REPEATED = "repeated boxes left out"

# Formats that count pixels from 1, or include the last one, reach this far over the edge without meaning it.
_EDGE_TOLERANCE = 1.0


@dataclass(frozen=True)
class CleanObjects:
    """Usable objects of one image: xyxy float32 [n, 4] in pixels, and, in the same order, what the labels say of each."""

    boxes: NDArray[np.float32]
    labelled: tuple[LabelledObject, ...]


def clean_objects(image: LabelledImage, width: int, height: int, counts: Counter[str]) -> CleanObjects:
    """Return the objects of an image of that size, and add to `counts` what was mended or left out.

    Raises DatasetError where a coordinate or an area is not finite, or a side is negative.
    """
    scale = (width, height, width, height) if image.relative else (1, 1, 1, 1)
    stated = np.array([thing.box for thing in image.objects], np.float64).reshape(-1, 4) * scale
    _refuse_broken(image, stated)
    limits = np.array([width, height, width, height], np.float64)
    clipped = np.clip(stated, 0, limits)
    boxes = clipped.astype(np.float32)
    has_area, inside, lasting = _has_area(stated), _has_area(clipped), _has_area(boxes)
    over = np.abs(clipped - stated).max(axis=1, initial=0) > _EDGE_TOLERANCE
    first = _first_of_each(boxes, image.objects)
    counts[NO_AREA] += int((~has_area | (inside & ~lasting)).sum())
    counts[OUTSIDE] += int((has_area & ~inside).sum())
    counts[CLIPPED] += int((lasting & over).sum())
    counts[REPEATED] += int((lasting & ~first).sum())
    keep = np.flatnonzero(lasting & first)
    return CleanObjects(boxes[keep], tuple(image.objects[index] for index in keep))


def _has_area(boxes: NDArray[np.floating]) -> NDArray[np.bool_]:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _refuse_broken(image: LabelledImage, stated: NDArray[np.float64]) -> None:
    finite = np.asarray(np.isfinite(stated).all(axis=1))
    ordered = (stated[:, 2] >= stated[:, 0]) & (stated[:, 3] >= stated[:, 1])
    for index in np.flatnonzero(~(finite & ordered)).tolist()[:1]:
        left, top, right, bottom = stated[index].tolist()
        if finite[index]:
            what = f"a box with width and height of at least 0, got {right - left:g}x{bottom - top:g}"
        else:
            what = f"a box of finite numbers, got {left:g}, {top:g}, {right:g}, {bottom:g}"
        raise DatasetError(f"{_name(image, index)} must have {what}: correct it or remove the object")
    for index, thing in enumerate(image.objects):
        if thing.area is not None and not 0 <= thing.area < np.inf:
            raise DatasetError(f"{_name(image, index)} must have a finite area of at least 0, got {thing.area:g}: correct it")


def _name(image: LabelledImage, index: int) -> str:
    return f"{image.source}: object {image.objects[index].number} of image {image.name}"


def _first_of_each(boxes: NDArray[np.float32], objects: tuple[LabelledObject, ...]) -> NDArray[np.bool_]:
    """Mark every object but those that repeat an earlier one, class and box alike."""
    keys = [(thing.class_name, box.tobytes()) for thing, box in zip(objects, boxes, strict=True)]
    earliest: dict[tuple[str, bytes], int] = {}
    for index, key in enumerate(keys):
        earliest.setdefault(key, index)
    return np.array([earliest[key] == index for index, key in enumerate(keys)], np.bool_)
