"""File names for the images of a data set that is written anew, all in one folder or in one for each split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from retinanet_edge.runtime.dataset_images import IMAGE_SUFFIXES

_SUFFIX_OF_KIND = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif"}
_NOT_UTF8 = re.compile("[\ud800-\udfff]")  # how Python shows bytes of a file name that are no text


def name_images(paths: Sequence[Path], *, by_stem: bool, without_spaces: bool) -> list[str]:
    """Return a file name for each image of one folder: its own, changed where another has it or the format would misread it.

    by_stem: names must differ without their suffix, as where label files are named after images. without_spaces: as where lists of
    names are split at them. Names that only some file systems tell apart (A.jpg, a.jpg) are taken as one.
    """
    wanted = [_readable_name(path, without_spaces=without_spaces) for path in paths]
    return _distinct(wanted, lambda name: (PurePath(name).stem if by_stem else name).casefold())


def _readable_name(path: Path, *, without_spaces: bool) -> str:
    name = _NOT_UTF8.sub("_", path.name)
    if path.suffix.lower() not in IMAGE_SUFFIXES:  # by which readers find images
        name += _suffix_of_content(path)
    return re.sub(r"\s", "_", name) if without_spaces else name


def _suffix_of_content(path: Path) -> str:
    from PIL import Image

    with Image.open(path, formats=("JPEG", "PNG", "BMP", "WEBP", "TIFF")) as image:
        return _SUFFIX_OF_KIND[str(image.format)]


def _distinct(wanted: Sequence[str], key: Callable[[str], str]) -> list[str]:
    """Return the names; one whose key an earlier name has gets "-2", "-3" ... on its stem, none that another name has of its own."""
    own = {key(name) for name in wanted}
    uses: Counter[str] = Counter()
    given: set[str] = set()
    names: list[str] = []
    for name in wanted:
        uses[key(name)] += 1
        candidate = name
        while key(candidate) in given or (candidate != name and key(candidate) in own):
            candidate = f"{PurePath(name).stem}-{uses[key(name)]}{PurePath(name).suffix}"
            uses[key(name)] += key(candidate) in given or key(candidate) in own
        given.add(key(candidate))
        names.append(candidate)
    return names
