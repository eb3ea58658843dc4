"""An image with what was found and what was not: right detections green, wrong ones red, missed objects yellow; as a link for HTML."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.dataset import Sample, read_image
from retinanet_edge.runtime.draw import draw_box
from retinanet_edge.runtime.matching import IN_CROWD, UNMATCHED, ImageOutcome

COLORS_EXPLAINED = (
    "Green: right. Red: wrong, with what it was taken for, what it is where an object is there, and the score. "
    "Yellow: an object that was missed. Grey: a detection in a crowd, which counts neither way."
)
_RIGHT, _WRONG, _MISSED, _CROWD = (80, 190, 40), (50, 50, 235), (0, 210, 255), (150, 150, 150)  # BGR
_LONGER_SIDE, _JPEG_QUALITY = 640, 85


def picture_link(sample: Sample, outcome: ImageOutcome, class_names: Sequence[str]) -> str:
    """Return the picture of `draw_outcome` as a data URL of a JPEG. Raises DatasetError where the image does not decode."""
    import cv2

    ok, data = cv2.imencode(".jpg", draw_outcome(sample, outcome, class_names), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert ok, "OpenCV writes JPEG"
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def draw_outcome(sample: Sample, outcome: ImageOutcome, class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Return the sample's image, its longer side made 640 pixels, uint8 [H, W, 3] BGR, with the outcome drawn on it.

    Mistakes are drawn last, over what is right, and only they are labelled.
    """
    import cv2

    image = read_image(sample)
    scale = _LONGER_SIDE / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    drawn: NDArray[np.uint8] = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    found, across = outcome.detections, np.array([size[0] / sample.width, size[1] / sample.height] * 2)
    for crowd, color in ((True, _CROWD), (False, _RIGHT)):
        for box in found.xyxy[(outcome.correct == IN_CROWD) if crowd else (outcome.correct >= 0)]:
            draw_box(drawn, box * across, "", color)
    for index in outcome.missed:
        draw_box(drawn, sample.boxes[index] * across, class_names[sample.classes[index]], _MISSED)
    for index in np.flatnonzero(outcome.correct == UNMATCHED)[::-1]:
        draw_box(drawn, found.xyxy[index] * across, _mistake(sample, outcome, index, class_names), _WRONG)
    return drawn


def _mistake(sample: Sample, outcome: ImageOutcome, index: Any, class_names: Sequence[str]) -> str:
    said = f"{class_names[outcome.detections.classes[index]]} {outcome.detections.scores[index]:.2f}"
    real = outcome.taken_for[index]
    return said if real == UNMATCHED else f"{said}, is {class_names[sample.classes[real]]}"
