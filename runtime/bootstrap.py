"""How sure a difference of AP is: both models on the same images, drawn again with replacement (the paired bootstrap).

The percentile interval of Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Images are drawn, not detections:
what is seen on one image hangs together. Each image is matched once; a resample only says how often it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.coco import match_images
from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.model_card import DropInterval

RESAMPLES: Final = 1000
_RECALLS: Final = np.linspace(0, 1, 101)  # as COCO's
_IOUS: Final = 10
_LARGEST: Final = 1 << 22  # detections times resamples at once: 16 MB for each of the few arrays


@dataclass(frozen=True)
class ClassMatches:
    """The D detections of one class on I images, best score first, matched at the ten IoU; each class and each IoU for itself.

    image: index of the image, int [D]. true: finds an object, bool [10, D]. counted: neither found a crowd, bool [10, D]; what is true
    is counted. objects: to be found on each image, int [I].
    """

    image: NDArray[np.int64]
    true: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    objects: NDArray[np.int32]


def ap_drop_interval(
    samples: Sequence[Sample], before: Sequence[Detections], after: Sequence[Detections], class_count: int,
    resamples: int = RESAMPLES, seed: int = 0,
) -> DropInterval:  # fmt: skip
    """Return the 95 % interval of AP(before) - AP(after), 0..1, both as coco_metrics has it on each resample of the images.

    The same seed gives the same interval. A class without objects in a resample stays out of its mean, a resample without any object
    out of the interval. Raises ValueError where no sample has an object.
    """
    counts = np.random.default_rng(seed).multinomial(len(samples), [1 / len(samples)] * len(samples), resamples).T  # [I, resamples]
    first, second = (resampled_ap(class_matches(samples, found, class_count), counts) for found in (before, after))
    drops = (first - second)[~np.isnan(first)]
    if not drops.size:
        raise ValueError(f"some sample must have an object, got {len(samples)} without")
    low, high = np.quantile(drops, (0.025, 0.975))
    return DropInterval(float(low), float(high), resamples, len(samples))


def class_matches(samples: Sequence[Sample], detections: Sequence[Detections], class_count: int) -> list[ClassMatches]:
    """Match the detections, one for each sample, boxes in the pixels of its image, with its objects; return one entry for each class."""
    return [_joined(found, len(samples)) for found in match_images(samples, detections, class_count)]


def _joined(found: Sequence[dict[str, Any]], images: int) -> ClassMatches:
    objects = np.zeros(images, np.int32)
    for match in found:
        objects[match["image_id"]] = np.count_nonzero(np.asarray(match["gtIgnore"]) == 0)
    if not found:
        return ClassMatches(np.zeros(0, np.int64), np.zeros((_IOUS, 0), np.bool_), np.zeros((_IOUS, 0), np.bool_), objects)
    # Equal scores stay in the order of the images, as pycocotools has it.
    order = np.argsort(-np.concatenate([match["dtScores"] for match in found]), kind="stable")
    image = np.repeat([match["image_id"] for match in found], [len(match["dtScores"]) for match in found])[order]
    counted = ~np.concatenate([match["dtIgnore"] for match in found], axis=1).astype(np.bool_)[:, order]
    true = np.concatenate([match["dtMatches"] for match in found], axis=1).astype(np.bool_)[:, order] & counted
    return ClassMatches(image, true, counted, objects)


def resampled_ap(matches: Sequence[ClassMatches], counts: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return AP, 0..1, of each resample, [resamples]; nan where it has no object. counts: how often it has each image, [I, resamples]."""
    step = max(1, _LARGEST // max(1, *(len(of_class.image) for of_class in matches)))
    parts = [counts[:, start : start + step].astype(np.int32) for start in range(0, counts.shape[1], step)]
    return np.concatenate([_mean_over_classes(matches, part) for part in parts])


def _mean_over_classes(matches: Sequence[ClassMatches], counts: NDArray[np.int32]) -> NDArray[np.float64]:
    per_class = np.stack([_class_ap(of_class, counts) for of_class in matches])  # [K, resamples]
    present = ~np.isnan(per_class)
    total = np.where(present, per_class, 0).sum(axis=0)
    classes = present.sum(axis=0)
    return np.where(classes > 0, total / np.maximum(classes, 1), np.nan)


def _class_ap(matches: ClassMatches, counts: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return AP of one class in each resample, [resamples]; nan where it has no object there."""
    objects = matches.objects @ counts  # [resamples]
    total = np.zeros(len(objects))
    seen, former = np.zeros(0), None
    for true, counted in zip(matches.true, matches.counted, strict=True):
        if former is None or (counted != former).any():  # only crowds make a difference
            seen, former = counts[matches.image[counted]].cumsum(axis=0, dtype=np.int32), counted
        found = counts[matches.image[true]].cumsum(axis=0, dtype=np.int32)
        total += _area_under_curve(found, seen[true[counted]], objects)
    return np.where(objects > 0, total / _IOUS, np.nan)


def _area_under_curve(found: NDArray[np.int32], seen: NDArray[Any], objects: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return COCO's mean of 101 precisions of each resample, [resamples].

    found, seen: true detections, and all that count, up to each true one, [P, resamples]. The true ones suffice: between two of them
    recall stands still and precision falls. A detection that comes n times at once makes the curve that its last copy makes.
    """
    precision = found / (seen + np.spacing(1))
    best_from_here = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = np.searchsorted(_RECALLS, found / np.maximum(objects, 1), side="right")  # how many of the 101 recalls
    area: NDArray[np.float64] = (best_from_here * np.diff(reached, axis=0, prepend=0)).sum(axis=0) / len(_RECALLS)
    return area
