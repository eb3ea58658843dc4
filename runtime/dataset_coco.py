"""Reader of COCO JSON: one file for everything, one a split, COCO's own folders, or Roboflow's.

Format: https://cocodataset.org/#format-data (bbox is [left, top, width, height] in pixels).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from retinanet_edge.runtime.dataset_labels import (
    SPLIT_OF_NAME,
    LabelledImage,
    LabelledObject,
    Labels,
    Report,
    check_class_names,
    find_inside,
    refuse,
)  # fmt: skip
from retinanet_edge.runtime.errors import DatasetError

_SPLIT_FILE = re.compile(r"(?:instances_)?(train|validation|valid|val|test)\d*")  # instances_train2017, val
_WHOLE_FILES = ("instances", "annotations", "_annotations.coco")


def find_coco(folder: Path) -> dict[str, Path] | None:
    """Return the JSON file of each split ("all" for one without), None where no file is named as COCO's are.

    Raises DatasetError where two files claim one split.
    """
    files = sorted([*folder.glob("[!.]*.json"), *folder.glob("annotations/[!.]*.json"), *folder.glob("*/_annotations.coco.json")])
    found: dict[str, Path] = {}
    for file in files:
        if (split := _split_of(file, folder)) is None:
            continue
        if split in found:
            both = f"{found[split]} and {file}"
            raise DatasetError(f"{folder} must hold one COCO file for {split}, got {both}: give one file's path as the data")
        found[split] = file
    if len(found) > 1:
        found.pop("all", None)  # the splits say more than the whole
    return found or None


def find_lone_json(folder: Path) -> dict[str, Path] | None:
    """Return the one JSON file of a folder whatever its name, None where there is none or several."""
    files = [*folder.glob("[!.]*.json"), *folder.glob("annotations/[!.]*.json")]
    return {"all": files[0]} if len(files) == 1 else None


def _split_of(file: Path, folder: Path) -> str | None:
    if file.name == "_annotations.coco.json" and file.parent != folder:
        return SPLIT_OF_NAME.get(file.parent.name.lower())
    if matched := _SPLIT_FILE.fullmatch(file.stem.lower()):
        return SPLIT_OF_NAME[matched[1]]
    return "all" if file.stem.lower() in _WHOLE_FILES else None


def read_coco(files: dict[str, Path], report: Report = refuse) -> Labels:
    """Return the labels of COCO files. Classes are all categories listed, in the order of their ids.

    Raises DatasetError where a file is not COCO JSON, or the files of two splits list different categories; that, or reports, where an
    image or annotation is broken.
    """
    splits: dict[str, list[LabelledImage]] = {}
    categories: dict[int, str] = {}
    first: Path | None = None
    for split, file in files.items():
        data = _load(file)
        listed = _read_categories(data, file)
        if first is not None and listed != categories:
            raise DatasetError(f"{file} must list the same categories as {first}, got {_difference(categories, listed)}")
        categories, first = listed, first or file
        splits[split] = _read_images(data, file, split, categories, report)
    return Labels("coco", tuple(categories.values()), splits)


def _load(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file} must be JSON, got text that does not parse ({error}): write it again") from None
    if not isinstance(data, dict):
        raise DatasetError(f"{file} must be a COCO object with images, annotations and categories, got a {type(data).__name__}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise DatasetError(f'{file} must have a list "{key}" as COCO files do, got {_name_type(data.get(key))}')
    return data


def _name_type(value: object) -> str:
    return "none" if value is None else f"a {type(value).__name__}"


def _get(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Return entry[key]. Raises DatasetError naming `where` unless entry is an object that has it and it is of `kind`."""
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} must be an object, got {_name_type(entry)}")
    value = entry.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DatasetError(f'{where} must have a proper "{key}", got {value!r:.60}')
    return value


