"""Everything that is wrong with a labelled folder, where reading it for training stops at the first, and what of it can be used."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from retinanet_edge.runtime.dataset import Sample, make_sample, read_image
from retinanet_edge.runtime.dataset_formats import find_reader
from retinanet_edge.runtime.dataset_labels import Format, Labels
from retinanet_edge.runtime.dataset_split import Divided, divide
from retinanet_edge.runtime.errors import DatasetError
from retinanet_edge.runtime.progress import Progress, track

Place = tuple[str, Sample]  # split, sample


@dataclass(frozen=True)
class CheckedDataset:
    """A labelled folder, looked through.

    splits: the usable samples by split. cleaned: as in Dataset. problems: a line for each thing for which `read_dataset` or training would
    stop. alike: groups of two images and more that hold the same pixels.
    """

    root: Path
    format: Format
    classes: tuple[str, ...]
    splits: dict[str, tuple[Sample, ...]]
    split_rule: str
    cleaned: dict[str, int]
    problems: tuple[str, ...]
    alike: tuple[tuple[Place, ...], ...]

    @property
    def leaks(self) -> tuple[tuple[Place, ...], ...]:
        """The groups of `alike` that stand in more than one split: what is measured on them was learnt by heart."""
        return tuple(group for group in self.alike if len({split for split, _ in group}) > 1)


def check_dataset(root: Path) -> CheckedDataset:
    """Read a labelled folder as `read_dataset` does, decode every image, and collect what is broken.

    Raises DatasetError where there is nothing to check: no format, no JSON, no class names.
    """
    problems: list[str] = []
    try:
        labels = find_reader(root)(report=lambda error: problems.append(str(error)))
    except DatasetError as error:
        raise DatasetError(f"{error}; nothing behind it was checked: mend this first, then run the same again") from None
    divided, rule = _divide(labels, root, problems)
    counts: Counter[str] = Counter()
    index = {name: number for number, name in enumerate(labels.classes)}
    read = {split: _read_samples(split, divided, index, counts, problems) for split in divided}
    alike = _decode(read, problems)
    problems += [
        f"{root} must have at least one object on its {split} images, got {len(samples)} usable ones without any"
        for split, samples in read.items()
        if split in ("train", "val") and not any((~sample.crowd).any() for sample in samples)
    ]
    cleaned = {what: count for what, count in counts.items() if count}
    splits = {split: tuple(samples) for split, samples in read.items() if samples}
    return CheckedDataset(root, labels.format, labels.classes, splits, rule, cleaned, tuple(problems), alike)


def _divide(labels: Labels, root: Path, problems: list[str]) -> tuple[Divided, str]:
    try:
        return divide(labels.splits, root)
    except DatasetError as error:
        problems.append(str(error))
        return labels.splits, "none that training can use"


def _read_samples(split: str, divided: Divided, index: dict[str, int], counts: Counter[str], problems: list[str]) -> list[Sample]:
    samples = []
    for image in track(sorted(divided[split], key=lambda image: image.name), f"reading {split} images"):
        try:
            samples.append(make_sample(image, index, counts))
        except (DatasetError, PermissionError) as error:
            problems.append(str(error))
    return samples


def _decode(read: dict[str, list[Sample]], problems: list[str]) -> tuple[tuple[Place, ...], ...]:
    """Return the groups of images with the same pixels, and take out of `read` those that do not decode."""
    groups: defaultdict[bytes, list[Place]] = defaultdict(list)
    for split, samples in read.items():
        whole = []
        for sample, found in zip(samples, _digests(samples, f"decoding {split} images"), strict=True):
            if isinstance(found, DatasetError):
                problems.append(str(found))
            else:
                whole.append(sample)
                groups[found].append((split, sample))
        read[split] = whole
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _digests(samples: Sequence[Sample], description: str) -> Iterator[bytes | DatasetError]:
    """Yield for each image what `_digest` returns, from several threads: decoding and hashing leave the interpreter to others."""
    pool = ThreadPoolExecutor()
    try:
        with Progress(description, len(samples)) as progress:
            for found in pool.map(_digest, samples):
                progress.advance()
                yield found
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest


def _digest(sample: Sample) -> bytes | DatasetError:
    """Return a hash of the pixels, the same for files that differ in compression without loss or in metadata alone."""
    try:
        image = read_image(sample)
    except DatasetError as error:
        return error
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()
