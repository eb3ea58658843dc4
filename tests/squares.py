"""Labelled images that a very small network learns in seconds: red and blue squares on noise, COCO JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CLASSES = ("red", "blue")
SIDE = 64  # pixels of the images, which is also the input of conftest's SMALL_NETWORK
# Gives an AP of about 0.8.
TRAINING = ("--epochs", 10, "--batch", 4, "--lr", 1e-2, "--augment", 0, "--no-flip", "--average-decay", 0.9, "--anchor-size", 3)

_BGR = ((20, 20, 230), (230, 200, 20))


def write_dataset(folder: Path, *, train: int, val: int, seed: int = 0) -> None:
    """Write a COCO data set with two squares on each image, the left one in the left half."""
    generator = np.random.default_rng(seed)
    (folder / "annotations").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        (folder / split).mkdir()
        labels: dict[str, list[dict[str, Any]]] = {
            "images": [{"id": index, "file_name": f"{index}.png", "width": SIDE, "height": SIDE} for index in range(count)],
            "annotations": [],
            "categories": [{"id": index, "name": name} for index, name in enumerate(CLASSES)],
        }
        for index in range(count):
            image = generator.integers(90, 130, (SIDE, SIDE, 3), dtype=np.uint8)
            for left in (0, SIDE // 2):
                labels["annotations"].append({**_draw_square(image, left, generator), "id": len(labels["annotations"]), "image_id": index})
            cv2.imwrite(str(folder / split / f"{index}.png"), image)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(labels))


def _draw_square(image: np.ndarray, left: int, generator: np.random.Generator) -> dict[str, Any]:
    side, kind = int(generator.integers(20, 29)), int(generator.integers(len(CLASSES)))
    x, y = left + int(generator.integers(SIDE // 2 - side + 1)), int(generator.integers(SIDE - side + 1))
    image[y : y + side, x : x + side] = _BGR[kind]
    return {"category_id": kind, "bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
