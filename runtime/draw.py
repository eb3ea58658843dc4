"""Boxes, class names, scores and track ids on a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detections import Detections

Color = tuple[int, int, int]  # BGR, 0..255

_GOLDEN_RATIO = 0.618034  # steps of it around the colour circle keep neighbouring classes far apart
_REFERENCE_SIDE = 480  # shorter side at which lines are 2 pixels wide and text has scale 0.5


def draw_detections(
    image: NDArray[np.uint8],
    detections: Detections,
    class_names: Sequence[str],
    track_ids: NDArray[np.int64] | None = None,
    overlay: Callable[[NDArray[np.uint8]], None] | None = None,
) -> NDArray[np.uint8]:
    """Return a copy of `image` uint8 [H, W, 3] BGR with the detections, boxes in its pixels, drawn on it.

    Lines and text grow with the picture; the best score is drawn last, over the others. track_ids [M]: shown where they are not -1.
    overlay: draws, in place, what lies under the boxes (overlay.py).
    """
    drawn = image.copy()
    if overlay is not None:
        overlay(drawn)
    for index in reversed(range(len(detections))):
        class_index = int(detections.classes[index])
        track = f"#{track_ids[index]} " if track_ids is not None and track_ids[index] >= 0 else ""
        label = f"{track}{class_names[class_index]} {detections.scores[index]:.2f}"
        draw_box(drawn, detections.xyxy[index], label, class_color(class_index))
    return drawn


def class_color(index: int) -> Color:
    """Return the colour of a class as BGR, 0..255; always the same one."""
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.85 if index % 2 else 0.65, 1.0)
    return round(blue * 255), round(green * 255), round(red * 255)


def draw_box(image: NDArray[np.uint8], box: NDArray[Any], label: str, color: Color) -> None:
    """Draw an xyxy box [4] on `image`, in place, with its label above, if it has one."""
    import cv2

    left, top, right, bottom = (int(value) for value in np.round(box))
    cv2.rectangle(image, (left, top), (right, bottom), color, line_width(image))
    if label:
        draw_text(image, label, (left, top), color)


def draw_text(image: NDArray[np.uint8], text: str, above: tuple[int, int], color: Color) -> None:
    """Write `text` on `image`, in place, on a ground of `color` whose lower left corner is the pixel `above` (x, y) or near it."""
    import cv2

    line, scale = line_width(image), max(0.35, 0.5 * _relative_size(image))
    (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, line)
    left = max(0, min(above[0], image.shape[1] - width))  # it stays in the picture, even where its box touches the border
    text_bottom = max(above[1] - baseline, height + line)
    cv2.rectangle(image, (left, text_bottom - height - line), (left + width, text_bottom + baseline), color, cv2.FILLED)
    text_color = (0, 0, 0) if _luminance(color) > 128 else (255, 255, 255)
    cv2.putText(image, text, (left, text_bottom), cv2.FONT_HERSHEY_SIMPLEX, scale, text_color, max(1, line // 2), cv2.LINE_AA)


def line_width(image: NDArray[np.uint8]) -> int:
    """Return the pixels of a line that looks alike on pictures of any size."""
    return max(1, round(2 * _relative_size(image)))


def _relative_size(image: NDArray[np.uint8]) -> float:
    return float(min(image.shape[:2])) / _REFERENCE_SIDE


def _luminance(color: Color) -> float:
    blue, green, red = color
    return 0.114 * blue + 0.587 * green + 0.299 * red  # ITU-R BT.601
