"""What stands behind and before the things of a generated scene, and the light on all of it.

Textures are made once for a scene, larger than a frame; each frame cuts its part out of them, moved a little further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.scene_objects import Color, fill

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

_ROOM = 1.3  # a texture's side over the frame's: what the camera may pan over
_TAU = 2 * np.pi


@dataclass(frozen=True)
class Pan:
    """A slow closed path over a texture: in x and y one sine each. periods in frames, phases in radians."""

    periods: tuple[float, float]
    phases: tuple[float, float]

    @classmethod
    def random(cls, rng: np.random.Generator) -> Pan:
        """Return a path that takes 15 to 40 seconds at 25 frames per second."""
        periods, phases = rng.uniform(375, 1000, 2), rng.uniform(0, _TAU, 2)
        return cls((float(periods[0]), float(periods[1])), (float(phases[0]), float(phases[1])))

    def cut(self, texture: Image, index: int, height: int, width: int) -> Image:
        """Return the part uint8 [height, width, ...] of `texture` that frame `index` sees, at subpixel accuracy."""
        x, y = (0.5 + 0.5 * np.sin(_TAU * index / period + phase) for period, phase in zip(self.periods, self.phases, strict=True))
        centre = (x * (texture.shape[1] - width) + (width - 1) / 2, y * (texture.shape[0] - height) + (height - 1) / 2)
        return cast(Image, cv2.getRectSubPix(texture, (width, height), centre))


def make_background(rng: np.random.Generator, height: int, width: int) -> Image:
    """Return a texture uint8 BGR for frames of height x width: hills, a city or a pattern, with clutter on it."""
    tall, wide = round(height * _ROOM), round(width * _ROOM)
    paint = (_hills, _hills, _city, _pattern)[rng.integers(4)]
    return paint(rng, tall, wide)


def make_foreground(rng: np.random.Generator, height: int, width: int) -> list[tuple[NDArray[np.float64], Color]]:
    """Return what hides things behind it, as polygons [V, 2] in pixels with a colour: nothing, thin poles, or a twig with leaves."""
    side, kind = min(height, width), rng.integers(4)
    if kind == 0:
        return [_pole(rng, height, width, side) for _ in range(rng.integers(1, 3))]
    if kind == 1:
        return _twig(rng, height, width, side)
    return []


@dataclass(frozen=True)
class Light:
    """The light of a scene over time. gain, gamma: mean and swing. slope: a texture of side-light, 128 is neutral."""

    gain: tuple[float, float]
    gamma: tuple[float, float]
    period: float
    phase: float
    slope: Image
    pan: Pan
    noise: Image
    noise_strength: float
    blur: float

    @classmethod
    def random(cls, rng: np.random.Generator, height: int, width: int) -> Light:
        """Return light for frames of height x width."""
        rows, columns = np.mgrid[-1:1:48j, -1:1:48j]
        direction, strength = rng.uniform(0, _TAU), rng.uniform(5, 40)
        slope = 128 + strength * np.sin(2.2 * (np.cos(direction) * columns + np.sin(direction) * rows))
        slope = cv2.resize(np.stack([slope] * 3, axis=2), (round(width * 1.8), round(height * 1.8)))
        return cls(
            gain=(rng.uniform(0.88, 1.15), rng.uniform(0.03, 0.14)), gamma=(rng.uniform(0.75, 1.1), rng.uniform(0.02, 0.12)),
            period=rng.uniform(150, 500), phase=rng.uniform(0, _TAU),
            slope=slope.astype(np.uint8), pan=Pan.random(rng),
            noise=rng.integers(0, 256, (height + 64, width + 64, 3), np.uint8), noise_strength=rng.uniform(0.01, 0.09),
            blur=max(0.0, rng.uniform(-0.5, 0.8)),
        )  # fmt: skip

    def apply(self, image: Image, index: int) -> Image:
        """Return `image` uint8 [H, W, 3] as frame `index` shows it."""
        height, width = image.shape[:2]
        if self.blur > 0.2:
            image = cast(Image, cv2.GaussianBlur(image, (3, 3), self.blur))
        image = cast(Image, cv2.multiply(image, self.pan.cut(self.slope, index, height, width), scale=1 / 128))
        swing = np.sin(_TAU * index / self.period + self.phase)
        gain, gamma = (mean + amount * swing for mean, amount in (self.gain, self.gamma))
        table = np.clip(255 * gain * np.linspace(0, 1, 256) ** gamma, 0, 255).astype(np.uint8)
        top, left = index * 37 % 64, index * 23 % 64  # another piece of the noise each frame
        grain = self.noise[top : top + height, left : left + width]
        lit = cv2.LUT(image, table)
        return cast(Image, cv2.addWeighted(lit, 1.0, grain, self.noise_strength, -128 * self.noise_strength))


def value_noise(rng: np.random.Generator, height: int, width: int, coarsest: int = 3, octaves: int = 5) -> Floats:
    """Return noise float32 [height, width] in about -1..1: random grids, each twice as fine and half as strong as the one before."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = coarsest * 2**octave
        grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total / 1.6


