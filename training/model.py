"""RetinaNet: backbone, feature pyramid P3-P7 and two shared heads (Lin et al., Focal Loss for Dense Object Detection).

It takes what the exported graph takes, uint8 [N, H, W, 3] BGR, so that preprocessing cannot differ between training and
the device. It knows nothing of losses, matching or NMS.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, NetworkSpec
from retinanet_edge.training.anchors import make_anchors
from retinanet_edge.training.backbones import Backbone

LEVEL_STRIDES = (8, 16, 32, 64, 128)  # P3-P7
INPUT_MULTIPLE = 32  # the pyramid doubles P5 and P4 exactly only when the input divides by the backbone's coarsest stride
PRIOR_PROBABILITY = 0.01  # initial score of every anchor, so that the many easy negatives do not swamp the first steps
BOX_VARIANCES = (0.1, 0.1, 0.2, 0.2)  # scale the box targets to about unit variance; folded into the last convolution at export


class Normalise(nn.Module):
    """uint8 [N, H, W, 3] BGR -> float32 [N, 3, H, W] RGB, (x - mean) / std."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.mean), persistent=False)
        self.register_buffer("inverse_std", 1 / torch.tensor(spec.std), persistent=False)
        self.register_buffer("bgr_to_rgb", torch.tensor([2, 1, 0]), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's float input."""
        rgb = torch.index_select(images.float(), 3, self.get_buffer("bgr_to_rgb"))
        return ((rgb - self.get_buffer("mean")) * self.get_buffer("inverse_std")).permute(0, 3, 1, 2)


class FeaturePyramid(nn.Module):
    """Backbone maps at strides 8, 16, 32 -> P3-P7, all of `channels` channels. P6 and P7 come from P5 by strided convolutions."""

    def __init__(self, in_channels: list[int], channels: int, *, norm: bool) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(c, channels, 1) for c in in_channels])
        self.output = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels])
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) if norm else nn.Identity() for _ in LEVEL_STRIDES])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(_bias(module))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return five maps [N, channels, H / stride, W / stride], fine to coarse."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in (1, 0):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], scale_factor=2.0, mode="nearest")
        p3, p4, p5, p6, p7 = self.norms
        levels = [norm(conv(x)) for norm, conv, x in zip((p3, p4, p5), self.output, merged, strict=True)]
        levels.append(p6(self.p6(levels[2])))
        levels.append(p7(self.p7(F.relu(levels[3]))))
        return levels


class Head(nn.Module):
    """`depth` convolutions shared by all levels, then one of `outputs` channels an anchor: five maps -> [N, A, outputs].

    With `norm`, every level has its own BatchNorm after each shared convolution (as in RTMDet): statistics differ by level.
    """

    def __init__(self, in_channels: int, channels: int, depth: int, anchors_per_cell: int, outputs: int, *, norm: bool) -> None:
        super().__init__()
        self.outputs, self.per_cell = outputs, anchors_per_cell
        sizes = [in_channels] + [channels] * depth
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1, bias=not norm) for a, b in pairwise(sizes)])
        self.norms = nn.ModuleList([
            nn.ModuleList([nn.BatchNorm2d(channels) if norm else nn.Identity() for _ in range(depth)]) for _ in LEVEL_STRIDES
        ])  # fmt: skip
        self.predict = nn.Conv2d(sizes[-1], anchors_per_cell * outputs, 3, padding=1)
        for module in (*self.convs, self.predict):
            nn.init.normal_(module.weight, std=0.01 if not norm or module is self.predict else math.sqrt(2 / (9 * sizes[-1])))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return the predictions of all levels, in the order of the anchors."""
        return torch.cat([self._level(x, i) for i, x in enumerate(levels)], dim=1)

    def _level(self, x: Tensor, level: int) -> Tensor:
        norms = self.norms[level]
        assert isinstance(norms, nn.ModuleList)
        for conv, norm in zip(self.convs, norms, strict=True):
            x = F.relu(norm(conv(x)))
        prediction: Tensor = self.predict(x)
        # int(): rows and columns become constants of the exported graph, so that only the batch stays open in it.
        anchors = int(prediction.shape[2]) * int(prediction.shape[3]) * self.per_cell
        return prediction.permute(0, 2, 3, 1).reshape(-1, anchors, self.outputs)


class RetinaNet(nn.Module):
    """The network of a card: uint8 [N, H, W, 3] BGR -> class_logits [N, A, K] and box_deltas [N, A, 4] on `anchors` [A, 4]."""

    anchors: Tensor

    def __init__(
        self, backbone: Backbone, spec: NetworkSpec, input_spec: InputSpec, anchor_spec: AnchorSpec, classes: int
    ) -> None:
        super().__init__()
        norm = spec.norm == "batch"
        self.normalise = Normalise(input_spec)
        self.backbone = backbone
        self.pyramid = FeaturePyramid(backbone.channels, spec.fpn_channels, norm=norm)
        widths = (spec.fpn_channels, spec.head_channels, spec.head_depth, anchor_spec.per_cell)
        self.class_head = Head(*widths, classes, norm=norm)
        self.box_head = Head(*widths, 4, norm=norm)
        nn.init.constant_(_bias(self.class_head.predict), -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
        self.register_buffer("anchors", make_anchors(anchor_spec, input_spec.height, input_spec.width), persistent=False)
        self.register_buffer("box_variances", torch.tensor(BOX_VARIANCES), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class_logits [N, A, K] and box_deltas [N, A, 4] (dx, dy, dw, dh), variances applied."""
        levels = self.pyramid(self.backbone(self.normalise(images)))
        return self.class_head(levels), self.box_head(levels) * self.get_buffer("box_variances")


def build_network(spec: NetworkSpec, input_spec: InputSpec, anchor_spec: AnchorSpec, classes: int) -> RetinaNet:
    """Return the network that a card describes, with random weights."""
    return RetinaNet(Backbone(spec.backbone), spec, input_spec, anchor_spec, classes)


def check_input_size(height: int, width: int) -> None:
    """Raise UserInputError, naming the nearest sizes that fit, where the pyramid cannot take this input."""
    if height % INPUT_MULTIPLE or width % INPUT_MULTIPLE or min(height, width) < INPUT_MULTIPLE:
        down, up = (
            "x".join(str(max(INPUT_MULTIPLE, rounding(side / INPUT_MULTIPLE) * INPUT_MULTIPLE)) for side in (height, width))
            for rounding in (math.floor, math.ceil)
        )
        raise UserInputError(f"--input must divide by {INPUT_MULTIPLE}, got {height}x{width}: the nearest are {down} and {up}")


def _bias(conv: nn.Module) -> Tensor:
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return conv.bias
