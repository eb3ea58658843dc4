"""Generated scenes: an endless video of things that move before a textured background, with the true boxes.

It is the demo's data and its camera. Everything in a frame is a closed form of the scene's seed and the frame's index, so that any
frame can be asked for at any time. Things cross the picture on lanes; each crossing brings a new one, of any class and colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.scene_background import Light, Pan, make_background, make_foreground
from retinanet_edge.runtime.scene_objects import CLASSES, Placed, fill, random_palette

# Scene seeds come in blocks: block 0 is for cameras, block 1 + seed for the data set of a seed (scene_dataset.py), so that the
# demo camera, which begins with one scene and goes on with the next ones, shows what no model has seen.
SEEDS_A_BLOCK = 100_000
DEMO_CAMERA_SEED = 5

_SMALLEST, _LARGEST = 0.14, 0.31  # longer side of a thing over the shorter side of the picture, in the middle of its swing
_SIZE_SWING = 0.25  # it becomes that much larger and smaller on its way
_MARGIN = 0.28  # of the shorter side: how far outside the picture a crossing begins, enough to hide the largest thing
_FRAMES_A_CROSSING = (170.0, 420.0)
_VISIBLE = 0.35  # share of a thing that must be seen for it to have a box
_SMALLEST_BOX = 0.05  # of the shorter side; a box thinner than that, at the border, is none
_TAU = 2 * np.pi
_VERTICAL = CLASSES.index("balloon")  # balloons rise, the others cross from side to side


@dataclass(frozen=True)
class _Lane:
    """A way through the picture. across: where, 0..1 of the picture. forward: left to right. start: 0..1, at frame 0."""

    across: float
    frames: float
    forward: bool
    start: float


class SceneVideo:
    """An endless video of one scene of `seed`, height x width pixels."""

    def __init__(self, seed: int = 0, height: int = 256, width: int = 256) -> None:
        self._seed, self._height, self._width = seed, height, width
        rng = np.random.default_rng(seed)
        self._background, self._pan = make_background(rng, height, width), Pan.random(rng)
        self._foreground = make_foreground(rng, height, width)
        self._light = Light.random(rng, height, width)
        count = int(rng.integers(4, 8))
        self._lanes = [
            _Lane((number + rng.uniform(0.1, 0.9)) / count, rng.uniform(*_FRAMES_A_CROSSING), rng.random() < 0.5, rng.random())
            for number in rng.permutation(count)
        ]

    def frame(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
        """Return image uint8 [H, W, 3] BGR, boxes float32 [n, 4] xyxy in its pixels and classes int64 [n] of frame `index` (from 0).

        A box spans all of a thing that is inside the picture, hidden parts too. Things of which less than 35% are seen have none.
        """
        image = self._pan.cut(self._background, index, self._height, self._width)
        things = [self._thing(number, lane, index) for number, lane in enumerate(self._lanes)]
        owners = np.zeros(image.shape[:2], np.uint8)  # 0: nothing; i + 1: thing i is seen here
        for number, thing in enumerate(things):
            thing.draw(image)
            thing.stamp(owners, number + 1)
        for points, color in self._foreground:
            fill(image, points, color)
            fill(owners, points, 0, 8)
        boxes, classes = label_things(things, owners)
        return self._light.apply(image, index), boxes, classes

    def _thing(self, number: int, lane: _Lane, index: int) -> Placed:
        crossing, way = divmod(index / lane.frames + lane.start, 1)
        rng = np.random.default_rng((self._seed, number, int(crossing)))
        class_index, palette = int(rng.integers(len(CLASSES))), random_palette(rng)
        waves, phases = rng.uniform(0.5, 1.5, 3), rng.uniform(0, _TAU, 3)
        size_wave, turn_wave, side_wave = np.sin(_TAU * waves * way + phases)
        side = min(self._height, self._width)
        size = np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST))) * side * (1 + _SIZE_SWING * size_wave)
        stretch = rng.uniform(0.82, 1.0, 2) * size / 2
        turn = np.radians(rng.uniform(-8, 8) + 14 * turn_wave)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        facing = np.array([stretch[0] if lane.forward else -stretch[0], stretch[1]])
        centre = self._centre(lane, way, lane.across + 0.05 * side_wave, side, rising=class_index == _VERTICAL)
        return Placed(class_index, np.column_stack([rotation * facing, centre]), palette)

    def _centre(self, lane: _Lane, way: float, across: float, side: int, *, rising: bool) -> tuple[float, float]:
        """Return the pixel (x, y) of a thing that has come `way` (0..1) along its lane."""
        length, breadth = (self._height, self._width) if rising else (self._width, self._height)
        along = (way if lane.forward and not rising else 1 - way) * (length + 2 * _MARGIN * side) - _MARGIN * side
        return (across * breadth, along) if rising else (along, across * breadth)


def label_things(things: Sequence[Placed], owners: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return boxes float32 [n, 4] xyxy and classes int64 [n] of the things, one or more, that are seen well enough.

    owners: uint8 [H, W], i + 1 where thing i is seen, 0 where none is.
    """
    height, width = owners.shape
    seen = np.bincount(owners.ravel(), minlength=len(things) + 1)[1:]
    boxes = np.array([np.clip(thing.extent, 0, [width, height] * 2) for thing in things], np.float32)
    areas = np.array([thing.area for thing in things])
    thin = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) < _SMALLEST_BOX * min(height, width)
    labelled = (seen >= _VISIBLE * areas) & ~thin
    return boxes[labelled], np.array([thing.class_index for thing in things], np.int64)[labelled]