def _mix(first: Floats, second: Floats, weight: Floats) -> Floats:
    """Return the mixture [H, W, 3] of two colours, or pictures, by weight [H, W]."""
    return first + (second - first) * np.clip(weight, 0, 1)[:, :, None]


_ANY_HUE = ((0.0, 180.0),)
_SKY_HUES = ((96.0, 116.0), (100.0, 120.0), (8.0, 24.0), (130.0, 165.0))  # blue, blue, dusk, dawn; OpenCV's hues, 0..180
_LAND_HUES = ((30.0, 70.0), (35.0, 60.0), (12.0, 28.0), (90.0, 115.0))  # greens, earth, water and distance
_WALL_HUES = ((5.0, 28.0), (98.0, 122.0))  # brick and sand, slate and glass


def _color(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float],
    hues: Sequence[tuple[float, float]] = _ANY_HUE,
) -> Floats:  # fmt: skip
    """Return a random colour [3] as BGR 0..255; saturation and value are ranges in 0..255."""
    hue = rng.uniform(*hues[int(rng.integers(len(hues)))])
    tone = np.array([[[hue, rng.uniform(*saturation), rng.uniform(*value)]]]).round().astype(np.uint8)
    color: Image = cv2.cvtColor(tone, cv2.COLOR_HSV2BGR)[0, 0]
    return color.astype(np.float32)


def _sky(rng: np.random.Generator, height: int, width: int) -> Floats:
    down = np.repeat(np.linspace(0, 1, height, dtype=np.float32)[:, None], width, axis=1)
    sky = _mix(_color(rng, (60, 150), (150, 240), _SKY_HUES), _color(rng, (10, 90), (200, 252), _SKY_HUES), down)
    clouds = np.clip(value_noise(rng, height, width) * 1.5 + rng.uniform(-0.5, 0.3), 0, 1) * rng.uniform(0.2, 0.8)
    return _mix(sky, np.full(3, rng.uniform(200, 250), np.float32), clouds)


def _hills(rng: np.random.Generator, height: int, width: int) -> Image:
    """Paint ranges of hills or waves under a clouded sky, nearer ones darker and more textured."""
    image = _sky(rng, height, width)
    rows, ranges = np.arange(height, dtype=np.float32)[:, None], rng.integers(2, 5)
    far, near = _color(rng, (30, 100), (140, 220), _LAND_HUES), _color(rng, (60, 150), (80, 180), _LAND_HUES)
    for number in range(ranges):
        ridge = value_noise(rng, 1, width, coarsest=2, octaves=4)[0] * height * rng.uniform(0.05, 0.16)
        edge = height * (0.3 + 0.6 * (number + rng.uniform(0, 0.7)) / ranges) + ridge
        depth = np.full((height, width), (number + 1) / ranges, np.float32)
        rough = value_noise(rng, height, width, coarsest=6)
        surface = _mix(far, near, depth) * (1 + rng.uniform(0.1, 0.3) * rough)[:, :, None]
        image = _mix(image, surface, np.clip(rows - edge, 0, 1))
    return _finish(image)


def _city(rng: np.random.Generator, height: int, width: int) -> Image:
    """Paint rows of houses with windows under a sky."""
    image = _finish(_sky(rng, height, width))
    side = min(height, width)
    for base in np.linspace(0.62, 1.05, 3) * height:
        left, tone = -rng.uniform(0, 0.1) * side, _color(rng, (10, 110), (80, 210), _WALL_HUES)
        while left < width:
            wide, tall = rng.uniform(0.1, 0.24) * side, rng.uniform(0.15, 0.5) * side
            _house(rng, image, (left, base - tall, left + wide, float(height)), tone * rng.uniform(0.75, 1.2))
            left += wide * rng.uniform(1.0, 1.25)
    shading = 1 + 0.12 * value_noise(rng, height, width, coarsest=6)
    return _finish(image * shading[:, :, None])


