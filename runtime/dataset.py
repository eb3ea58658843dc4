"""A labelled folder as images with boxes: the types, and the one call that reads any of the three formats."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.boxes import area
from retinanet_edge.runtime.dataset_cleaning import clean_objects
from retinanet_edge.runtime.dataset_formats import FORMAT_NAMES, find_reader
from retinanet_edge.runtime.dataset_images import IMAGE_SUFFIXES, read_header, read_image_file
from retinanet_edge.runtime.dataset_labels import Format, LabelledImage
from retinanet_edge.runtime.dataset_split import divide
from retinanet_edge.runtime.errors import DatasetError
from retinanet_edge.runtime.progress import track

__all__ = [
    "IMAGE_SUFFIXES", "Dataset", "Sample", "Split", "describe", "has_objects", "make_sample", "read_dataset", "read_image",
    "read_image_file",
]  # fmt: skip

Split = Literal["train", "val", "test"]

_DESCRIBED_CLASSES = 20


@dataclass(frozen=True)
class Sample:
    """One image and its objects.

    path: the image file. height, width: its pixels, as `read_image` gives them. boxes: float32 [n, 4] xyxy in its pixels.
    classes: int64 [n]. crowd: bool [n], boxes around a group, which evaluation ignores and training leaves out. areas: float32 [n],
    COCO's object area (segment, where the data has one), which evaluation uses for its size classes.
    """

    path: Path
    height: int
    width: int
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float32]


@dataclass(frozen=True)
class Dataset:
    """A labelled folder, read and cleaned.

    root: what `read_dataset` was given. Samples of a split are in the order of their names. cleaned: what was mended or left out, by
    description, with counts ("boxes without area left out": 2). split_rule: how the division into train, val and test came about.
    sha256: over class names, file names, boxes and split (not over pixels, nor where the folder is).
    """

    root: Path
    format: Format
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    split_rule: str
    cleaned: dict[str, int]
    sha256: str

    def split(self, name: Split) -> tuple[Sample, ...]:
        """Return the samples of one split."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def read_dataset(folder: Path | str, objects_in: Sequence[Split] = ("train", "val")) -> Dataset:
    """Read a COCO JSON, Pascal VOC or YOLO folder; the format is told from what is in it.

    Also taken: one COCO file or YOLO settings file itself, and a folder that holds one such folder. Every image's header is checked.
    Raises DatasetError, one line with the file, for whatever makes a label or image unusable, and where a split of `objects_in` has none.
    """
    root = Path(folder)
    labels = find_reader(root)()
    divided, rule = divide(labels.splits, root)
    index = {name: number for number, name in enumerate(labels.classes)}
    counts: Counter[str] = Counter()
    digest = hashlib.sha256(json.dumps([labels.format, labels.classes]).encode())
    samples: dict[str, tuple[Sample, ...]] = {}
    for split, images in divided.items():
        ordered = sorted(images, key=lambda image: image.name)
        samples[split] = tuple(make_sample(image, index, counts) for image in track(ordered, f"reading {split} images"))
        for image, sample in zip(ordered, samples[split], strict=True):
            digest.update(_fingerprint(split, image.name, sample))
    for split in objects_in:
        if not has_objects(samples[split]):
            raise DatasetError(f"{root} must have at least one object on its {split} images, got {len(samples[split])} without any")
    cleaned = {what: count for what, count in counts.items() if count}
    return Dataset(root, labels.format, labels.classes, **samples, split_rule=rule, cleaned=cleaned, sha256=digest.hexdigest())


def has_objects(samples: Sequence[Sample]) -> bool:
    """Say whether some sample has an object that is not a crowd: without, there is nothing to train on or to measure."""
    return any((~sample.crowd).any() for sample in samples)


def read_image(sample: Sample) -> NDArray[np.uint8]:
    """Return the image as uint8 [height, width, 3] BGR. Raises DatasetError where it does not decode to that size."""
    shape = (sample.height, sample.width)
    for oriented in (True, False):  # labels may have been drawn on the image as it is stored
        image = read_image_file(sample.path, oriented=oriented)
        if image.shape[:2] == shape:
            return image
    raise DatasetError(
        f"image {sample.path} must be {sample.width}x{sample.height} as when the data were read, got {image.shape[1]}x{image.shape[0]}"
    )


def describe(dataset: Dataset) -> list[str]:
    """Return lines for people: format and split, images and objects of each split, objects of each class, what was cleaned."""
    name = FORMAT_NAMES[dataset.format]
    lines = [f"{dataset.root}: {name}, {len(dataset.classes)} classes, split: {dataset.split_rule}"]
    totals = np.zeros(len(dataset.classes), np.int64)
    for split in ("train", "val", "test"):
        samples = dataset.split(split)
        found = np.concatenate([sample.classes for sample in samples] or [np.zeros(0, np.int64)])
        totals += np.bincount(found, minlength=len(totals))
        if samples:
            empty = sum(not len(sample.classes) for sample in samples)
            lines.append(f"  {split}: {len(samples)} images, {len(found)} objects" + (f", {empty} images without any" if empty else ""))
    lines.append("  " + _describe_classes(dataset.classes, totals))
    return lines + [f"  {what}: {count}" for what, count in dataset.cleaned.items()]


def _describe_classes(classes: Sequence[str], totals: NDArray[np.int64]) -> str:
    order = np.argsort(-totals, kind="stable")[:_DESCRIBED_CLASSES]
    text = "objects: " + ", ".join(f"{classes[index]} {totals[index]}" for index in order)
    more, absent = len(classes) - len(order), int((totals == 0).sum())
    return text + (f" and {more} classes more" if more else "") + (f"; {absent} classes have none" if absent else "")


def make_sample(image: LabelledImage, index: dict[str, int], counts: Counter[str]) -> Sample:
    """Return the checked and cleaned sample of an image; `index`: number of each class name, `counts`: gets what was mended.

    Raises DatasetError where the image is missing or corrupt, or one of its boxes is broken.
    """
    width, height = _image_size(image)
    clean = clean_objects(image, width, height, counts)
    return Sample(
        image.path, height, width, clean.boxes,
        classes=np.array([index[thing.class_name] for thing in clean.labelled], np.int64),
        crowd=np.array([thing.crowd for thing in clean.labelled], np.bool_),
        areas=np.array(
            [box_area if thing.area is None else thing.area for thing, box_area in zip(clean.labelled, area(clean.boxes), strict=True)],
            np.float32,
        ),
    )  # fmt: skip


def _image_size(image: LabelledImage) -> tuple[int, int]:
    """Return the (width, height) that the labels mean: as shown or as stored, whichever they state; as shown where they state none."""
    if not image.path.is_file():
        raise DatasetError(f"image {image.path} does not exist though {image.source} names it: complete the data set")
    header = read_header(image.path)
    if image.size in (None, header.oriented):
        return header.oriented
    if image.size == header.stored:
        return header.stored
    stated, found = (f"{size[0]:g}x{size[1]:g}" for size in (image.size, header.stored))
    raise DatasetError(f"image {image.path} must be {stated} as {image.source} states, got {found}: correct one of them")


def _fingerprint(split: str, name: str, sample: Sample) -> bytes:
    """Return what of a sample belongs in the hash, the same in whatever order its objects stand."""
    boxes = np.round(sample.boxes.astype(np.float64) * 100).astype(np.int64).tolist()
    objects = sorted([*box, kind, crowd] for box, kind, crowd in zip(boxes, sample.classes.tolist(), sample.crowd.tolist(), strict=True))
    return json.dumps([split, name, sample.width, sample.height, objects]).encode()
