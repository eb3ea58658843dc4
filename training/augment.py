"""Random changes to training images, through torchvision's transforms, which move the boxes with the pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from retinanet_edge.runtime.letterbox import FILL

_MIN_BOX_SIDE = 2.0  # pixels of the input; what a crop leaves thinner than that no longer shows its object
_FAINT, _STRONG = 0.1, 0.4


class Augmentation:
    """Flip, light and colour, scale and crop; always ends at the network's input size. `strength` 0 only fits the image.

    strength 1: mirrored half of the time, brightness, contrast and saturation changed by up to 40%, scaled to 0.6-1.6 times the
    fitted size, then a random crop of the input size. Smaller strengths shrink each range.
    """

    def __init__(self, height: int, width: int, strength: float, *, flip: bool = True) -> None:
        self._height, self._width, self._strength = height, width, strength
        amount = _STRONG * strength
        colour = v2.ColorJitter(brightness=amount, contrast=amount, saturation=amount, hue=_FAINT * strength / 2)
        self._pixels = v2.Compose([v2.RandomHorizontalFlip(0.5 if flip and strength else 0.0), colour])
        self._clean = v2.Compose([
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(min_size=_MIN_BOX_SIDE, labels_getter=lambda inputs: inputs[2]),
        ])  # fmt: skip

    def __call__(self, image: Tensor, boxes: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return image uint8 [3, H, W], boxes [n, 4] and classes [n] of an image uint8 [3, h, w] RGB with boxes in its pixels."""
        pixels = tv_tensors.Image(image)
        boxed = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[-2:])
        pixels, boxed = self._pixels(pixels, boxed)
        pixels, boxed = self._scale_and_crop(pixels, boxed)
        pixels, boxed, kept = self._clean(pixels, boxed, classes)
        return pixels.as_subclass(Tensor), boxed.as_subclass(Tensor), kept

    def _scale_and_crop(self, image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        fit = min(self._height / height, self._width / width)
        scale = fit * float(torch.empty(1).uniform_(1 - 0.4 * self._strength, 1 + 0.6 * self._strength))
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        image, boxes = v2.functional.resize(image, size, antialias=True), v2.functional.resize(boxes, size)
        top, left = (self._offset(content, wanted) for content, wanted in zip(size, (self._height, self._width), strict=True))
        # One offset for both cases: positive cuts into the image, negative leaves a border.
        image = v2.functional.pad(image, _borders(top, left, size, self._height, self._width), fill=FILL)
        boxes = v2.functional.pad(boxes, _borders(top, left, size, self._height, self._width))
        crop = (max(top, 0), max(left, 0), self._height, self._width)
        return v2.functional.crop(image, *crop), v2.functional.crop(boxes, *crop)

    def _offset(self, content: int, wanted: int) -> int:
        slack = content - wanted
        if not self._strength:
            return 0
        return int(torch.randint(min(slack, 0), max(slack, 0) + 1, (1,)))


def _borders(top: int, left: int, size: list[int], height: int, width: int) -> list[int]:
    """Return the padding (left, top, right, bottom) that makes a crop of the input size at (top, left) possible."""
    above, before = max(-top, 0), max(-left, 0)
    return [before, above, max(width - before - size[1], 0), max(height - above - size[0], 0)]
