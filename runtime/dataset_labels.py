"""What a label reader (COCO, VOC, YOLO) hands on: objects as the label file states them, not yet checked against the images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from retinanet_edge.runtime.errors import DatasetError

Format = Literal["coco", "voc", "yolo"]
Report = Callable[[DatasetError], None]  # told of a mistake in a label; where it returns, reading goes on without that label

# How folders and files call the splits -> the split's name.
SPLIT_OF_NAME = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "trainval": "trainval"}


class LabelledObject(NamedTuple):
    """One object. number: COCO annotation id, position in the XML, or line of the text file; for messages.

    box: (left, top, right, bottom), in pixels or, where the image says `relative`, in fractions of it. area: None where not stated.
    """

    number: object
    class_name: str
    box: tuple[float, float, float, float]
    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True)
class LabelledImage:
    """One image. name: how the labels call it, "/" between folders. source: the file that names it. size: (width, height) as stated."""

    name: str
    path: Path
    source: Path
    size: tuple[float, float] | None
    objects: tuple[LabelledObject, ...]
    relative: bool = False


@dataclass(frozen=True)
class Labels:
    """All that the label files hold. splits: images by "train", "val", "test", "trainval"; "all" where the data has no split."""

    format: Format
    classes: tuple[str, ...]
    splits: dict[str, list[LabelledImage]]


def refuse(error: DatasetError) -> None:
    """The Report of everything but checks: the first mistake ends the reading."""
    raise error


def read_label_text(path: Path) -> str:
    """Return the text of a label file. Raises DatasetError where it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist: complete the data set") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path} must be UTF-8 text, got other bytes: write it again") from None


def find_inside(name: str, folders: Sequence[Path], bases: Sequence[Path], where: str) -> Path:
    """Return the path of file `name` in the first of `folders` that has it; where none has, in the first.

    Folders from which the name leads out of all `bases` are passed over, for labels of unknown origin must not reach other files of the
    machine. Links are followed: whoever placed them meant it. Raises DatasetError, with `where` the name stands, if no folder is left.
    """
    limits = [_normal(base.absolute()) for base in bases]
    paths = [path for folder in folders if _is_inside(path := _join(folder, name), limits)]
    if not paths:
        raise DatasetError(f"{where} must name a file inside {bases[0]}, got {name!r:.80}: correct it or move the file there")
    return next((path for path in paths if path.is_file()), paths[0])


def _join(folder: Path, name: str) -> Path:
    path = folder / name
    return _normal(path) if ".." in Path(name).parts else path  # what is opened is what was checked, whatever is a link


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path))


def is_inside(path: Path, bases: Sequence[Path]) -> bool:
    """Say whether a path, links not followed, is of one of the folders `bases` or in it."""
    return _is_inside(path, [_normal(base.absolute()) for base in bases])


def _is_inside(path: Path, limits: list[Path]) -> bool:
    absolute = _normal(path.absolute())
    return any(absolute.is_relative_to(limit) for limit in limits)


def check_class_names(names: list[str], source: Path) -> tuple[str, ...]:
    """Return the class names of `source`. Raises DatasetError where there are none, or one stands twice."""
    if not names:
        raise DatasetError(f"{source} must list at least one class, got none")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DatasetError(f"{source} must list every class name once, got {twice[0]!r} twice: rename or remove one")
    return tuple(names)
