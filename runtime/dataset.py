"""A labelled folder as images with boxes: the types, and the one call that reads any of the three formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]


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

    cleaned: what was mended or left out, by description, with counts ("boxes without area left out": 2). split_rule: how the division
    into train, val and test came about. sha256: over class names, file names, boxes and split (not over pixels).
    """

    root: Path
    format: Literal["coco", "voc", "yolo"]
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


def read_dataset(folder: Path | str) -> Dataset:
    """Read a COCO JSON, Pascal VOC or YOLO folder; the format is told from what is in it.

    Raises DatasetError, one line with the file, for whatever makes a label or image unusable.
    """
    raise DatasetError(folder)


def read_image(sample: Sample) -> NDArray[np.uint8]:
    """Return the image as uint8 [height, width, 3] BGR. Raises DatasetError where it does not decode to that size."""
    raise DatasetError(sample)
