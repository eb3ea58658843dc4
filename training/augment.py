"""Random changes to training images, through torchvision's transforms, which move the boxes with the pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from retinanet_edge.runtime.letterbox import FILL

_MIN_BOX_SIDE = 2.0  # pixels of the input; what is thinner no longer shows its object
_MIN_SHOWN = 0.1  # of an object's area; what a crop leaves of it below that is no example of it
_FAINT, _STRONG = 0.1, 0.4


class Augmentation:
    """Scale and crop, flip, light and colour; always ends at the network's input size. `strength` 0 only fits the image.

    strength 1: scaled to 0.6-1.6 times the fitted size, then a random crop of the input size, mirrored half of the time,
    brightness, contrast and saturation changed by up to 40%. Smaller strengths shrink each range. Strength 0 gives the letterboxed
    image that the network sees on the device, up to rounding: torchvision's bilinear filter without antialiasing is OpenCV's.
    """

    def __init__(self, height: int, width: int, strength: float, *, flip: bool = True) -> None:
        self._height, self._width, self._strength = height, width, strength
        amount = _STRONG * strength
        colour = v2.ColorJitter(brightness=amount, contrast=amount, saturation=amount, hue=_FAINT * strength / 2)
        self._flip_and_colour = v2.Compose([v2.RandomHorizontalFlip(0.5 if flip and strength else 0.0), colour])

    def __call__(self, image: Tensor, boxes: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return image uint8 [3, H, W], boxes [n, 4] and classes [n] of an image uint8 [3, h, w] RGB with boxes in its pixels."""
        pixels: Tensor = tv_tensors.Image(image)
        boxed: Tensor = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[-2:])
        height, width = self._scaled_size(*image.shape[-2:])
        top, left = self._offset(height, self._height), self._offset(width, self._width)
        pixels = v2.functional.resize(pixels, [height, width], antialias=False)
        boxed = v2.functional.resize(boxed, [height, width])
        whole = _areas(boxed)
        crop = (max(top, 0), max(left, 0), min(height, self._height), min(width, self._width))
        pixels, boxed = v2.functional.crop(pixels, *crop), v2.functional.clamp_bounding_boxes(v2.functional.crop(boxed, *crop))
        # Colours after the crop, which leaves few pixels of a large photograph, and before the border, which the device does not change.
        pixels, boxed = self._flip_and_colour(pixels, boxed)
        above, before = max(-top, 0), max(-left, 0)
        borders = [before, above, self._width - before - crop[3], self._height - above - crop[2]]
        pixels, boxed = v2.functional.pad(pixels, borders, fill=FILL), v2.functional.pad(boxed, borders)
        kept = (_sides(boxed) >= _MIN_BOX_SIDE).all(dim=1) & (_areas(boxed) >= _MIN_SHOWN * whole)
        return pixels.as_subclass(Tensor), boxed.as_subclass(Tensor)[kept], classes[kept]

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        fit = min(self._height / height, self._width / width)
        scale = fit * float(torch.empty(1).uniform_(1 - 0.4 * self._strength, 1 + 0.6 * self._strength))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _offset(self, content: int, wanted: int) -> int:
        """Return where the input begins in the content: positive cuts into the image, negative leaves a border."""
        slack = content - wanted
        if not self._strength:
            return 0
        return int(torch.randint(min(slack, 0), max(slack, 0) + 1, (1,)))


def _sides(boxes: Tensor) -> Tensor:
    plain = boxes.as_subclass(Tensor)
    return plain[:, 2:] - plain[:, :2]


def _areas(boxes: Tensor) -> Tensor:
    return _sides(boxes).prod(dim=1)
