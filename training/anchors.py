"""The anchors of a network: fixed boxes (cx, cy, w, h) in input pixels, one set a level."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert, clip_boxes_to_image

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import AnchorSpec


@dataclass(frozen=True)
class AnchorGenerator(AnchorSpec):
    """Places the anchors that a card's AnchorSpec describes; the defaults are ours, KERAS_ANCHORS and TORCHVISION_ANCHORS are theirs.

    An anchor has area (size * scale)^2 at any ratio (Lin et al., Focal Loss, section 4). Raises UserInputError for an impossible rule.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.strides or len(self.strides) != len(self.sizes):
            raise UserInputError(f"anchors need one size a stride, got {len(self.sizes)} sizes for {len(self.strides)} strides")
        positive = (*self.strides, *self.sizes, *self.scales, *self.ratios)
        if min(positive) <= 0 or not self.per_cell:
            raise UserInputError(f"anchor strides, sizes, scales and ratios must be given and positive, got {positive}")

    @property
    def spec(self) -> AnchorSpec:
        """What a card states of the rule."""
        return AnchorSpec(**dataclasses.asdict(self))

    def __call__(self, height: int, width: int) -> Tensor:
        """Return the anchors of all levels, float32 [A, 4] (cx, cy, w, h), of an input of `height` x `width` pixels.

        Order: levels fine to coarse, rows, columns, anchors of the cell: that of the heads' outputs.
        """
        return torch.cat(self.levels(height, width))

    def levels(self, height: int, width: int) -> list[Tensor]:
        """Return the anchors [A of the level, 4] of each level, ceil(side / stride) cells to a side."""
        return [
            self._level(self._cell(size), math.ceil(height / stride), math.ceil(width / stride), stride, (height, width))
            for stride, size in zip(self.strides, self.sizes, strict=True)
        ]

    def _cell(self, size: float) -> Tensor:
        """Return (w, h) [per_cell, 2]."""
        lengths = [float(int(size * scale)) if self.whole_sizes else size * scale for scale in self.scales]
        h_over_w = [ratio if self.ratio_is == "h/w" else 1 / ratio for ratio in self.ratios]
        if self.outer == "ratio":
            pairs = [(length, ratio) for ratio in h_over_w for length in lengths]
        else:
            pairs = [(length, ratio) for length in lengths for ratio in h_over_w]
        sides = torch.tensor([(length / math.sqrt(ratio), length * math.sqrt(ratio)) for length, ratio in pairs], dtype=torch.float32)
        return 2 * (sides / 2).round() if self.whole_corners else sides

    def _level(self, cell: Tensor, rows: int, columns: int, stride: int, image: tuple[int, int]) -> Tensor:
        down, right = (image[0] // rows, image[1] // columns) if self.strides_of_grid else (stride, stride)
        y = (torch.arange(rows, dtype=torch.float32) + self.offset) * down
        x = (torch.arange(columns, dtype=torch.float32) + self.offset) * right
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([grid_x, grid_y], dim=-1)[:, :, None].expand(rows, columns, len(cell), 2)
        anchors = torch.cat([centres, cell.expand(rows, columns, len(cell), 2)], dim=-1).reshape(-1, 4)
        return _clip(anchors, image) if self.clip else anchors


KERAS_ANCHORS = AnchorGenerator(ratio_is="w/h", outer="scale", clip=True)
TORCHVISION_ANCHORS = AnchorGenerator(offset=0.0, whole_sizes=True, whole_corners=True, strides_of_grid=True)


def make_anchors(spec: AnchorSpec, height: int, width: int) -> Tensor:
    """Return the anchors float32 [A, 4] (cx, cy, w, h) that a card describes, for an input of `height` x `width` pixels."""
    return AnchorGenerator(**dataclasses.asdict(spec))(height, width)


def _clip(anchors: Tensor, image: tuple[int, int]) -> Tensor:
    corners = clip_boxes_to_image(box_convert(anchors, "cxcywh", "xyxy"), image)
    clipped: Tensor = box_convert(corners, "xyxy", "cxcywh")
    return clipped