def _house(rng: np.random.Generator, image: Image, xyxy: tuple[float, float, float, float], tone: Floats) -> None:
    left, top, right, bottom = map(round, xyxy)
    wall, pane = _as_color(tone), _as_color(tone * rng.choice([0.6, 1.35]))
    cv2.rectangle(image, (left, top), (right, bottom), wall, cv2.FILLED)
    step = max(4, round((right - left) / rng.integers(3, 6)))
    for x in range(left + step // 3, right - step // 2, step):
        for y in range(top + step // 2, min(bottom, image.shape[0]), round(step * 1.3)):
            cv2.rectangle(image, (x, y), (x + step // 2, y + step // 2), pane, cv2.FILLED)


def _pattern(rng: np.random.Generator, height: int, width: int) -> Image:
    """Paint two-coloured noise with a grid or loose strokes and patches on it."""
    noise = value_noise(rng, height, width, coarsest=int(rng.integers(2, 8)))
    image = _finish(_mix(_color(rng, (20, 140), (60, 200)), _color(rng, (20, 140), (90, 240)), noise * 0.8 + 0.5))
    side = min(height, width)
    for _ in range(rng.integers(8, 30)):
        centre, size = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.02, 0.16, 2) * side
        corners = cv2.boxPoints((tuple(map(float, centre)), tuple(map(float, size)), float(rng.uniform(0, 90))))
        fill(image, corners.astype(np.float64), _as_color(_color(rng, (20, 160), (60, 240))))
    for _ in range(rng.integers(0, 14)):
        start, end = (tuple(map(int, rng.uniform(0, 1, 2) * (width, height))) for _ in range(2))
        cv2.line(image, start, end, _as_color(_color(rng, (10, 120), (50, 230))), max(1, round(side * 0.008)), cv2.LINE_AA)
    if rng.random() < 0.4:
        step, tone = round(side * rng.uniform(0.08, 0.2)), _as_color(_color(rng, (0, 60), (60, 220)))
        for x in range(0, width, step):
            cv2.line(image, (x, 0), (x, height), tone, 1)
        for y in range(0, height, step):
            cv2.line(image, (0, y), (width, y), tone, 1)
    return image


def _pole(rng: np.random.Generator, height: int, width: int, side: int) -> tuple[NDArray[np.float64], Color]:
    x, half, lean = rng.uniform(0.05, 0.95) * width, rng.uniform(0.01, 0.022) * side, rng.uniform(-0.06, 0.06) * side
    corners = [(x - half, 0), (x + half, 0), (x + half + lean, height), (x - half + lean, height)]
    return np.array(corners, np.float64), _as_color(_color(rng, (10, 90), (30, 120)))


def _twig(rng: np.random.Generator, height: int, width: int, side: int) -> list[tuple[NDArray[np.float64], Color]]:
    """Return leaves along a line that reaches into the picture from one side of its upper or lower border."""
    tone = _color(rng, (60, 160), (50, 130))
    reach, left, up = rng.uniform(0.25, 0.45) * side, rng.random() < 0.5, rng.random() < 0.5
    angles = np.linspace(0, _TAU, 17)
    leaf = np.stack([np.cos(angles), 0.4 * np.sin(angles) * (1 - 0.5 * np.cos(angles))], axis=1)
    leaves = []
    for along in np.linspace(0, 1, 9):
        turn, size = rng.uniform(0, _TAU), rng.uniform(0.025, 0.05) * side
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        x, y = along * reach, (1 - along) ** 2 * 0.16 * side
        centre = (x if left else width - x, y if up else height - y)
        leaves.append((size * leaf @ rotation.T + centre, _as_color(tone * rng.uniform(0.7, 1.3))))
    return leaves


def _as_color(tone: Floats) -> Color:
    blue, green, red = (round(float(value)) for value in np.clip(tone, 0, 255))
    return blue, green, red


def _finish(image: Floats) -> Image:
    return np.clip(image, 0, 255).astype(np.uint8)
