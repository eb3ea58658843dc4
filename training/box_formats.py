"""The eight ways KerasCV writes a box, and the conversion between any two. Inside this project boxes are xyxy pixels.

xyxy, yxyx: corners. xywh: left, top, width, height. center_xywh, center_yxhw: centre and sides. rel_: divided by the image's sides.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retinanet_edge.runtime.errors import UserInputError

BOX_FORMATS = ("xyxy", "rel_xyxy", "xywh", "rel_xywh", "center_xywh", "center_yxhw", "yxyx", "rel_yxyx")

_RELATIVE = "rel_"
_Columns = tuple[Tensor, Tensor, Tensor, Tensor]
_TO_XYXY: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], _Columns]] = {
    "xyxy": lambda left, top, right, bottom: (left, top, right, bottom),
    "yxyx": lambda top, left, bottom, right: (left, top, right, bottom),
    "xywh": lambda left, top, w, h: (left, top, left + w, top + h),
    "center_xywh": lambda x, y, w, h: (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
    "center_yxhw": lambda y, x, h, w: (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
}
_FROM_XYXY: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], _Columns]] = {
    "xyxy": lambda left, top, right, bottom: (left, top, right, bottom),
    "yxyx": lambda left, top, right, bottom: (top, left, bottom, right),
    "xywh": lambda left, top, right, bottom: (left, top, right - left, bottom - top),
    "center_xywh": lambda left, top, right, bottom: ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top),
    "center_yxhw": lambda left, top, right, bottom: ((top + bottom) / 2, (left + right) / 2, bottom - top, right - left),
}


def check_box_format(name: str) -> str:
    """Return the format's name in lower case. Raises UserInputError, which lists the formats, for an unknown one."""
    lower = name.lower()
    if lower not in BOX_FORMATS:
        raise UserInputError(f"the box format must be one of {', '.join(BOX_FORMATS)}, got {name}")
    return lower


def convert_boxes(boxes: Tensor, source: str, target: str, image_shape: tuple[int, int] | None = None) -> Tensor:
    """Return boxes [..., 4] of format `source` in format `target`; integers become float32.

    `image_shape` (height, width) is needed only between a relative format and one in pixels. Raises UserInputError for an unknown
    format, for boxes without four columns, and where the image shape is missing.
    """
    source, target = check_box_format(source), check_box_format(target)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise UserInputError(f"boxes must have four columns, got the shape {list(boxes.shape)}")
    floats = boxes if boxes.is_floating_point() else boxes.float()
    corners = torch.stack(_TO_XYXY[source.removeprefix(_RELATIVE)](*_columns(floats)), dim=-1)
    if source.startswith(_RELATIVE) != target.startswith(_RELATIVE):
        sides = _sides(corners, source, target, image_shape)
        corners = corners * sides if source.startswith(_RELATIVE) else corners / sides
    return torch.stack(_FROM_XYXY[target.removeprefix(_RELATIVE)](*_columns(corners)), dim=-1)


def _columns(boxes: Tensor) -> _Columns:
    first, second, third, fourth = boxes.unbind(-1)
    return first, second, third, fourth


def _sides(boxes: Tensor, source: str, target: str, image_shape: tuple[int, int] | None) -> Tensor:
    if image_shape is None:
        raise UserInputError(f"boxes go from {source} to {target} only with an image shape: pass (height, width)")
    height, width = image_shape
    if min(height, width) <= 0:
        raise UserInputError(f"the image shape must be (height, width) in pixels, got {height} x {width}")
    return boxes.new_tensor([width, height, width, height])
