"""Reader of YOLO: data.yaml (or classes.txt), images, and for each image a text file with a line an object.

Format: https://docs.ultralytics.com/datasets/detect/ (class index, then centre x, centre y, width, height in fractions of the
image). A line with more numbers is a polygon x1 y1 x2 y2 ..., whose bounds are taken; where the settings have kpt_shape, the box
is followed by keypoints, which are left out.
"""

from __future__ import annotations

import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinanet_edge.runtime.dataset_images import IMAGE_SUFFIXES
from retinanet_edge.runtime.dataset_labels import (
    SPLIT_OF_NAME,
    LabelledImage,
    LabelledObject,
    Labels,
    Report,
    check_class_names,
    find_inside,
    is_inside,
    read_label_text,
    refuse,
)  # fmt: skip
from retinanet_edge.runtime.errors import DatasetError

_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names")
_FAR_OUTSIDE = 2.0  # fractions beyond this are pixels by mistake, not a box over the edge


@dataclass(frozen=True)
class YoloFiles:
    """What makes a folder a YOLO data set: its settings file, or None where only the layout tells."""

    folder: Path
    settings: Path | None


def find_yolo(folder: Path) -> YoloFiles | None:
    """Return the parts of a YOLO folder: a settings file, images/ beside labels/, or both inside train/; None for other folders."""
    known = [folder / name for name in _YAML_NAMES if (folder / name).is_file()]
    others = [file for file in sorted(folder.glob("[!.]*.yaml")) if re.search(r"^names\s*:", read_label_text(file), re.MULTILINE)]
    if settings := known or others:
        return YoloFiles(folder, settings[0])
    laid_out = any((place / "images").is_dir() and (place / "labels").is_dir() for place in (folder, folder / "train"))
    return YoloFiles(folder, None) if laid_out else None


def read_yolo(files: YoloFiles, report: Report = refuse) -> Labels:
    """Return the labels of a YOLO folder.

    Raises DatasetError where the settings do not parse; that, or reports, where a line does not, or a label file has no image.
    """
    settings = _load_settings(files.settings) if files.settings else {}
    classes = _read_classes(files, settings)
    places = _places_in_settings(files, settings) or _places_in_layout(files.folder)
    if not places:
        raise DatasetError(f"{files.folder} must have images in images/, images/train/ or train/images/, got none of these folders")
    bases = _bases(files.folder, settings.get("path"))
    splits = {split: [image for place in found for image in _images_of(place, bases)] for split, found in places.items()}
    _check_labels_have_images([place for found in places.values() for place in found], splits, report)
    read = {
        split: [_read_image(path, source, files.folder, classes, report, keypoints="kpt_shape" in settings) for path, source in images]
        for split, images in splits.items()
    }
    return Labels("yolo", classes, read)


