"""ViTDet: the transformer of Segment Anything as a backbone, its one map at stride 16 spread to strides 8, 16 and 32.

Li et al., Exploring Plain Vision Transformer Backbones for Object Detection: most blocks attend within windows, four to the whole map,
and a "simple feature pyramid" stands in for the stages that a plain transformer lacks. The transformer is timm's `samvit_*`, without
Segment Anything's neck.
"""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn
from torch.nn import functional as F

PYRAMID_CHANNELS = 256


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N, C, H, W], at every cell."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimpleFeaturePyramid(nn.Module):
    """One map [N, C, H / 16, W / 16] -> three at strides 8, 16 and 32, `outputs` wide (Li et al., section 3)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList([
            nn.Sequential(scale, nn.Conv2d(channels, outputs, 1, bias=False), ChannelNorm(outputs),
                          nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), ChannelNorm(outputs))
            for scale, channels in (
                (nn.ConvTranspose2d(inputs, inputs // 2, 2, stride=2), inputs // 2), (nn.Identity(), inputs), (nn.MaxPool2d(2), inputs),
            )
        ])  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the three maps, fine to coarse."""
        return [level(x) for level in self.levels]


class ViTDet(nn.Module):
    """float [N, 3, H, W], H and W multiples of 32 -> maps at strides 8, 16 and 32, `channels` wide."""

    def __init__(self, name: str, *, pretrained: bool = False, **sizes: Any) -> None:
        """Build timm's `name` and the pyramid over it; `sizes` go to timm (img_size is that of the table of positions).

        Raises OSError or RuntimeError where the weights cannot be fetched.
        """
        super().__init__()
        self.vit = timm.create_model(name, pretrained=pretrained, num_classes=0, **sizes)
        self.vit.neck = self.vit.head = nn.Identity()
        self.pyramid = SimpleFeaturePyramid(self.vit.embed_dim, PYRAMID_CHANNELS)
        self.channels = [PYRAMID_CHANNELS] * 3
        self.mean, self.std = self.vit.pretrained_cfg["mean"], self.vit.pretrained_cfg["std"]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps [N, C, H / stride, W / stride] of strides 8, 16 and 32."""
        x = self.vit.patch_embed(images)  # [N, H / 16, W / 16, C]
        x = x + self._positions(int(x.shape[1]), int(x.shape[2]))
        maps: list[Tensor] = self.pyramid(self.vit.blocks(x).permute(0, 3, 1, 2))
        return maps

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return the table of positions [1, rows, columns, C], resampled from that of the training size.

        As the paper's code does, and in an operator that ONNX has at opset 17: timm's resampling adds antialiasing, which it has not.
        """
        table: Tensor = self.vit.pos_embed
        if table.shape[1:3] == (rows, columns):
            return table
        return F.interpolate(table.permute(0, 3, 1, 2), size=(rows, columns), mode="bicubic").permute(0, 2, 3, 1)
