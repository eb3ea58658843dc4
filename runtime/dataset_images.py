"""Image files of a data set: their sizes from the header alone, whether they are whole, and their pixels."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.errors import DatasetError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # what Pillow opens and every build of OpenCV decodes
_MAX_PIXELS = 100_000_000  # a frame that takes 300 MB: a mistake in a detection data set, and a danger to every worker
_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_TAIL = 64  # bytes; where the end marker of a whole file is looked for first


@dataclass(frozen=True)
class ImageHeader:
    """Sizes (width, height) in pixels: as stored, and as shown when the EXIF orientation is followed."""

    stored: tuple[int, int]
    oriented: tuple[int, int]


def read_header(path: Path) -> ImageHeader:
    """Return the sizes of an image without decoding it.

    Raises DatasetError where the file is empty, no image, too large, or cut off before its end marker.
    """
    from PIL import Image

    if path.stat().st_size == 0:
        raise DatasetError(f"image {path} must hold an image, got an empty file: replace it or remove its labels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings about large images and odd metadata
            with Image.open(path, formats=_FORMATS) as image:
                stored, kind, turned = image.size, image.format or "", _is_turned(image)
    except Image.DecompressionBombError:
        raise DatasetError(_too_large(path, "more than Pillow opens")) from None
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, PermissionError):
            raise
        raise DatasetError(f"image {path} must be an image, got a file that is none or is corrupt: replace it") from None
    if stored[0] * stored[1] > _MAX_PIXELS:
        raise DatasetError(_too_large(path, f"{stored[0]}x{stored[1]}"))
    if _is_cut_off(path, kind):
        raise DatasetError(f"image {path} must be whole, got a file that ends before the image does: replace it")
    return ImageHeader(stored, stored[::-1] if turned else stored)


def read_image_file(path: Path, *, oriented: bool = True) -> NDArray[np.uint8]:
    """Return an image as uint8 [h, w, 3] BGR, turned as EXIF says if `oriented`. Raises DatasetError where it does not decode."""
    import cv2

    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise DatasetError(f"image {path} does not exist: complete the data set") from None
    flags = cv2.IMREAD_COLOR if oriented else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image: NDArray[np.uint8] | None = cv2.imdecode(data, flags)
    except cv2.error:  # an empty file, or a size that OpenCV refuses
        image = None
    if image is None:
        raise DatasetError(f"image {path} must decode, got a file that is no image or is corrupt: replace it")
    return image


def _too_large(path: Path, found: str) -> str:
    return f"image {path} must have at most {_MAX_PIXELS // 1_000_000} megapixels, got {found}: make it smaller"


def _is_turned(image: Any) -> bool:
    if image.format not in ("JPEG", "MPO"):  # OpenCV's versions differ on the EXIF data of others: taken as stored
        return False
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1) in _TURNED
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, IndexError):  # broken EXIF data turn nothing
        return False


def _is_cut_off(path: Path, kind: str) -> bool:
    """Whether a JPEG or PNG lacks its end, which decoders would fill with grey.

    JPEG: scans escape 0xFF, so an end-of-image marker after the last start-of-scan marker is the real one; that of a thumbnail in
    the metadata stands before it.
    """
    if kind not in ("JPEG", "MPO", "PNG"):
        return False
    end = b"IEND" if kind == "PNG" else b"\xff\xd9"
    with path.open("rb") as stream:
        stream.seek(-min(_TAIL, path.stat().st_size), os.SEEK_END)
        if end in stream.read():
            return False
        stream.seek(0)
        data = stream.read()
    return data.rfind(end) < 0 if kind == "PNG" else data.rfind(end) <= data.rfind(b"\xff\xda")