def _read_categories(data: dict[str, Any], file: Path) -> dict[int, str]:
    """Return the name of each category id, in the order of ids."""
    names: dict[int, str] = {}
    for index, category in enumerate(data["categories"]):
        where = f"{file}: category {index + 1}"
        identity = _get(category, "id", int, where)
        if identity in names:
            raise DatasetError(f"{where} must have an id of its own, got {identity} again")
        names[identity] = _get(category, "name", str, where)
    check_class_names(list(names.values()), file)
    return dict(sorted(names.items()))


def _difference(expected: dict[int, str], found: dict[int, str]) -> str:
    odd = sorted(set(expected.items()) ^ set(found.items()))
    return f"{len(found)} instead of {len(expected)}; the first that differs: {odd[0][1]!r} (id {odd[0][0]})"


def _read_images(data: dict[str, Any], file: Path, split: str, categories: dict[int, str], report: Report) -> list[LabelledImage]:
    objects: dict[int | str, list[LabelledObject]] = {}
    for index, image in enumerate(data["images"]):
        identity = _get(image, "id", (int, str), f"{file}: image {index + 1}")
        if identity in objects:
            raise DatasetError(f"{file}: image {index + 1} must have an id of its own, got {identity} again")
        objects[identity] = []
    for index, annotation in enumerate(data["annotations"]):
        number = annotation.get("id", index + 1) if isinstance(annotation, dict) else index + 1
        where = f"{file}: annotation {number!r:.40}"
        try:
            of_image = objects.get(_get(annotation, "image_id", (int, str), where))
            if of_image is None:
                raise DatasetError(f'{where} must name an image of the file, got image_id {annotation["image_id"]!r:.40}')
            of_image.append(_read_object(annotation, number, categories, where))
        except DatasetError as error:
            report(error)
    base = file.parent.parent if file.parent.name.lower() == "annotations" else file.parent
    folders = _image_folders(file, split, base)
    images = []
    for image in data["images"]:
        try:
            images.append(_labelled_image(image, tuple(objects[image["id"]]), file, folders, base))
        except DatasetError as error:
            report(error)
    return images


def _read_object(annotation: Any, number: object, categories: dict[int, str], where: str) -> LabelledObject:
    category = _get(annotation, "category_id", int, where)
    if category not in categories:
        raise DatasetError(f"{where} must have a category that the file lists, got unknown class id {category}")
    box = _get(annotation, "bbox", list, where)
    if len(box) != 4:
        raise DatasetError(f"{where} must have a bbox of 4 numbers, got {len(box)}")
    left, top, width, height = (_number(value, "bbox", where) for value in box)
    area = annotation.get("area")
    return LabelledObject(
        number, categories[category], (left, top, left + width, top + height),
        crowd=annotation.get("iscrowd", 0) in (1, True), area=None if area is None else _number(area, "area", where),
    )  # fmt: skip


def _number(value: Any, key: str, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise DatasetError(f'{where} must have numbers as "{key}", got {value!r:.60}')
    try:
        return float(value)
    except OverflowError:
        return float("inf")  # refused with the other coordinates that are not finite


def _image_folders(file: Path, split: str, base: Path) -> list[Path]:
    """Return the folders of the data folder `base` where the images of a COCO file may be, likeliest first."""
    tag = file.stem.removeprefix("instances_")  # train2017
    names = (f"images/{tag}", tag, f"images/{split}", split, "images", ".")
    folders = [base / name for name in names if (base / name).is_dir()]
    return [*folders, file.parent]


def _labelled_image(image: Any, objects: tuple[LabelledObject, ...], file: Path, folders: list[Path], base: Path) -> LabelledImage:
    where = f"{file}: image {image['id']!r:.40}"
    name = _get(image, "file_name", str, where)
    size = None
    if image.get("width") is not None or image.get("height") is not None:
        size = (_get(image, "width", int, where), _get(image, "height", int, where))
    return LabelledImage(name, find_inside(name, folders, [base], where), file, size, objects)
