"""RandAugment without geometry: some operations on light and colour, drawn anew for each image; boxes need not know of it.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2019. The operations and how their
strength is drawn are those of KerasCV's RandAugment(geometric=False); the operations themselves are torchvision's, in which brightness
is multiplied, not added to, contrast has one mean for all channels, and solarizing adds nothing before it inverts.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

RATE = 10 / 11  # the paper's eleventh operation is to do nothing
SPREAD = 0.15


class RandAugment:
    """Apply `operations` operations, each drawn from six and used at a `rate`, at a strength around `magnitude`, 0 to 1.

    spread: standard deviation of the strength. Rate and spread are KerasCV's defaults.
    """

    def __init__(self, operations: int, magnitude: float, *, rate: float = RATE, spread: float = SPREAD) -> None:
        choice = v2.RandomChoice([
            functional.autocontrast,
            functional.equalize,
            partial(_solarize, magnitude, spread),
            partial(_fade, magnitude, spread),
            v2.ColorJitter(contrast=magnitude),
            v2.ColorJitter(brightness=magnitude),
        ])  # fmt: skip
        self._steps = [v2.RandomApply([choice], p=rate) for _ in range(operations)]

    def __call__(self, image: Tensor) -> Tensor:
        """Return an image uint8 [3, H, W] with other colours."""
        for step in self._steps:
            image = step(image)
        return image


def _solarize(magnitude: float, spread: float, image: Tensor) -> Tensor:
    """Invert what is lighter than a threshold, which sinks with the strength."""
    inverted: Tensor = functional.solarize(image, 255 * (1 - _strength(magnitude, spread)))
    return inverted


def _fade(magnitude: float, spread: float, image: Tensor) -> Tensor:
    """Mix the image with its greys, at strength 1 until nothing else is left."""
    faded: Tensor = functional.adjust_saturation(image, 1 - _strength(magnitude, spread))
    return faded


def _strength(magnitude: float, spread: float) -> float:
    return min(max(float(torch.normal(magnitude, spread, (1,))), 0.0), 1.0)
