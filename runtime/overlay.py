"""Lines and zones with their counts, and the trails of tracked things, on a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.draw import Color, class_color, draw_text, line_width
from retinanet_edge.runtime.region_counter import RegionCounts
from retinanet_edge.runtime.trails import Trail

_REGION_COLOR: Color = (255, 255, 255)
_ZONE_TINT = 0.2  # how much of the zone's colour covers the picture
_ARROW = 0.06  # of the picture's shorter side


@dataclass(frozen=True, eq=False)
class Overlay:
    """What lies between a frame and the boxes drawn on it; a copy of what is known, so that any thread may draw it, whenever.

    trails: with the class of each. counts: as RegionCounter.counts has them. outlines: region -> points [n, 2], pixels of the frame.
    """

    trails: tuple[tuple[Trail, int], ...] = ()
    counts: RegionCounts = field(default_factory=dict)
    outlines: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __call__(self, image: NDArray[np.uint8]) -> None:
        """Draw on the frame uint8 [H, W, 3] BGR, in place."""
        for name, counts in self.counts.get("zones", {}).items():
            _draw_zone(image, self.outlines[name], f"{name}: {_total(counts['inside'])} inside, {_total(counts['entered'])} in all")
        for name, counts in self.counts.get("lines", {}).items():
            _draw_line(image, self.outlines[name], f"{name}: {_total(counts['in'])} in, {_total(counts['out'])} out")
        for trail, class_index in self.trails:
            _draw_trail(image, trail, class_color(class_index))


def _total(counts: object) -> int:
    assert isinstance(counts, dict)
    return sum(counts.values())


def _draw_zone(image: NDArray[np.uint8], corners: NDArray[np.float64], label: str) -> None:
    import cv2

    polygon = np.round(corners).astype(np.int32)
    left, top = polygon.min(axis=0)
    right, bottom = polygon.max(axis=0) + 1
    part = image[top:bottom, left:right]
    tinted = part.copy()
    cv2.fillPoly(tinted, [polygon - (left, top)], _REGION_COLOR)
    part[:] = cv2.addWeighted(tinted, _ZONE_TINT, part, 1 - _ZONE_TINT, 0)
    cv2.polylines(image, [polygon], True, _REGION_COLOR, line_width(image), cv2.LINE_AA)
    draw_text(image, label, (int(left), int(top)), _REGION_COLOR)


def _draw_line(image: NDArray[np.uint8], ends: NDArray[np.float64], label: str) -> None:
    """The arrow in its middle shows where "in" is: to the right for who walks along the line."""
    import cv2

    start, end = ends
    along = (end - start) / np.hypot(*(end - start))
    middle = (start + end) / 2
    tip = middle + np.array([-along[1], along[0]]) * _ARROW * min(image.shape[:2])
    points = [tuple(int(value) for value in np.round(point)) for point in (start, end, middle, tip)]
    cv2.line(image, points[0], points[1], _REGION_COLOR, line_width(image), cv2.LINE_AA)
    cv2.arrowedLine(image, points[2], points[3], _REGION_COLOR, line_width(image), cv2.LINE_AA, tipLength=0.4)
    draw_text(image, label, (points[0][0], points[0][1]), _REGION_COLOR)


def _draw_trail(image: NDArray[np.uint8], trail: Trail, color: Color) -> None:
    import cv2

    if len(trail) > 1:
        points = np.array(trail)[:, 1:].round().astype(np.int32)
        cv2.polylines(image, [points], False, color, line_width(image), cv2.LINE_AA)
