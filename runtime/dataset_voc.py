"""Reader of Pascal VOC: Annotations/*.xml, JPEGImages/ and, where the data has a split, ImageSets/Main/*.txt.

Coordinates are taken as they stand. VOC's definition counts pixels from 1 and includes the last one, but most tools that write the format
count from 0 and exclude it; the two differ by at most a pixel, and nothing in a file tells which it is.
Objects marked difficult become crowd objects: not trained on, neither demanded nor punished in evaluation, as in VOC's own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast
from xml.etree.ElementTree import Element, ParseError

from retinanet_edge.runtime.dataset_images import IMAGE_SUFFIXES
from retinanet_edge.runtime.dataset_labels import LabelledImage, LabelledObject, Labels, Report, find_inside, read_label_text, refuse
from retinanet_edge.runtime.errors import DatasetError

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_FLAG = re.compile(r"\s+-?[01]$")  # lists of one class put after each name whether it is there


def find_voc(folder: Path) -> Path | None:
    """Return the folder if it is laid out as Pascal VOC."""
    return folder if (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir() else None


def read_voc(folder: Path, report: Report = refuse) -> Labels:
    """Return the labels of a VOC folder. VOC lists no classes: they are the names found, over all splits, sorted.

    Raises DatasetError, or reports, where a file does not parse or a list names what is not there.
    """
    images_folder = folder / "JPEGImages"
    images = {path.stem: path for path in sorted(images_folder.glob("[!.]*")) if path.suffix.lower() in IMAGE_SUFFIXES}
    lists = {file.stem: _read_list(file) for file in sorted((folder / "ImageSets" / "Main").glob("[!.]*.txt"))}
    stems = {split: lists[split] for split in ("train", "val", "test", "trainval") if lists.get(split)}
    if not stems:
        stems = {"all": sorted(path.stem for path in (folder / "Annotations").glob("[!.]*.xml"))}  # macOS leaves ._name.xml
    read: dict[str, LabelledImage] = {}
    for stem in sorted({stem for names in stems.values() for stem in names}):
        try:
            read[stem] = _read_image(folder, stem, images)
        except DatasetError as error:
            report(error)
    classes = sorted({thing.class_name for image in read.values() for thing in image.objects})
    if not classes:
        raise DatasetError(f"{folder / 'Annotations'} must hold at least one object, got {len(read)} files without any")
    return Labels("voc", tuple(classes), {split: [read[stem] for stem in names if stem in read] for split, names in stems.items()})


def _read_list(file: Path) -> list[str]:
    lines = (_FLAG.sub("", line.strip()) for line in read_label_text(file).splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def _read_image(folder: Path, stem: str, images: dict[str, Path]) -> LabelledImage:
    file = find_inside(f"{stem}.xml", [folder / "Annotations"], [folder], f"{folder / 'ImageSets' / 'Main'}: a list")
    root = _parse(file)
    name = (root.findtext("filename") or "").strip()
    path = images.get(stem) or find_inside(name or f"{stem}.jpg", [folder / "JPEGImages"], [folder], f"{file}: filename")
    objects = tuple(_read_object(thing, number, file) for number, thing in enumerate(root.findall("object"), start=1))
    return LabelledImage(path.name, path, file, _read_size(root, file), objects)


def _parse(file: Path) -> Element:
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    if not file.is_file():
        raise DatasetError(f"{file} does not exist though a list of ImageSets/Main names it: complete the data set")
    try:
        root = cast(Element, fromstring(file.read_bytes()))
    except DefusedXmlException:
        raise DatasetError(f"{file} must be plain XML, got entities or other declarations that are refused: remove them") from None
    except (ParseError, ValueError, LookupError) as error:
        raise DatasetError(f"{file} must be XML, got text that does not parse ({error}): write it again") from None
    if root.tag != "annotation":
        raise DatasetError(f"{file} must have the root <annotation> as Pascal VOC does, got <{root.tag:.40}>")
    return root


def _read_size(root: Element, file: Path) -> tuple[float, float] | None:
    """Return (width, height) as stated; None where it is not stated, or is 0 as some tools leave it."""
    size = root.find("size")
    if size is None:
        return None
    width, height = (_number(size, side, f"{file}: size") for side in ("width", "height"))
    return None if width == height == 0 else (width, height)


def _read_object(thing: Element, number: int, file: Path) -> LabelledObject:
    where = f"{file}: object {number}"
    name = (thing.findtext("name") or "").strip()
    box = thing.find("bndbox")
    if not name or box is None:
        raise DatasetError(f"{where} must have a <name> and a <bndbox>, got {'no name' if box is not None else 'no bndbox'}")
    left, top, right, bottom = (_number(box, side, where) for side in _SIDES)
    difficult = (thing.findtext("difficult") or "0").strip() == "1"
    return LabelledObject(number, name, (left, top, right, bottom), crowd=difficult)


def _number(parent: Any, tag: str, where: str) -> float:
    text = (parent.findtext(tag) or "").strip()
    try:
        return float(text)
    except ValueError:
        raise DatasetError(f"{where} must have a number in <{tag}>, got {text!r:.40}") from None
