"""The four things that move through generated scenes, as polygons, and how they are drawn.

A shape is a list of polygons in its own coordinates: the longer side spans -1 to 1, x points ahead, y down. Where a thing is in
a picture is one affine matrix, so that scale, rotation and facing cost a matrix product, and boxes come from the same vertices
that are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Color = tuple[int, int, int]  # BGR, 0..255

CLASSES: tuple[str, ...] = ("balloon", "boat", "car", "fish")

# Index of a part's colour in the palette of an instance.
_BODY, _SHADE, _ACCENT, _LIGHT, _DARK = range(5)

_SUBPIXEL_BITS = 4  # vertices are drawn at 1/16 pixel
_DRAWN_BEYOND = 0.5  # pixels: OpenCV fills whatever pixel a border touches
_AREA_SIDE = 512  # pixels at which the area of a shape is measured


@dataclass(frozen=True)
class Part:
    """One polygon [V, 2] of a shape. tone: its colour in the palette. outer: adds to the outline, is not drawn on top of it."""

    points: Floats
    tone: int
    outer: bool = False


@dataclass(frozen=True)
class Placed:
    """A thing in a picture. matrix [2, 3] takes shape coordinates to pixels, where pixel i spans i to i + 1. palette: a colour a tone."""

    class_index: int
    matrix: Floats
    palette: tuple[Color, ...]

    @property
    def extent(self) -> Floats:
        """Box xyxy of the outline as it is drawn, pixels, not clipped to any picture."""
        points = np.concatenate(self._polygons(outer=True))
        return np.concatenate([points.min(axis=0) - _DRAWN_BEYOND, points.max(axis=0) + _DRAWN_BEYOND])

    @property
    def area(self) -> float:
        """Pixels that the outline encloses, were all of it in the picture."""
        return _unit_area(self.class_index) * abs(float(np.linalg.det(self.matrix[:, :2])))

    def draw(self, image: NDArray[np.uint8]) -> None:
        """Paint it on `image` uint8 [H, W, 3], with smooth edges."""
        for part, points in zip(_shape(self.class_index), self._polygons(), strict=True):
            fill(image, points, self.palette[part.tone])

    def stamp(self, owners: NDArray[np.uint8], value: int) -> None:
        """Write `value` on every pixel of `owners` uint8 [H, W] that the outline encloses, with hard edges."""
        for points in self._polygons(outer=True):
            fill(owners, points, value, cv2.LINE_8)

    def _polygons(self, *, outer: bool = False) -> list[Floats]:
        parts = [part.points for part in _shape(self.class_index) if part.outer or not outer]
        moved = np.concatenate(parts) @ self.matrix[:, :2].T + self.matrix[:, 2]
        return np.split(moved, np.cumsum([len(points) for points in parts])[:-1])


def fill(image: NDArray[np.uint8], points: Floats, color: Color | int, line: int = cv2.LINE_AA) -> None:
    """Fill a polygon [V, 2] whose coordinates count from the edge of the first pixel; OpenCV counts from its centre."""
    fixed = np.round((points - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(image, [fixed], color, line, _SUBPIXEL_BITS)


def random_palette(rng: np.random.Generator) -> tuple[Color, ...]:
    """Return colours for body, shade, accent, light and dark parts. Any class may have any hue: colour does not give it away."""
    hue, saturation, value = rng.uniform(0, 180), rng.uniform(90, 235), rng.uniform(130, 245)
    accent = (hue + rng.uniform(40, 140)) % 180
    tones = [
        (hue, saturation, value), (hue, saturation, value * 0.66), (accent, rng.uniform(80, 230), rng.uniform(170, 250)),
        (hue, 18, rng.uniform(228, 250)), (accent, 60, rng.uniform(25, 60)),
    ]  # fmt: skip
    converted = cv2.cvtColor(np.array([tones], np.float64).round().astype(np.uint8), cv2.COLOR_HSV2BGR)[0]
    return tuple((int(blue), int(green), int(red)) for blue, green, red in converted)


@cache
def _unit_area(class_index: int) -> float:
    canvas = np.zeros((_AREA_SIDE, _AREA_SIDE), np.uint8)
    half = _AREA_SIDE / 2
    Placed(class_index, np.array([[half, 0, half], [0, half, half]]), ()).stamp(canvas, 1)
    return int(canvas.sum()) / half**2


@cache
def _shape(class_index: int) -> tuple[Part, ...]:
    return (_balloon, _boat, _car, _fish)[class_index]()


def _polygon(*points: tuple[float, float]) -> Floats:
    return np.array(points, np.float64)


def _ellipse(x: float, y: float, radius_x: float, radius_y: float, start: float = 0.0, end: float = 360.0) -> Floats:
    """Return points on an ellipse from angle `start` to `end`, degrees, clockwise from +x; an arc is closed by its chord."""
    angles = np.radians(np.linspace(start, end, 33))
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def _box(left: float, top: float, right: float, bottom: float) -> Floats:
    return _polygon((left, top), (right, top), (right, bottom), (left, bottom))


def _balloon() -> tuple[Part, ...]:
    """A hot-air balloon: a striped envelope over a basket on ropes."""
    heights = np.linspace(-1, 0.5, 25)
    across = np.where(heights < -0.28, np.sqrt(np.clip(1 - ((heights + 0.28) / 0.72) ** 2, 0, 1)),
                      0.22 + 0.78 * np.cos(np.clip((heights + 0.28) / 0.78, 0, 1) * np.pi / 2))  # fmt: skip

    def gore(left: float, right: float) -> Floats:
        """Return the strip of the envelope between two longitudes, -1 to 1."""
        down = np.stack([0.72 * right * across, heights], axis=1)
        return np.concatenate([down, np.stack([0.72 * left * across, heights], axis=1)[::-1]])

    return (
        Part(_polygon((-0.16, 0.45), (-0.12, 0.45), (-0.1, 0.75), (-0.14, 0.75)), _DARK, outer=True),
        Part(_polygon((0.12, 0.45), (0.16, 0.45), (0.14, 0.75), (0.1, 0.75)), _DARK, outer=True),
        Part(gore(-1, 1), _BODY, outer=True),
        Part(gore(-0.78, -0.4), _LIGHT), Part(gore(-0.14, 0.2), _ACCENT), Part(gore(0.5, 0.78), _LIGHT), Part(gore(0.78, 1), _SHADE),
        Part(_box(-0.165, 0.44, 0.165, 0.52), _SHADE, outer=True),
        Part(_polygon((-0.18, 0.72), (0.18, 0.72), (0.15, 1), (-0.15, 1)), _DARK, outer=True),
        Part(_box(-0.15, 0.78, 0.15, 0.83), _ACCENT),
    )  # fmt: skip


def _boat() -> tuple[Part, ...]:
    """A sailing boat: two sails on a mast, a hull with a stripe and portholes, a pennant."""
    hull = _polygon((-0.92, 0.55), (1, 0.48), (0.86, 0.72), (0.68, 0.94), (0.5, 1), (-0.6, 1), (-0.78, 0.9))
    return (
        Part(_box(-0.03, -0.98, 0.04, 0.6), _DARK, outer=True),
        Part(_polygon((-0.07, -0.84), (-0.07, 0.44), (-0.82, 0.44), (-0.62, 0.1), (-0.36, -0.4)), _LIGHT, outer=True),
        Part(_polygon((-0.07, 0.18), (-0.07, 0.44), (-0.82, 0.44), (-0.66, 0.18)), _ACCENT),
        Part(_polygon((-0.07, -0.84), (-0.07, -0.42), (-0.33, -0.42)), _ACCENT),
        Part(_polygon((0.09, -0.72), (0.42, -0.2), (0.74, 0.42), (0.09, 0.42)), _BODY, outer=True),
        Part(_polygon((0.09, -0.72), (0.24, -0.1), (0.3, 0.42), (0.09, 0.42)), _SHADE),
        Part(_polygon((-0.03, -1), (-0.34, -0.91), (-0.03, -0.84)), _ACCENT, outer=True),
        Part(hull, _BODY, outer=True),
        Part(_polygon((-0.78, 0.9), (0.71, 0.9), (0.68, 0.94), (0.5, 1), (-0.6, 1)), _SHADE),
        Part(_polygon((-0.92, 0.55), (1, 0.48), (0.96, 0.55), (-0.88, 0.63)), _LIGHT),
        *(Part(_ellipse(x, 0.76, 0.065, 0.065), _DARK) for x in (-0.45, -0.1, 0.25)),
    )


def _car() -> tuple[Part, ...]:
    """A car from the side: windows, door, lamps, two wheels with hubs."""
    body = _polygon((-1, -0.05), (-0.93, -0.14), (-0.72, -0.17), (-0.52, -0.52), (-0.42, -0.6), (0.22, -0.6), (0.34, -0.52),
                    (0.6, -0.16), (0.88, -0.08), (0.98, 0.04), (1, 0.3), (0.94, 0.36), (-0.94, 0.36), (-1, 0.28))  # fmt: skip
    wheels = [
        Part(_ellipse(x, 0.36, radius, radius), tone, outer)
        for x in (-0.56, 0.58)
        for radius, tone, outer in ((0.24, _DARK, True), (0.13, _LIGHT, False), (0.05, _DARK, False))
    ]
    return (
        Part(body, _BODY, outer=True),
        Part(_polygon((-1, 0.16), (1, 0.16), (1, 0.3), (0.94, 0.36), (-0.94, 0.36), (-1, 0.28)), _SHADE),
        Part(_polygon((-0.58, -0.17), (-0.42, -0.46), (-0.36, -0.5), (-0.1, -0.5), (-0.1, -0.17)), _DARK),
        Part(_polygon((-0.02, -0.5), (0.19, -0.5), (0.27, -0.45), (0.46, -0.17), (-0.02, -0.17)), _DARK),
        Part(_polygon((0.06, -0.5), (0.16, -0.5), (0.3, -0.17), (0.2, -0.17)), _LIGHT),
        Part(_polygon((-0.36, -0.5), (-0.28, -0.5), (-0.4, -0.17), (-0.48, -0.17)), _LIGHT),
        Part(_box(-0.075, -0.17, -0.045, 0.3), _SHADE), Part(_box(-0.32, -0.07, -0.14, -0.02), _DARK),
        Part(_polygon((0.82, -0.06), (0.96, 0.02), (0.97, 0.12), (0.82, 0.08)), _LIGHT), Part(_box(-1, -0.02, -0.9, 0.11), _ACCENT),
        *wheels,
    )  # fmt: skip


def _fish() -> tuple[Part, ...]:
    """A fish: a striped body, tail and fins, an eye, a gill."""

    def stripe(x: float, width: float) -> Floats:
        left, right = (np.array([x - width, x + width]) - 0.2) / 0.8
        curve = np.linspace(-1, 1, 9)
        high = [0.5 * np.sqrt(1 - side**2) for side in (left, right)]
        bulge = 0.06 * (1 - curve**2)
        first = np.stack([x - width + bulge, high[0] * curve], axis=1)
        return np.concatenate([first, np.stack([x + width + bulge, high[1] * curve], axis=1)[::-1]])

    return (
        Part(_polygon((-0.5, 0), (-0.82, -0.5), (-1, -0.55), (-0.9, -0.2), (-0.86, 0), (-0.9, 0.2), (-1, 0.55), (-0.82, 0.5)),
             _ACCENT, outer=True),
        Part(_polygon((-0.25, -0.36), (-0.2, -0.66), (0.0, -0.76), (0.36, -0.68), (0.5, -0.4)), _SHADE, outer=True),
        Part(_polygon((-0.15, 0.4), (-0.3, 0.68), (-0.05, 0.66), (0.2, 0.46)), _SHADE, outer=True),
        Part(_ellipse(0.2, 0, 0.8, 0.5), _BODY, outer=True),
        Part(_ellipse(0.2, 0, 0.8, 0.5, 25, 155), _LIGHT),
        Part(stripe(-0.28, 0.07), _ACCENT), Part(stripe(0.02, 0.07), _ACCENT), Part(stripe(0.32, 0.06), _ACCENT),
        Part(_polygon((0.2, 0.08), (-0.1, 0.0), (-0.16, 0.2), (-0.02, 0.28)), _SHADE),
        Part(_ellipse(0.68, -0.12, 0.125, 0.125), _LIGHT), Part(_ellipse(0.71, -0.12, 0.065, 0.065), _DARK),
        Part(_polygon((0.97, 0.12), (0.78, 0.17), (0.78, 0.2), (0.94, 0.17)), _DARK),
    )  # fmt: skip
