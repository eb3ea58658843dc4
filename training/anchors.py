"""The anchors of a network: fixed boxes (cx, cy, w, h) in input pixels, one set a level."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retinanet_edge.runtime.model_card import AnchorSpec


def make_anchors(spec: AnchorSpec, height: int, width: int) -> Tensor:
    """Return the anchors float32 [A, 4] (cx, cy, w, h) of an input of `height` x `width` pixels.

    Order: levels fine to coarse, rows, columns, anchors of the cell (for each ratio, every scale): that of the heads' outputs.
    A cell's anchors are centred on it: ((column + 0.5) * stride, (row + 0.5) * stride). (KerasCV does the same; torchvision
    puts them at the cell's corner.)
    """
    return torch.cat([
        _level(_cell(size, spec), stride, math.ceil(height / stride), math.ceil(width / stride))
        for stride, size in zip(spec.strides, spec.sizes, strict=True)
    ])  # fmt: skip


def _cell(size: float, spec: AnchorSpec) -> Tensor:
    """Return (w, h) [per_cell, 2]: area (size * scale)^2 at every ratio h / w (Lin et al., Focal Loss, section 4)."""
    sides = [
        (size * scale / math.sqrt(ratio), size * scale * math.sqrt(ratio)) for ratio in spec.ratios for scale in spec.scales
    ]
    return torch.tensor(sides, dtype=torch.float32)


def _level(cell: Tensor, stride: int, rows: int, columns: int) -> Tensor:
    y = (torch.arange(rows, dtype=torch.float32) + 0.5) * stride
    x = (torch.arange(columns, dtype=torch.float32) + 0.5) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([grid_x, grid_y], dim=-1)[:, :, None].expand(rows, columns, len(cell), 2)
    return torch.cat([centres, cell.expand(rows, columns, len(cell), 2)], dim=-1).reshape(-1, 4)
