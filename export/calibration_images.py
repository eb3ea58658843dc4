"""Which images INT8 ranges are measured on: a seeded choice of the training split or of a folder, as the network will see them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.dataset import Sample, read_image
from retinanet_edge.runtime.dataset_images import IMAGE_SUFFIXES, read_header, read_image_file
from retinanet_edge.runtime.errors import DatasetError, UserInputError
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.model_card import InputSpec
from retinanet_edge.runtime.progress import track

Frame = Callable[[], NDArray[np.uint8]]

_NAMED = 5  # unusable files in a message


class CalibrationImages(Sequence[NDArray[np.uint8]]):
    """Letterboxed images uint8 [H, W, 3] BGR, read whenever they are asked for: two thousand take no more memory than one."""

    def __init__(self, frames: Sequence[Frame], spec: InputSpec) -> None:
        self._frames = tuple(frames)
        self._spec = spec

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> CalibrationImages: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | CalibrationImages:
        """Read one image, or take some of them. Raises DatasetError where an image does not decode."""
        if isinstance(index, slice):
            return CalibrationImages(self._frames[index], self._spec)
        frame = self._frames[index]()
        height, width = frame.shape[:2]
        return Letterbox(height, width, self._spec.height, self._spec.width).apply(frame)

    def sha256(self) -> str:
        """Read all images; return a hash over their pixels, in order. Raises DatasetError where one does not decode."""
        digest = hashlib.sha256()
        for image in track(self, "reading calibration images"):
            digest.update(image.tobytes())
        return digest.hexdigest()


def choose_images(source: Sequence[Sample] | Path, spec: InputSpec, count: int, seed: int) -> CalibrationImages:
    """Return `count` images drawn at random of a split's samples or of a folder with all below it; all, and a line, of fewer.

    The first n of more are those that a choice of n with the same seed gives. Raises UserInputError for a folder without images,
    DatasetError, naming them, where some of its files cannot be used.
    """
    frames = _frames_of_folder(source) if isinstance(source, Path) else [functools.partial(read_image, sample) for sample in source]
    if len(frames) < count:
        print(f"{count} images to calibrate on were asked for, {len(frames)} are there: using all", flush=True)
    order = np.random.default_rng(seed).permutation(len(frames))[:count]
    return CalibrationImages([frames[index] for index in order.tolist()], spec)


def _frames_of_folder(folder: Path) -> list[Frame]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    if not paths:
        found = "one without" if folder.is_dir() else "a file" if folder.exists() else "nothing there"
        raise UserInputError(f"--calibration must be a folder with images ({' '.join(sorted(IMAGE_SUFFIXES))}), got {found}: {folder}")
    _check_headers(paths, folder)
    return [functools.partial(read_image_file, path) for path in paths]


def _check_headers(paths: Sequence[Path], folder: Path) -> None:
    """Raise DatasetError where a file is no image or only a part of one, which would decode with its rest in grey."""
    complaints: dict[Path, DatasetError] = {}
    for path in track(paths, "checking calibration images"):
        try:
            read_header(path)
        except DatasetError as error:
            complaints[path] = error
    if len(complaints) == 1:
        raise next(iter(complaints.values()))
    if complaints:
        named = ", ".join(str(path.relative_to(folder)) for path in list(complaints)[:_NAMED])
        more = f" and {len(complaints) - _NAMED} more" if len(complaints) > _NAMED else ""
        raise DatasetError(
            f"all images of --calibration {folder} must be whole, got {len(complaints)} that are not ({named}{more}): replace them"
        )
