"""The division of labelled images into train, val and test: the data's own where it has one, else by a hash of the file name."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from retinanet_edge.runtime.dataset_labels import LabelledImage
from retinanet_edge.runtime.errors import DatasetError

_VAL_SHARE = 0.2

Divided = dict[str, list[LabelledImage]]


def divide(splits: Divided, root: Path) -> tuple[Divided, str]:
    """Return the images of "train", "val" and "test", and in words how that came about.

    Raises DatasetError where there is nothing to train on.
    """
    test = splits.get("test", [])
    if splits.get("train") and splits.get("val"):
        return {"train": splits["train"], "val": splits["val"], "test": test}, "the data's own"
    source = next((name for name in ("train", "trainval", "all") if splits.get(name)), None)
    if source is None:
        found = ", ".join(name for name, images in splits.items() if images) or "no images"
        raise DatasetError(f"{root} must have images to train on, got {found}: add a train split, or give one label file as the data")
    train, val = divide_by_name(splits[source])
    if not val:
        raise DatasetError(f"{root} must have at least two images, to train and to validate on, got 1")
    what = "all images" if source == "all" else f"the data's {source} split"
    return {"train": train, "val": val, "test": test}, f"{what} divided 80/20 by a hash of the file name"


def divide_by_name(images: list[LabelledImage]) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Return (train, val), 80/20 by SHA-256 of the file name: the same on every machine, and an image added moves no other.

    Of two images and more both sides get one.
    """
    ranked = sorted(images, key=_place)
    count = sum(_place(image)[0] < _VAL_SHARE for image in ranked)
    count = min(max(count, 1), len(ranked) - 1)
    return ranked[count:], ranked[:count]


def _place(image: LabelledImage) -> tuple[float, str]:
    """Return where an image falls in 0..1, and its name for the order of equals."""
    name = PurePosixPath(image.name).name
    return int(hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) / 2**32, image.name
