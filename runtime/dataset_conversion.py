"""A data set read in one format and written in another: its images, labels and split, whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retinanet_edge.runtime.boxes import area
from retinanet_edge.runtime.dataset import Dataset, Sample, read_dataset, read_image
from retinanet_edge.runtime.dataset_formats import FORMAT_NAMES
from retinanet_edge.runtime.dataset_images import read_header
from retinanet_edge.runtime.dataset_labels import Format
from retinanet_edge.runtime.dataset_names import name_images
from retinanet_edge.runtime.dataset_writers import NamedSamples, image_folder, write_labels
from retinanet_edge.runtime.errors import DatasetError, UserInputError
from retinanet_edge.runtime.progress import track

_NOT_IN_XML = re.compile("[\x00-\x1f\ud800-\udfff\ufffe\uffff]")


def convert_dataset(data: Path, to: Format, output: Path, *, link: bool = False) -> list[str]:
    """Write the data set at `data` in format `to` into the folder `output`; return, in lines, what was written and what got lost.

    Images are copied, or with `link` hard-linked where the file system allows it. `output` appears when all of it is there.
    Raises UserInputError where `output` is not free, DatasetError where the data or a class name cannot be used.
    """
    _check_output(output, data)
    dataset = read_dataset(data)
    if to == "voc":
        _check_class_names(dataset.classes)
    splits = _named_samples(dataset, to)
    folder = output.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        whole = Path(temporary) / "data"
        whole.mkdir()
        images = [(whole / image_folder(to, split) / name, sample) for split, named in splits.items() for name, sample in named]
        linked = sum(_place_image(sample, path, to, link=link) for path, sample in track(images, "writing images"))
        write_labels(to, whole, dataset.classes, splits)
        whole.replace(folder)  # which is not there, or empty
    return [_describe(dataset, to, output, linked), *(f"  {line}" for line in _losses(dataset, to, splits))]


def _check_output(output: Path, data: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UserInputError(f"--output must name a folder, got the file {output}: name another")
    if output.exists() and any(output.iterdir()):
        raise UserInputError(f"--output {output} must be new or empty, got a folder with files: name another or remove this one")
    if data.is_dir() and output.resolve().is_relative_to(data.resolve()):
        raise UserInputError(f"--output {output} must not be inside the data set {data}, which would then be two: name another")


def _check_class_names(classes: Sequence[str]) -> None:
    for name in classes:
        if name != name.strip() or not name or _NOT_IN_XML.search(name):
            raise DatasetError(f"class name {name!r:.60} must be text without white space around it to stand in Pascal VOC: rename it")


def _named_samples(dataset: Dataset, to: Format) -> dict[str, NamedSamples]:
    """Return each split's samples with their new file names, distinct within the folder that the format puts them in."""
    splits = {name: samples for name, samples in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test)) if samples}
    groups = [list(splits)] if to == "voc" else [[split] for split in splits]
    named: dict[str, NamedSamples] = {}
    for group in groups:
        paths = [_target_path(sample, to) for split in group for sample in splits[split]]
        names = iter(name_images(paths, by_stem=to != "coco", without_spaces=to == "voc"))
        named |= {split: [(next(names), sample) for sample in splits[split]] for split in group}
    return named


def _target_path(sample: Sample, to: Format) -> Path:
    return sample.path.with_suffix(".png") if _loses_orientation(sample, to) else sample.path


def _loses_orientation(sample: Sample, to: Format) -> bool:
    """Whether labels are drawn on the image as stored, not as EXIF turns it, in a format that cannot say so by stating its size."""
    return to == "yolo" and read_header(sample.path).oriented != (sample.width, sample.height)


def _place_image(sample: Sample, path: Path, to: Format, *, link: bool) -> bool:
    """Bring the image to its new place; return whether as a link."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    if _loses_orientation(sample, to):
        ok, data = cv2.imencode(".png", read_image(sample))
        assert ok, "OpenCV writes PNG"
        path.write_bytes(data.tobytes())  # not cv2.imwrite, which says nothing of a full disk
        return False
    if link:
        try:
            os.link(sample.path.resolve(), path)
        except OSError:  # another disk, a file system without links, someone else's file: copied below, which says what is wrong if it is
            path.unlink(missing_ok=True)
        else:
            return True
    shutil.copyfile(sample.path, path)
    return False


def _describe(dataset: Dataset, to: Format, output: Path, linked: int) -> str:
    counts = {"training": len(dataset.train), "validation": len(dataset.val), "test": len(dataset.test)}
    samples = (*dataset.train, *dataset.val, *dataset.test)
    objects = sum(len(sample.boxes) - (int(sample.crowd.sum()) if to == "yolo" else 0) for sample in samples)
    images = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    how = f"; {linked} images are links, so a change to one changes the original" if linked else ""
    return f"wrote {output}: {FORMAT_NAMES[to]}, {images} images with {objects} objects, split: {dataset.split_rule}{how}"


def _losses(dataset: Dataset, to: Format, splits: dict[str, NamedSamples]) -> list[str]:
    """Return a line for each kind of thing that is not as it was in the source."""
    named = [pair for pairs in splits.values() for pair in pairs]
    samples = [sample for _, sample in named]
    renamed = sum(name != sample.path.name for name, sample in named)
    lines = [f"{what}: {count}" for what, count in dataset.cleaned.items()]
    lines += [f"images renamed, since names clash or the format misreads them: {renamed}"] if renamed else []
    if to == "yolo" and (crowds := sum(int(sample.crowd.sum()) for sample in samples)):
        lines.append(f"crowd boxes left out, for which YOLO has no mark: {crowds}")
    if to != "coco" and (segments := sum(_own_areas(sample) for sample in samples)):
        lines.append(f"areas of segments left out, the boxes' areas count in their place: {segments}")
    if to == "voc":
        lines += _class_losses(dataset.classes, samples)
    return lines


def _own_areas(sample: Sample) -> int:
    """Return how many objects state another area than their box has."""
    return int((~np.isclose(sample.areas, area(sample.boxes), rtol=1e-4)).sum())


def _class_losses(classes: Sequence[str], samples: Sequence[Sample]) -> list[str]:
    kept = [classes[index] for index in sorted({int(kind) for sample in samples for kind in sample.classes})]
    lines = []
    if absent := len(classes) - len(kept):
        lines.append(f"classes without objects left out, since Pascal VOC lists none: {absent}")
    if kept != sorted(kept):
        lines.append("classes are numbered by the alphabet now, since Pascal VOC lists none")
    return lines
