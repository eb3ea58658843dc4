"""Fit a frame of any size into the network's fixed input, and bring boxes back. The only copy of this rule.

Scale by min(H/h, W/w), sizes rounded, bilinear (cv2.INTER_LINEAR), image at the top left, the rest filled with 114.
Training's evaluation, calibration and streaming all pass through here, so that none of them can differ.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.boxes import area
from retinanet_edge.runtime.detections import Detections

FILL = 114  # mid grey: the mean of ImageNet, so that the border looks like nothing in particular


@dataclass(frozen=True)
class Letterbox:
    """Geometry of one frame size in one input size; all in pixels.

    `content_height` x `content_width` is what the frame becomes inside the input, from the top left corner.
    """

    frame_height: int
    frame_width: int
    input_height: int
    input_width: int

    def __post_init__(self) -> None:
        """Refuse sizes that have no area."""
        if min(self.frame_height, self.frame_width, self.input_height, self.input_width) < 1:
            raise ValueError(f"sizes must be at least one pixel, got {self}")

    @property
    def content_height(self) -> int:
        """Rows that the frame takes in the input."""
        return max(1, round(self.frame_height * self._scale))

    @property
    def content_width(self) -> int:
        """Columns that the frame takes in the input."""
        return max(1, round(self.frame_width * self._scale))

    @property
    def _scale(self) -> float:
        return min(self.input_height / self.frame_height, self.input_width / self.frame_width)

    def apply(self, frame: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return `frame` uint8 [h, w, 3] as uint8 [H, W, 3]; `out` is written in place when given."""
        import cv2

        if frame.shape != (self.frame_height, self.frame_width, 3):
            raise ValueError(f"frame must be [{self.frame_height}, {self.frame_width}, 3], got {list(frame.shape)}")
        shape = (self.input_height, self.input_width, 3)
        image = np.empty(shape, np.uint8) if out is None else out
        if image.shape != shape:
            raise ValueError(f"out must be {list(shape)}, got {list(image.shape)}")
        size = (self.content_width, self.content_height)
        content = frame if frame.shape[1::-1] == size else cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
        image[: size[1], : size[0]] = content
        image[size[1] :] = FILL
        image[: size[1], size[0] :] = FILL
        return image

    def boxes_to_input(self, boxes_frame: NDArray[Any]) -> NDArray[np.float32]:
        """Return xyxy boxes [n, 4] of the frame in input pixels. The inverse of `boxes_to_frame` inside the frame."""
        return np.asarray(boxes_frame, np.float32).reshape(-1, 4) * self._frame_to_input()

    def boxes_to_frame(self, boxes_input: NDArray[Any]) -> NDArray[np.float32]:
        """Return xyxy boxes [n, 4] of the input in frame pixels, clipped to the frame."""
        boxes = np.asarray(boxes_input, np.float32).reshape(-1, 4) / self._frame_to_input()
        limits = np.array([self.frame_width, self.frame_height] * 2, np.float32)
        clipped: NDArray[np.float32] = np.clip(boxes, 0, limits)
        return clipped

    def detections_to_frame(self, detections: Detections) -> Detections:
        """Return detections of the input in frame pixels, without those that lie wholly beside the frame, in the fill."""
        moved = detections.with_boxes(self.boxes_to_frame(detections.xyxy))
        return moved[area(moved.xyxy) > 0]

    def _frame_to_input(self) -> NDArray[np.float32]:
        # Per axis, of the rounded sizes: rounding makes the two scales differ by up to half a pixel over the image.
        x, y = self.content_width / self.frame_width, self.content_height / self.frame_height
        return np.array([x, y, x, y], np.float32)
