"""Writers of label files, COCO JSON, Pascal VOC and YOLO, as this project's readers and most tools take them.

    COCO    annotations/instances_{split}.json                           {split}/*.jpg
    VOC     Annotations/*.xml, ImageSets/Main/{split}.txt                JPEGImages/*.jpg
    YOLO    data.yaml, labels/{split}/*.txt                              images/{split}/*.jpg

Coordinates are written with as many digits as give the same float32 when read; whole ones as integers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.dataset_labels import Format

NamedSamples = Sequence[tuple[str, Sample]]  # file name in its image folder, sample

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def image_folder(to: Format, split: str) -> str:
    """Return where in a data set of that format the images of a split stand."""
    return {"coco": split, "voc": "JPEGImages", "yolo": f"images/{split}"}[to]


def write_labels(to: Format, folder: Path, classes: Sequence[str], splits: dict[str, NamedSamples]) -> None:
    """Write all label files of a data set into `folder`, which is empty or holds its images."""
    {"coco": _write_coco, "voc": _write_voc, "yolo": _write_yolo}[to](folder, classes, splits)


def _write_coco(folder: Path, classes: Sequence[str], splits: dict[str, NamedSamples]) -> None:
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    for split, samples in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for identity, (name, sample) in enumerate(samples, start=1):
            images.append({"id": identity, "file_name": name, "height": sample.height, "width": sample.width})
            annotations += _coco_objects(sample, identity, len(annotations))
        content = {"images": images, "annotations": annotations, "categories": categories}
        _write(folder / "annotations" / f"instances_{split}.json", json.dumps(content))


def _coco_objects(sample: Sample, image_id: int, before: int) -> list[dict[str, Any]]:
    """Return the annotations of one image; `before`: how many the file has already."""
    objects = []
    rows = zip(sample.boxes, sample.classes.tolist(), sample.crowd.tolist(), sample.areas, strict=True)
    for number, (box, kind, crowd, area) in enumerate(rows, start=before + 1):
        left, top, right, bottom = (Decimal(_digits(value)) for value in box)  # decimal: the difference has no more digits than they
        objects.append({
            "id": number, "image_id": image_id, "category_id": kind + 1, "iscrowd": int(crowd), "area": _number(Decimal(_digits(area))),
            "bbox": [_number(value) for value in (left, top, right - left, bottom - top)],
        })  # fmt: skip
    return objects


def _write_voc(folder: Path, classes: Sequence[str], splits: dict[str, NamedSamples]) -> None:
    for split, samples in splits.items():
        for name, sample in samples:
            root = _voc_annotation(name, sample, classes)
            _write(folder / "Annotations" / f"{PurePath(name).stem}.xml", ElementTree.tostring(root, encoding="unicode") + "\n")
        _write(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{PurePath(name).stem}\n" for name, _ in samples))


def _voc_annotation(name: str, sample: Sample, classes: Sequence[str]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = name
    size = ElementTree.SubElement(root, "size")
    for side, pixels in (("width", sample.width), ("height", sample.height), ("depth", 3)):
        ElementTree.SubElement(size, side).text = str(pixels)
    for box, kind, crowd in zip(sample.boxes, sample.classes.tolist(), sample.crowd.tolist(), strict=True):
        thing = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(thing, "name").text = classes[kind]
        ElementTree.SubElement(thing, "difficult").text = str(int(crowd))
        corners = ElementTree.SubElement(thing, "bndbox")
        for side, value in zip(_SIDES, box, strict=True):
            ElementTree.SubElement(corners, side).text = _digits(value)
    ElementTree.indent(root)
    return root


def _write_yolo(folder: Path, classes: Sequence[str], splits: dict[str, NamedSamples]) -> None:
    import yaml

    for split, samples in splits.items():
        for name, sample in samples:
            _write(folder / "labels" / split / f"{PurePath(name).stem}.txt", "".join(_yolo_lines(sample)))
    settings = {split: image_folder("yolo", split) for split in splits} | {"nc": len(classes), "names": dict(enumerate(classes))}
    _write(folder / "data.yaml", yaml.safe_dump(settings, allow_unicode=True, sort_keys=False))


def _yolo_lines(sample: Sample) -> list[str]:
    """Return a line for each object but crowds, for which the format has no mark."""
    boxes = sample.boxes[~sample.crowd].astype(np.float64) / [sample.width, sample.height, sample.width, sample.height]
    rows = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    return [
        f"{kind} " + " ".join(np.format_float_positional(value, precision=12, trim="-") for value in row) + "\n"
        for kind, row in zip(sample.classes[~sample.crowd].tolist(), rows, strict=True)
    ]


def _digits(value: np.float32) -> str:
    """Return the shortest decimal that reads as this float32."""
    return np.format_float_positional(value, trim="-")


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