def _load_settings(file: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(read_label_text(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{file} must be YAML, got text that does not parse ({reason:.100}): write it again") from None
    if not isinstance(settings, dict):
        raise DatasetError(f"{file} must be a YAML mapping with names, train and val, got a {type(settings).__name__}")
    return settings


def _read_classes(files: YoloFiles, settings: dict[str, Any]) -> tuple[str, ...]:
    if "names" in settings:
        assert files.settings is not None
        return check_class_names(_names_in_order(settings["names"], files.settings), files.settings)
    for file in (files.folder / name for name in _CLASS_FILES):
        if file.is_file():
            lines = [line.strip() for line in read_label_text(file).splitlines()]
            return check_class_names([line for line in lines if line], file)
    raise DatasetError(f"{files.folder} must name its classes, got no names in data.yaml and no classes.txt: write one of them")


def _names_in_order(names: object, file: Path) -> list[str]:
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DatasetError(f"{file} must number its names from 0 without gaps, got {reprlib.repr(list(names))}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise DatasetError(f"{file} must have a list of names, got {reprlib.repr(names)}")
    return [str(name) for name in names]


def _places_in_settings(files: YoloFiles, settings: dict[str, Any]) -> dict[str, list[Path]]:
    """Return the image folders or image lists of each split that the settings name; a test split may be missing."""
    if not settings.get("train"):
        return {}
    assert files.settings is not None
    places: dict[str, list[Path]] = {}
    for key, split in SPLIT_OF_NAME.items():
        named = settings.get(key) or []
        for entry in named if isinstance(named, list) else [named]:
            if not isinstance(entry, str):
                raise DatasetError(f"{files.settings}: {key} must be a path or a list of paths, got {reprlib.repr(entry)}")
            if place := _resolve(files.folder, settings.get("path"), entry):
                places.setdefault(split, []).append(place)
            elif split != "test":
                raise DatasetError(f"{files.settings}: {key} must be a folder or list of images in the data folder, got {entry}")
    return places


def _resolve(folder: Path, root: object, entry: str) -> Path | None:
    # Roboflow writes "../train/images" for what stands beside the file.
    bases = _bases(folder, root)
    candidates = [base / text for base in bases for text in (entry, entry.removeprefix("../"))]
    return next((place for place in candidates if place.exists() and is_inside(place, bases)), None)


def _bases(folder: Path, root: object) -> list[Path]:
    """Return the folders that the settings' paths start from and may not leave; `root`: the data folder that they name as path."""
    if not isinstance(root, str):
        return [folder]
    if (folder / root).resolve().parent == (folder / root).resolve():
        raise DatasetError(f"{folder}: path must be the folder of the data, got {root}, which holds the whole machine: name theirs")
    return [folder / root, folder]


def _places_in_layout(folder: Path) -> dict[str, list[Path]]:
    places: dict[str, list[Path]] = {}
    for place in sorted([*folder.glob("*/images"), *folder.glob("images/*")]):
        name = place.parent.name if place.name == "images" else place.name
        if place.is_dir() and (split := SPLIT_OF_NAME.get(name.lower().rstrip("0123456789"))):
            places.setdefault(split, []).append(place)
    if not places and (folder / "images").is_dir():
        places["all"] = [folder / "images"]
    return places


def _images_of(place: Path, bases: list[Path]) -> list[tuple[Path, Path]]:
    """Return (image, what names it) of an image folder, at any depth, or of a text file with an image of the data folders a line."""
    if place.is_dir():
        return [(path, place) for path in sorted(place.rglob("[!.]*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    lines = (line.strip() for line in read_label_text(place).splitlines())
    return [(find_inside(line, [place.parent], [*bases, place.parent], str(place)), place) for line in lines if line]


def _label_file(image: Path) -> Path:
    """Return the label file of an image: in labels/ where the image is in images/, beside it otherwise."""
    parts = list(image.parts)
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _check_labels_have_images(places: list[Path], splits: dict[str, list[tuple[Path, Path]]], report: Report) -> None:
    if not all(place.is_dir() for place in places):  # lists may leave images out on purpose
        return
    expected = {_label_file(path) for images in splits.values() for path, _ in images}
    folders = {file.parent for file in expected if "labels" in file.parts}
    known = {*expected, *(folder / Path(name).name for folder in folders for name in _CLASS_FILES)}
    for folder in sorted(folders):
        for lost in sorted(set(folder.glob("[!.]*.txt")) - known):
            report(DatasetError(f"{lost} must have an image of its name in images/, got none: add it or remove the label file"))


def _read_image(path: Path, source: Path, folder: Path, classes: tuple[str, ...], report: Report, *, keypoints: bool) -> LabelledImage:
    name = Path(os.path.relpath(path, folder)).as_posix()
    file = _label_file(path)
    if not file.is_file():  # YOLO's way to say that nothing is on it
        return LabelledImage(name, path, source, None, (), relative=True)
    kept = 5 if keypoints else None  # words
    objects = []
    for number, line in enumerate(_lines(file, report), start=1):
        try:
            objects += [_read_line(line.split()[:kept], number, file, classes)] if line.strip() else []
        except DatasetError as error:
            report(error)
    return LabelledImage(name, path, file, None, tuple(objects), relative=True)


def _lines(file: Path, report: Report) -> list[str]:
    try:
        return read_label_text(file).splitlines()
    except DatasetError as error:
        report(error)
        return []


def _read_line(words: list[str], number: int, file: Path, classes: tuple[str, ...]) -> LabelledObject:
    where = f"{file}: line {number}"
    if len(words) < 5 or len(words) % 2 == 0:
        raise DatasetError(f"{where} must be a class index and 4 numbers (or a polygon), got {len(words)} words")
    if not re.fullmatch(r"\d+", words[0]) or int(words[0]) >= len(classes):
        raise DatasetError(f"{where} must have a class index from 0 to {len(classes) - 1}, got unknown class {words[0]:.20}")
    try:
        values = [float(word) for word in words[1:]]
    except ValueError:
        raise DatasetError(f"{where} must be numbers, got {' '.join(words)!r:.60}") from None
    if any(abs(value) > _FAR_OUTSIDE for value in values):
        raise DatasetError(f"{where} must be in fractions of the image, 0 to 1, got {max(values, key=abs):g}: divide by the image's size")
    return LabelledObject(number, classes[int(words[0])], _bounds(values))


def _bounds(values: list[float]) -> tuple[float, float, float, float]:
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
