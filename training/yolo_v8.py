"""The backbone of YOLOv8: a CSP network of C2f blocks that ends in SPPF, in the five sizes of KerasCV's YOLOV8Backbone.

Read from KerasCV 0.9's YOLOV8Backbone, whose parameter counts the tests compare. It knows nothing of pyramids and heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class YoloV8Size:
    """Channels and number of bottlenecks of the four stages, at strides 4, 8, 16 and 32."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


def yolo_v8_size(name: str) -> YoloV8Size:
    """Return the size that a preset as yolo_v8_xs_backbone or yolo_v8_xs_backbone_coco names. Raises KeyError for another."""
    return {
        "xs": YoloV8Size((32, 64, 128, 256), (1, 2, 2, 1)),
        "s": YoloV8Size((64, 128, 256, 512), (1, 2, 2, 1)),
        "m": YoloV8Size((96, 192, 384, 576), (2, 4, 4, 2)),
        "l": YoloV8Size((128, 256, 512, 512), (3, 6, 6, 3)),
        "xl": YoloV8Size((160, 320, 640, 640), (3, 6, 6, 3)),
    }[name.removeprefix("yolo_v8_").removesuffix("_coco").removesuffix("_backbone")]


class ConvNormAct(nn.Sequential):
    """Convolution without bias, BatchNorm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),  # KerasCV's momentum 0.97 is the share that stays
            nn.SiLU(inplace=True),
        )


class C2f(nn.Module):
    """Cross-stage partial block: half of the channels go through `depth` residual bottlenecks, and every step of them is kept."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.width = half = channels // 2
        self.enter = ConvNormAct(channels, 2 * half, 1)
        self.bottlenecks = nn.ModuleList([
            nn.Sequential(ConvNormAct(half, half, 3), ConvNormAct(half, half, 3)) for _ in range(depth)
        ])  # fmt: skip
        self.leave = ConvNormAct((2 + depth) * half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape, [N, channels, H, W]."""
        parts = list(self.enter(x).split(self.width, dim=1))
        for bottleneck in self.bottlenecks:
            parts.append(parts[-1] + bottleneck(parts[-1]))
        merged: Tensor = self.leave(torch.cat(parts, dim=1))
        return merged


class SPPF(nn.Module):
    """Spatial pyramid pooling, fast: maxima over 5, 9 and 13 cells beside the map itself, as three poolings in a row."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = ConvNormAct(channels, channels // 2, 1)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.leave = ConvNormAct(4 * (channels // 2), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape, [N, channels, H, W]."""
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        merged: Tensor = self.leave(torch.cat(parts, dim=1))
        return merged


class YoloV8(nn.Module):
    """float [N, 3, H, W] RGB in 0..1 -> maps at strides 8, 16 and 32, `channels` wide."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # as for timm's networks, on the 0..1 scale

    def __init__(self, size: YoloV8Size) -> None:
        super().__init__()
        first, *_ = size.channels
        self.stem = nn.Sequential(ConvNormAct(3, first // 2, 3, stride=2), ConvNormAct(first // 2, first, 3, stride=2))
        stages: list[nn.Module] = [C2f(first, size.depths[0])]
        for before, channels, depth in zip(size.channels, size.channels[1:], size.depths[1:], strict=False):
            stages.append(nn.Sequential(ConvNormAct(before, channels, 3, stride=2), C2f(channels, depth)))
        stages[-1] = nn.Sequential(stages[-1], SPPF(size.channels[-1]))
        self.stages = nn.ModuleList(stages)
        self.channels = list(size.channels[1:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps [N, C, H / stride, W / stride] of strides 8, 16 and 32."""
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[-3:]
