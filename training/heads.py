"""The feature pyramid and the prediction heads: ours, KerasCV's and torchvision's, by plain arguments.

KerasCV: FeaturePyramid(channels, p6_from="C5", tensorflow_padding=True), PredictionHead(filters, bias, 3). torchvision: p6_from="P5"
(v1) or "C5" (v2), PredictionHead(filters, bias, 4, kernel_initializer="normal", norm="none" (v1) or "group" (v2)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinanet_edge.runtime.errors import UserInputError

LEVELS = 5  # P3-P7
_GROUPS = 32  # of a group norm, as in torchvision's


class FeaturePyramid(nn.Module):
    """Backbone maps C3, C4, C5 -> P3-P7, all of `channels` channels (Lin et al., Feature Pyramid Networks; P6 and P7 as in Focal Loss).

    1x1 laterals, nearest upsampling, 3x3 outputs, with bias; P6 by a strided convolution of C5 or P5, P7 of relu(P6). `norm` adds a
    BatchNorm to each level. `tensorflow_padding`: the strided convolutions of even sides pad at the right and bottom alone, as TensorFlow's
    "same" does, instead of on both sides.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int = 256, *,
        p6_from: Literal["C5", "P5"] = "P5", norm: bool = False, tensorflow_padding: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels, self.p6_from, self.tensorflow_padding = channels, p6_from, tensorflow_padding
        self.lateral = nn.ModuleList([nn.Conv2d(c, channels, 1) for c in in_channels])
        self.output = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels])
        self.p6 = nn.Conv2d(in_channels[-1] if p6_from == "C5" else channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) if norm else nn.Identity() for _ in range(LEVELS)])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(_bias(module))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return five maps [N, channels, ceil(H / stride), ceil(W / stride)], fine to coarse, of three."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in (1, 0):
            merged[i] = merged[i] + _upsample(merged[i + 1], merged[i])
        p3, p4, p5, p6, p7 = self.norms
        levels = [norm(conv(x)) for norm, conv, x in zip((p3, p4, p5), self.output, merged, strict=True)]
        levels.append(p6(self._halve(self.p6, maps[-1] if self.p6_from == "C5" else levels[2])))
        levels.append(p7(self._halve(self.p7, F.relu(levels[3]))))
        return levels

    def _halve(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        weight = conv.weight
        for side in (2, 3):
            if self.tensorflow_padding and int(x.shape[side]) % 2 == 0:
                # A zero before the kernel moves its windows from the padding to the first pixel; the exported graph needs no Pad.
                weight = torch.cat([torch.zeros_like(weight.narrow(side, 0, 1)), weight], dim=side)
        return F.conv2d(x, weight, conv.bias, stride=2, padding=1)


class PredictionHead(nn.Module):
    """`num_conv_layers` 3x3 convolutions with ReLU shared by all levels, then one of `output_filters` channels.

    `bias_initializer`: a number, or a function that fills the last bias in place. `kernel_initializer`: orthogonal as in KerasCV, or normal
    (deviation 0.01 as in Focal Loss; that of He where a BatchNorm follows). `norm` stands after each shared convolution: "batch" has
    its own statistics for every level, since they differ (as in RTMDet); "group" is shared (as in torchvision's v2).
    """

    def __init__(
        self, output_filters: int, bias_initializer: float | Callable[[Tensor], object], num_conv_layers: int = 3, *,
        in_channels: int = 256, filters: int = 256, norm: Literal["none", "batch", "group"] = "none",
        kernel_initializer: Literal["orthogonal", "normal"] = "orthogonal",
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = [in_channels] + [filters] * num_conv_layers
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1, bias=norm == "none") for a, b in pairwise(sizes)])
        self.norms = nn.ModuleList([
            nn.ModuleList([_norm(norm, filters) for _ in range(num_conv_layers)]) for _ in range(1 if norm == "group" else LEVELS)
        ])  # fmt: skip
        self.predict = nn.Conv2d(sizes[-1], output_filters, 3, padding=1)
        for conv in (*self.convs, self.predict):
            assert isinstance(conv, nn.Conv2d)
            if kernel_initializer == "orthogonal":
                nn.init.orthogonal_(conv.weight)
            else:
                followed = norm == "batch" and conv is not self.predict
                nn.init.normal_(conv.weight, std=math.sqrt(2 / (9 * filters)) if followed else 0.01)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        _fill(_bias(self.predict), bias_initializer)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Return a map [N, output_filters, H, W] of each level's [N, in_channels, H, W]."""
        return [self._level(x, self.norms[i % len(self.norms)]) for i, x in enumerate(levels)]

    def _level(self, x: Tensor, norms: nn.Module) -> Tensor:
        assert isinstance(norms, nn.ModuleList)
        for conv, norm in zip(self.convs, norms, strict=True):
            x = F.relu(norm(conv(x)))
        prediction: Tensor = self.predict(x)
        return prediction


def flatten_maps(maps: Sequence[Tensor], outputs: int) -> Tensor:
    """Return maps [N, anchors of a cell * outputs, H, W] of all levels as [N, A, outputs], in the order of the anchors."""
    return torch.cat([_flatten(x, outputs) for x in maps], dim=1)


def prior_bias(probability: float = 0.01) -> float:
    """Return the bias at which every score begins at `probability`, so that the many easy negatives do not swamp the first steps."""
    return -math.log((1 - probability) / probability)


def _flatten(x: Tensor, outputs: int) -> Tensor:
    # int(): rows and columns become constants of the exported graph, so that only the batch stays open in it.
    anchors = int(x.shape[1]) // outputs * int(x.shape[2]) * int(x.shape[3])
    return x.permute(0, 2, 3, 1).reshape(-1, anchors, outputs)


def _upsample(coarse: Tensor, fine: Tensor) -> Tensor:
    height, width = int(fine.shape[2]), int(fine.shape[3])
    if (height, width) == (2 * int(coarse.shape[2]), 2 * int(coarse.shape[3])):
        return F.interpolate(coarse, scale_factor=2.0, mode="nearest")  # exports as a plain doubling
    return F.interpolate(coarse, size=(height, width), mode="nearest")


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group" and (channels % _GROUPS or channels == _GROUPS):  # a group of one channel has no variance where a map is one cell
        raise UserInputError(
            f"heads with a group norm must have a multiple of {_GROUPS} channels, at least {2 * _GROUPS}, got {channels}: "
            f"give --head-channels {2 * _GROUPS}"
        )
    return nn.GroupNorm(_GROUPS, channels) if kind == "group" else nn.Identity()


def _fill(bias: Tensor, initializer: float | Callable[[Tensor], object]) -> None:
    with torch.no_grad():
        if callable(initializer):
            initializer(bias)
        else:
            bias.fill_(initializer)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
