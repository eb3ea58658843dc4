"""COCO's average precision and recall of detections, computed by pycocotools in memory.

AP is the mean over IoU 0.50, 0.55 ... 0.95 and over the classes that have objects, at up to 100 detections of a class an image; AR is the
recall at that many, averaged likewise (https://cocodataset.org/#detection-eval). A class without objects has neither: nan, left out of
the mean.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.dataset import Sample, read_image
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.engine import Engine, image_size
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.model_card import ModelCard
from retinanet_edge.runtime.progress import Progress

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class CocoFigures:
    """COCO's twelve figures, in its order, on the 0..1 scale; nan where there is no object to find.

    ap: mean over ten IoU; ap50, ap75: at IoU 0.50 and 0.75. ar1, ar10, ar100: recall at that many detections of a class an image.
    small, medium, large: objects below 32^2 pixels of area, between, and above 96^2.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float


@dataclass(frozen=True)
class CocoMetrics(CocoFigures):
    """The figures over all classes, and those of each class by its name.

    ap50_by_size: AP at IoU 0.50 of small, medium and large objects. pr_curves: by name of a class that has objects, recall and precision
    at IoU 0.5, each [101]; recall rises from 0 to 1.
    """

    images: int
    ap50_by_size: tuple[float, float, float]
    per_class: dict[str, CocoFigures]
    pr_curves: dict[str, Curve]


def coco_metrics(samples: Sequence[Sample], detections: Sequence[Detections], class_names: Sequence[str]) -> CocoMetrics:
    """Return the figures of `detections`, one for each sample, boxes in the pixels of its image. Raises ValueError for another number."""
    evaluation = _evaluation(samples, detections, len(class_names))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        evaluation.evaluate()
        evaluation.accumulate()
    result: dict[str, Any] = evaluation.eval
    # [IoU 10, recall 101, class K, area all/small/medium/large, detections 1/10/100] and the same without the recall axis; -1 where
    # there is nothing to find
    precision: NDArray[np.float64] = result["precision"]
    recall: NDArray[np.float64] = result["recall"]
    at_half, axis = precision[0, :, :, 0, -1], np.linspace(0, 1, precision.shape[1])
    small, medium, large = (_mean(precision[0, :, :, size, -1]) for size in (1, 2, 3))
    return CocoMetrics(
        **dataclasses.asdict(_figures(precision, recall)),
        images=len(samples),
        ap50_by_size=(small, medium, large),
        per_class={name: _figures(precision[:, :, [i]], recall[:, [i]]) for i, name in enumerate(class_names)},
        pr_curves={name: (axis, at_half[:, i]) for i, name in enumerate(class_names) if at_half[0, i] >= 0},
    )


def match_images(samples: Sequence[Sample], detections: Sequence[Detections], class_count: int) -> list[list[dict[str, Any]]]:
    """Return, for each class, pycocotools' matches (its evalImgs) of each image that has objects or detections of it, in order.

    `image_id` is the sample's index. Objects of every size, up to 100 detections of a class an image. Raises ValueError for another
    number of detections than of samples.
    """
    evaluation = _evaluation(samples, detections, class_count)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    of_all = evaluation.evalImgs  # class by class, each image by image; None where there is nothing
    per_class = (of_all[index * len(samples) : (index + 1) * len(samples)] for index in range(class_count))
    return [[found for found in matches if found is not None] for matches in per_class]


def _figures(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> CocoFigures:
    """Return the twelve figures of some classes."""
    all_areas, most = precision[..., 0, -1], recall[..., -1]
    found = [all_areas, all_areas[0], all_areas[5], *(precision[..., size, -1] for size in (1, 2, 3))]
    found += [*(recall[..., 0, limit] for limit in (0, 1, 2)), *(most[..., size] for size in (1, 2, 3))]
    return CocoFigures(*(_mean(values) for values in found))


def measure_accuracy(
    engine: Engine, card: ModelCard, samples: Sequence[Sample], class_names: Sequence[str], description: str
) -> tuple[CocoMetrics, list[Detections]]:
    """Run the samples' images through an engine; return the figures and, for each, the detections in the pixels of its image.

    Raises DatasetError where an image does not decode.
    """
    height, width = image_size(engine, card)
    found: list[Detections] = []
    with Progress(description, len(samples)) as progress:
        for start in range(0, len(samples), engine.max_batch):
            part = samples[start : start + engine.max_batch]
            boxings = [Letterbox(s.height, s.width, height, width) for s in part]
            images = np.stack([boxing.apply(read_image(s)) for boxing, s in zip(boxings, part, strict=True)])
            inference = engine.infer(images)
            found += [b.detections_to_frame(d) for d, b in zip(inference.detections, boxings, strict=True)]
            progress.advance(len(part))
    return coco_metrics(samples, found, class_names), found


def _mean(values: NDArray[np.float64]) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _evaluation(samples: Sequence[Sample], detections: Sequence[Detections], class_count: int) -> Any:
    """Return pycocotools' COCOeval, nothing evaluated yet. Raises ValueError for another number of detections than of samples."""
    if len(samples) != len(detections):
        raise ValueError(f"each sample must have its detections, got {len(samples)} samples and {len(detections)} detections")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = COCO(), COCO()
    truth.dataset = {
        "images": [{"id": index, "height": s.height, "width": s.width} for index, s in enumerate(samples)],
        "categories": [{"id": index, "name": str(index)} for index in range(class_count)],
        "annotations": _truth_entries(samples),
    }
    found.dataset = {**truth.dataset, "annotations": _detection_entries(detections)}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
    return COCOeval(truth, found, "bbox")


# Ids begin at 1: pycocotools takes a match with id 0 for none.
def _truth_entries(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for image, sample in enumerate(samples):
        columns = (sample.classes.tolist(), coco_boxes(sample.boxes), sample.areas.tolist(), sample.crowd.tolist())
        for kind, box, area, crowd in zip(*columns, strict=True):
            entry = {"image_id": image, "category_id": kind, "bbox": box, "area": area, "iscrowd": int(crowd)}
            entries.append({"id": len(entries) + 1, **entry})
    return entries


def _detection_entries(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for image, found in enumerate(detections):
        for kind, box, score in zip(found.classes.tolist(), coco_boxes(found.xyxy), found.scores.tolist(), strict=True):
            entry = {"image_id": image, "category_id": kind, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": score}
            entries.append({"id": len(entries) + 1, **entry})
    return entries


def coco_boxes(boxes: NDArray[np.float32]) -> list[list[float]]:
    """Return xyxy boxes [n, 4] as pycocotools takes them: x, y, width, height, in double precision."""
    exact = boxes.astype(np.float64)
    entries: list[list[float]] = np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1).tolist()
    return entries
