"""Types for argparse: what a flag takes, refused with what was expected."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return a type for whole numbers from `minimum` to `maximum`, or without end."""
    expected = f"at least {minimum}" + ("" if maximum is None else f" and at most {maximum}")

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text) or int(text) < minimum or (maximum is not None and int(text) > maximum):
            raise argparse.ArgumentTypeError(f"must be a whole number of {expected}, got {text}")
        return int(text)

    return parse


def number(minimum: float = 0.0, maximum: float = math.inf, *, positive: bool = False) -> Callable[[str], float]:
    """Return a type for numbers from `minimum` to `maximum`; with `positive`, zero is refused too."""
    expected = "positive" if positive else f"at least {minimum:g}"
    if maximum < math.inf:
        expected += f" and at most {maximum:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum or (positive and value == 0) or math.isinf(value):
            raise argparse.ArgumentTypeError(f"must be a number, {expected}, got {text}")
        return value

    return parse


def numbers(text: str) -> tuple[float, ...]:
    """Return positive numbers written with commas between them."""
    return tuple(number(positive=True)(part) for part in text.split(","))


def pair(text: str) -> tuple[float, float]:
    """Return two positive numbers, the lower first, written with a comma between them."""
    values = numbers(text)
    if len(values) != 2 or values[0] > values[1]:
        raise argparse.ArgumentTypeError(f"must be two numbers LOW,HIGH, as 0.8,1.25, got {text}")
    return values[0], values[1]


def size(text: str) -> tuple[int, int]:
    """Return (height, width) in pixels of `H` or `HxW`."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be H or HxW in pixels, as 640 or 480x640, got {text}")
    return int(found[1]), int(found[2] or found[1])


def width_and_height(text: str) -> tuple[int, int]:
    """Return (width, height) in pixels of `WxH`, as cameras are sold."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be WxH in pixels, as 1920x1080, got {text}")
    return int(found[1]), int(found[2])


def names(text: str) -> tuple[str, ...]:
    """Return names written with commas between them."""
    given = tuple(name.strip() for name in text.split(","))
    if not all(given):
        raise argparse.ArgumentTypeError(f"must be class names with commas between them, got {text!r}")
    return given
