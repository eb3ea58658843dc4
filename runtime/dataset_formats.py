"""Which format a labelled folder is in, told from what is in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from retinanet_edge.runtime.dataset_coco import find_coco, find_lone_json, read_coco
from retinanet_edge.runtime.dataset_labels import Labels
from retinanet_edge.runtime.dataset_voc import find_voc, read_voc
from retinanet_edge.runtime.dataset_yolo import YoloFiles, find_yolo, read_yolo
from retinanet_edge.runtime.errors import DatasetError

FORMAT_NAMES = {"coco": "COCO JSON", "voc": "Pascal VOC", "yolo": "YOLO"}

_LOOKED_FOR = (
    "instances.json or annotations/instances_train*.json (COCO), Annotations/ and JPEGImages/ (Pascal VOC), "
    "data.yaml or images/ and labels/ (YOLO)"
)


def find_reader(root: Path) -> Callable[..., Labels]:
    """Return what reads the labels at `root`: a folder, a folder that holds one such folder, a COCO .json or a YOLO .yaml file.

    What is returned takes `report`, a Report, as its one argument. Raises DatasetError where no format or several are found.
    """
    if not root.exists():
        raise DatasetError(f"data set {root} does not exist: give the path of a labelled folder")
    if root.is_file():
        return _reader_of_file(root)
    if readers := _readers_of_folder(root):
        return _only_one(readers, root)
    inside = sorted(path for path in root.iterdir() if path.is_dir())
    found = {folder: readers for folder in inside if (readers := _readers_of_folder(folder))}
    if len(found) > 1:
        raise DatasetError(f"{root} must be one data set, got several: give {' or '.join(str(path) for path in found)}")
    for folder, readers in found.items():
        return _only_one(readers, folder)
    if lone := find_lone_json(root):
        return partial(read_coco, lone)
    names = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "an empty folder"
    raise DatasetError(f"{root} must be a data set with {_LOOKED_FOR}, got {names}")


def _readers_of_folder(folder: Path) -> dict[str, Callable[..., Labels]]:
    readers: dict[str, Callable[..., Labels]] = {}
    if coco := find_coco(folder):
        readers["coco"] = partial(read_coco, coco)
    if voc := find_voc(folder):
        readers["voc"] = partial(read_voc, voc)
    if yolo := find_yolo(folder):
        readers["yolo"] = partial(read_yolo, yolo)
    return readers


def _only_one(readers: dict[str, Callable[..., Labels]], folder: Path) -> Callable[..., Labels]:
    if len(readers) > 1:
        names = " and ".join(FORMAT_NAMES[name] for name in readers)
        raise DatasetError(f"{folder} must be in one format, got {names}: give the COCO .json or the YOLO .yaml file itself")
    return next(iter(readers.values()))


def _reader_of_file(file: Path) -> Callable[..., Labels]:
    if file.suffix.lower() == ".json":
        return partial(read_coco, {"all": file})
    if file.suffix.lower() in (".yaml", ".yml"):
        return partial(read_yolo, YoloFiles(file.parent, file))
    raise DatasetError(f"{file} must be a folder, a COCO .json or a YOLO .yaml, got a {file.suffix or 'nameless'} file")
