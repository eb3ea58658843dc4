"""Generated scenes as a labelled folder, COCO JSON with a split:

    annotations/instances_train.json, instances_val.json     train/000001.jpg ...     val/000001.jpg ...

Every image is another scene at another time, so that no two are alike and none of the validation images was trained on.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.boxes import area
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.scene_objects import CLASSES
from retinanet_edge.runtime.scene_video import SEEDS_A_BLOCK, SceneVideo

MAX_IMAGES = SEEDS_A_BLOCK // 2  # of each split: a block's first half of scene seeds is for training, its second for validation

_VERSION = 1  # of what a seed looks like; a folder of another version is not reused
_FRAMES = 3000  # an image is taken from the first two minutes of its scene
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class SceneDatasetOptions:
    """What determines a data set. train, val: images. Every number fits the types of runtime/scenes.py."""

    train: int
    val: int
    seed: int
    height: int
    width: int


def scene_seeds(split: str, options: SceneDatasetOptions) -> range:
    """Return the scene seed of each image of "train" or "val". Seeds of block 0 are never among them: those are for cameras."""
    first = (options.seed + 1) * SEEDS_A_BLOCK
    if split == "train":
        return range(first, first + options.train)
    return range(first + MAX_IMAGES, first + MAX_IMAGES + options.val)


def write_scenes(folder: Path, options: SceneDatasetOptions, advance: Callable[[], None]) -> bool:
    """Write a data set, whole or not at all; return False where the same one is there already. `advance` is called for each image.

    Raises UserInputError where `folder` holds something else.
    """
    if folder.exists() and any(_entries(folder)):
        if _holds(folder, options):
            return False
        raise UserInputError(f"--output {folder} must be empty, new or hold these same scenes, got other files: "
                             "name another folder or remove this one")  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        whole = Path(temporary) / "scenes"
        (whole / "annotations").mkdir(parents=True)
        for split in ("train", "val"):
            _write_split(whole, split, options, advance)
        whole.replace(folder)  # which is not there, or empty
    return True


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserInputError(f"--output must name a folder, got the file {folder}: name another")
    return list(folder.iterdir())


def _info(split: str, options: SceneDatasetOptions) -> dict[str, Any]:
    return {"description": f"generated scenes, {split}", "version": str(_VERSION), "options": asdict(options)}


def _holds(folder: Path, options: SceneDatasetOptions) -> bool:
    try:
        return all(json.loads(_annotations(folder, split).read_bytes())["info"] == _info(split, options) for split in ("train", "val"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _annotations(folder: Path, split: str) -> Path:
    return folder / "annotations" / f"instances_{split}.json"


def _write_split(folder: Path, split: str, options: SceneDatasetOptions, advance: Callable[[], None]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / split).mkdir()
    for identity, seed in enumerate(scene_seeds(split, options), start=1):
        index = int(np.random.default_rng((seed, 1)).integers(_FRAMES))
        image, boxes, classes = SceneVideo(seed, options.height, options.width).frame(index)
        name = f"{identity:06d}.jpg"
        _write_image(folder / split / name, image)
        images.append({"id": identity, "file_name": name, "height": options.height, "width": options.width})
        annotations += _objects(identity, len(annotations), boxes, classes)
        advance()
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"info": _info(split, options), "images": images, "annotations": annotations, "categories": categories}
    _annotations(folder, split).write_text(json.dumps(content))


def _write_image(path: Path, image: NDArray[np.uint8]) -> None:
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert ok, "OpenCV writes JPEG"
    path.write_bytes(data.tobytes())  # not cv2.imwrite, which says nothing of a full disk


def _objects(image_id: int, before: int, boxes: NDArray[np.float32], classes: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return COCO annotations of one image; `before`: how many there are already."""
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64).round(2)
    return [
        {"id": before + number, "image_id": image_id, "category_id": int(class_index) + 1, "bbox": side.tolist(),
         "area": round(float(pixels), 2), "iscrowd": 0}
        for number, (side, pixels, class_index) in enumerate(zip(sides, area(boxes), classes, strict=True), start=1)
    ]  # fmt: skip
