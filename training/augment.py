"""Random changes to training images, through torchvision's transforms, which move the boxes with the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.letterbox import FILL
from retinanet_edge.training.rand_augment import RATE, SPREAD, RandAugment

Example = tuple[Tensor, Tensor, Tensor]  # image uint8 [3, h, w] RGB, boxes xyxy [n, 4] in its pixels, classes [n]

_MIN_BOX_SIDE = 2.0  # pixels of the input; what is thinner no longer shows its object
_MIN_SHOWN = 0.1  # of an object's area; what a crop leaves of it below that is no example of it
_LARGEST_SCALE = 4.0  # the whole image is scaled before it is cut: beyond this, memory runs out before anything is learnt


@dataclass(frozen=True)
class AugmentationSpec:
    """What may happen to a training image, before it is filled up to the network's input.

    strength: 0 to 1, of scale, flip and colour. 1 is what the others say, less shrinks their ranges, 0 only fits the image.
    flip: mirror half of the images (at any strength above 0).
    scale_jitter: range of the scale, in that at which the image just fits; what is too large is cut at a random place.
    color_jitter: by how much of itself brightness, contrast and saturation change at most, and the hue by an eighth of that.
    rand_augment, rand_magnitude: operations of RandAugment for each image, whatever the strength, and how far they go, 0 to 1;
    rand_rate, rand_spread: as RandAugment has them.
    mosaic: share of the images that become one of four in a mosaic, but for the last `mosaic_off_epochs` epochs.
    """

    strength: float = 1.0
    flip: bool = True
    scale_jitter: tuple[float, float] = (0.6, 1.6)
    color_jitter: float = 0.4
    rand_augment: int = 0
    rand_magnitude: float = 0.5
    mosaic: float = 0.0
    mosaic_off_epochs: int = 5
    rand_rate: float = RATE
    rand_spread: float = SPREAD

    def __post_init__(self) -> None:
        """Refuse what cannot be. Raises UserInputError."""
        shares = {
            "--augment": self.strength, "--color-jitter": self.color_jitter, "--rand-magnitude": self.rand_magnitude,
            "--mosaic": self.mosaic,
        }  # fmt: skip
        for flag, share in shares.items():
            if not 0 <= share <= 1:  # NaN neither
                raise UserInputError(f"{flag} must be from 0 to 1, got {share:g}")
        for flag, count in {"--rand-augment": self.rand_augment, "--mosaic-off-epochs": self.mosaic_off_epochs}.items():
            if count < 0:
                raise UserInputError(f"{flag} must be 0 or more, got {count}")
        if len(self.scale_jitter) != 2 or not 0 < self.scale_jitter[0] <= self.scale_jitter[1] <= _LARGEST_SCALE:
            found = ",".join(f"{factor:g}" for factor in self.scale_jitter)
            raise UserInputError(f"--scale-jitter must be LOW,HIGH with 0 < LOW <= HIGH <= {_LARGEST_SCALE:g}, as 0.8,1.25, got {found}")

    @property
    def scales(self) -> tuple[float, float]:
        """Range of the scale at this strength: between 1 and `scale_jitter`."""
        low, high = self.scale_jitter
        return 1 + self.strength * (low - 1), 1 + self.strength * (high - 1)

    def check_epochs(self, last_epoch: int) -> None:
        """Raises UserInputError where mosaics are asked for and would be off in all epochs."""
        if self.mosaic and self.mosaic_off_epochs >= last_epoch:
            raise UserInputError(
                f"--mosaic-off-epochs must be less than --epochs {last_epoch}, got {self.mosaic_off_epochs}: lower it, or give --mosaic 0"
            )

    def mosaic_share(self, epoch: int, last_epoch: int | None) -> float:
        """Return the share of mosaics in an epoch, counted from 1; where the last one is not known, they are never off."""
        off = last_epoch is not None and epoch > last_epoch - self.mosaic_off_epochs
        return 0.0 if off else self.mosaic


class Augmentation:
    """Scale and crop, RandAugment, flip, light and colour; always ends at the network's input size.

    Scale and crop are those of KerasCV's JitteredResize, but of an image that has been fitted to the input, and one that does not fill
    the input lies at a random place in it. Strength 0 without RandAugment gives the letterboxed image that the network sees on the
    device, up to rounding: torchvision's bilinear filter without antialiasing is OpenCV's.
    """

    def __init__(self, height: int, width: int, spec: AugmentationSpec) -> None:
        self.height, self.width, self.spec = height, width, spec
        amount = spec.color_jitter * spec.strength
        colour = v2.ColorJitter(brightness=amount, contrast=amount, saturation=amount, hue=amount / 8)
        self._flip_and_colour = v2.Compose([v2.RandomHorizontalFlip(0.5 if spec.flip and spec.strength else 0.0), colour])
        self._rand_augment = RandAugment(spec.rand_augment, spec.rand_magnitude, rate=spec.rand_rate, spread=spec.rand_spread)

    def __call__(self, image: Tensor, boxes: Tensor, classes: Tensor) -> Example:
        """Return image uint8 [3, H, W], boxes [n, 4] and classes [n] of an image uint8 [3, h, w] RGB with boxes in its pixels."""
        return self.pane((image, boxes, classes), self.height, self.width)

    def pane(self, example: Example, height: int, width: int) -> Example:
        """Return the example augmented in `height` x `width` pixels, a part of the input or all of it, at the scale of the whole."""
        image, boxes, classes = example
        pixels: Tensor = tv_tensors.Image(image)
        boxed: Tensor = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[-2:])
        scaled = self._scaled_size(*image.shape[-2:])
        top, left = self._offset(scaled[0], height), self._offset(scaled[1], width)
        pixels = v2.functional.resize(pixels, scaled, antialias=False)
        boxed = v2.functional.resize(boxed, scaled)
        whole = _areas(boxed)
        crop = (max(top, 0), max(left, 0), min(scaled[0], height), min(scaled[1], width))
        pixels, boxed = v2.functional.crop(pixels, *crop), v2.functional.clamp_bounding_boxes(v2.functional.crop(boxed, *crop))
        # Colours after the crop, which leaves few pixels of a large photograph, and before the border, which the device does not change.
        pixels, boxed = self._flip_and_colour(self._rand_augment(pixels), boxed)
        above, before = max(-top, 0), max(-left, 0)
        borders = [before, above, width - before - crop[3], height - above - crop[2]]
        pixels, boxed = v2.functional.pad(pixels, borders, fill=FILL), v2.functional.pad(boxed, borders)
        kept = (_sides(boxed) >= _MIN_BOX_SIDE).all(dim=1) & (_areas(boxed) >= _MIN_SHOWN * whole)
        return pixels.as_subclass(Tensor), boxed.as_subclass(Tensor)[kept], classes[kept]

    def _scaled_size(self, height: int, width: int) -> list[int]:
        fit = min(self.height / height, self.width / width)
        scale = fit * float(torch.empty(1).uniform_(*self.spec.scales))
        return [max(1, round(height * scale)), max(1, round(width * scale))]

    def _offset(self, content: int, wanted: int) -> int:
        """Return where the input begins in the content: positive cuts into the image, negative leaves a border."""
        slack = content - wanted
        lowest = min(slack, 0) if self.spec.strength else 0
        return int(torch.randint(lowest, max(slack, 0) + 1, (1,)))


def _sides(boxes: Tensor) -> Tensor:
    plain = boxes.as_subclass(Tensor)
    return plain[:, 2:] - plain[:, :2]


def _areas(boxes: Tensor) -> Tensor:
    return _sides(boxes).prod(dim=1)
