"""Boxes, class names and scores on a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detections import Detections

_GOLDEN_RATIO = 0.618034  # steps of it around the colour circle keep neighbouring classes far apart
_REFERENCE_SIDE = 480  # shorter side at which lines are 2 pixels wide and text has scale 0.5


def draw_detections(image: NDArray[np.uint8], detections: Detections, class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Return a copy of `image` uint8 [H, W, 3] BGR with the detections, boxes in its pixels, drawn on it.

    Lines and text grow with the picture; the best score is drawn last, over the others.
    """
    drawn = image.copy()
    for box, score, index in zip(detections.xyxy[::-1], detections.scores[::-1], detections.classes[::-1], strict=True):
        draw_box(drawn, box, f"{class_names[index]} {score:.2f}", class_color(int(index)))
    return drawn


def class_color(index: int) -> tuple[int, int, int]:
    """Return the colour of a class as BGR, 0..255; always the same one."""
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.85 if index % 2 else 0.65, 1.0)
    return round(blue * 255), round(green * 255), round(red * 255)


def draw_box(image: NDArray[np.uint8], box: NDArray[Any], label: str, color: tuple[int, int, int]) -> None:
    """Draw an xyxy box [4] on `image`, in place, with its label above, if it has one."""
    import cv2

    relative = min(image.shape[:2]) / _REFERENCE_SIDE
    line, scale = max(1, round(2 * relative)), max(0.35, 0.5 * relative)
    left, top, right, bottom = (int(value) for value in np.round(box))
    cv2.rectangle(image, (left, top), (right, bottom), color, line)
    if not label:
        return
    (width, height), baseline = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, scale, line)
    left = max(0, min(left, image.shape[1] - width))  # the label stays in the picture, even where its box touches the border
    text_bottom = max(top - baseline, height + line)
    cv2.rectangle(image, (left, text_bottom - height - line), (left + width, text_bottom + baseline), color, cv2.FILLED)
    text_color = (0, 0, 0) if _luminance(color) > 128 else (255, 255, 255)
    cv2.putText(image, label, (left, text_bottom), cv2.FONT_HERSHEY_SIMPLEX, scale, text_color, max(1, line // 2), cv2.LINE_AA)


def _luminance(color: tuple[int, int, int]) -> float:
    blue, green, red = color
    return 0.114 * blue + 0.587 * green + 0.299 * red  # ITU-R BT.601
