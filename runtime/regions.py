"""Lines to cross and zones to be in: what a user writes, checked, and as pixels of a frame.

    --line "gate=100,400,900,400"            from x1,y1 to x2,y2, in pixels of the camera's first frame
    --line "gate=0.1,0.5,0.9,0.5"            the same as fractions of width and height: when all values are at most 1
    --zone "yard@front=0,0,0.5,0,0.5,1,0,1"  the corners of a polygon, for the camera called front alone

A region stays where it is in the picture when a camera changes its size. "In" is across a line from its left to its right for somebody
who walks from its first point to its second: downward in the picture where a line is drawn from left to right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.errors import UserInputError

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line from points[0] to points[1], (x, y) each. camera: None for every camera. Raises UserInputError where it is none."""

    name: str
    points: tuple[Point, ...]
    camera: str | None = None

    def __post_init__(self) -> None:
        """Check the points."""
        _check_points(self.name, self.points)
        if len(self.points) != 2 or self.points[0] == self.points[1]:
            raise UserInputError(f"line {self.name} must have two different points x1,y1,x2,y2, got {_written(self.points)}")


@dataclass(frozen=True)
class Zone:
    """A polygon with the corners `points`, (x, y) each. camera: None for every camera. Raises UserInputError where it is none."""

    name: str
    points: tuple[Point, ...]
    camera: str | None = None

    def __post_init__(self) -> None:
        """Check that the corners enclose something, once."""
        _check_points(self.name, self.points)
        if len(self.points) < 3:
            raise UserInputError(f"zone {self.name} must have at least three corners x1,y1,x2,y2,x3,y3, got {_written(self.points)}")
        if _crosses_itself(self.points):
            raise UserInputError(f"zone {self.name} must have sides that do not touch each other, got {_written(self.points)}")


Region = TypeVar("Region", Line, Zone)


def parse_lines(texts: Iterable[str]) -> tuple[Line, ...]:
    """Return the lines of such texts. Raises UserInputError for what is none."""
    return tuple(_parsed(text, "--line", Line) for text in texts)


def parse_zones(texts: Iterable[str]) -> tuple[Zone, ...]:
    """Return the zones of such texts. Raises UserInputError for what is none."""
    return tuple(_parsed(text, "--zone", Zone) for text in texts)


def of_camera(regions: Sequence[Region], camera: str) -> tuple[Region, ...]:
    """Return those of the regions that are for this camera."""
    return tuple(region for region in regions if region.camera in (None, camera))


def check_regions(lines: Sequence[Line], zones: Sequence[Zone], cameras: Collection[str]) -> None:
    """Raise UserInputError where two regions of a camera have one name, or a region is for none of the cameras."""
    regions: list[Line | Zone] = [*lines, *zones]
    for region in regions:
        if region.camera is not None and region.camera not in cameras:
            raise UserInputError(f"{region.name} must be for one of the cameras {', '.join(cameras)}, got {region.camera}")
    for camera in cameras:
        check_names([region for region in regions if region.camera in (None, camera)])


def check_names(regions: Sequence[Line | Zone]) -> None:
    """Raise UserInputError where two regions have one name: events and counts could not be told apart."""
    names = [region.name for region in regions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserInputError(f"lines and zones must have different names, got {', '.join(twice)} twice: rename one")


def fractions(region: Line | Zone, height: int, width: int) -> NDArray[np.float64]:
    """Return the points [n, 2] as fractions of a frame of this size. Raises UserInputError where one is outside."""
    points = np.array(region.points)
    if points.max() > 1:
        points = points / (width, height)
    if points.max() > 1:
        raise UserInputError(f"{region.name} must be inside the frame of {width}x{height} pixels, got {_written(region.points)}")
    return points


def _parsed(text: str, flag: str, kind: Callable[[str, tuple[Point, ...], str | None], Region]) -> Region:
    left, _, right = text.rpartition("=")
    name, at, camera = (part.strip() for part in left.partition("@"))
    try:
        values = [float(value) for value in right.split(",")]
    except ValueError:
        values = []
    if not name or (at and not camera) or not values or len(values) % 2:
        raise UserInputError(f"{flag} must be NAME=x1,y1,x2,y2,... or NAME@CAMERA=x1,y1,x2,y2,..., got {text!r}")
    return kind(name, tuple(zip(values[::2], values[1::2], strict=True)), camera or None)


def _check_points(name: str, points: Sequence[Point]) -> None:
    if not all(0 <= value < math.inf for point in points for value in point):
        raise UserInputError(f"{name} must have points inside the frame, from 0 on, got {_written(points)}")


def _written(points: Sequence[Point]) -> str:
    return ",".join(f"{value:g}" for point in points for value in point)


def _crosses_itself(corners: Sequence[Point]) -> bool:
    """Whether any two sides have a point in common, other than neighbours their corner."""
    count = len(corners)
    sides = [(corners[index], corners[(index + 1) % count]) for index in range(count)]
    for first in range(count):
        start, end = sides[first]
        next_end = sides[(first + 1) % count][1]
        if start == end or (_turn(start, end, next_end) == 0 and _ahead(start, end, next_end) < 0):  # goes back on itself
            return True
        for second in range(first + 2, count - (first == 0)):
            if segments_touch(start, end, *sides[second]):
                return True
    return False


def segments_touch(start: Point, end: Point, other_start: Point, other_end: Point) -> bool:
    """Whether two segments have a point in common (Cormen et al., Introduction to Algorithms, 33.1)."""
    turns = _turn(start, end, other_start), _turn(start, end, other_end)
    other_turns = _turn(other_start, other_end, start), _turn(other_start, other_end, end)
    if turns[0] * turns[1] < 0 and other_turns[0] * other_turns[1] < 0:
        return True
    touching = ((turns[0], start, end, other_start), (turns[1], start, end, other_end),
                (other_turns[0], other_start, other_end, start), (other_turns[1], other_start, other_end, end))  # fmt: skip
    return any(turn == 0 and _between(*points) for turn, *points in touching)


def _turn(start: Point, end: Point, point: Point) -> float:
    """Return twice the area of the triangle: positive where `point` is to the right of start -> end, as seen in the picture."""
    return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])


def _ahead(start: Point, corner: Point, end: Point) -> float:
    return (corner[0] - start[0]) * (end[0] - corner[0]) + (corner[1] - start[1]) * (end[1] - corner[1])


def _between(start: Point, end: Point, point: Point) -> bool:
    """Whether `point`, on the line through both, is between them."""
    return all(min(a, b) <= value <= max(a, b) for a, b, value in zip(start, end, point, strict=True))
