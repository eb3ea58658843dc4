"""RetinaNet: backbone, feature pyramid P3-P7 and two shared heads (Lin et al., Focal Loss for Dense Object Detection).

It takes what the exported graph takes, uint8 [N, H, W, 3] BGR, so that preprocessing cannot differ between training and
the device. It knows nothing of losses, matching or NMS.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.level_top_k import level_sizes
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, NetworkSpec
from retinanet_edge.training.anchors import make_anchors
from retinanet_edge.training.backbones import Backbone
from retinanet_edge.training.fake_quantization import FakeQuantization
from retinanet_edge.training.heads import FeaturePyramid, PredictionHead, flatten_maps, prior_bias

LEVEL_STRIDES = (8, 16, 32, 64, 128)  # P3-P7
INPUT_MULTIPLE = 32  # the pyramid doubles P5 and P4 exactly only when the input divides by the backbone's coarsest stride


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


class RetinaNet(nn.Module):
    """The network of a card: uint8 [N, H, W, 3] BGR -> class_logits [N, A, K] and box_deltas [N, A, 4] on `anchors` [A, 4].

    `kernel_initializer` is of the heads' first weights, as PredictionHead has it. With a `quantization` it computes as its INT8 graph.
    """

    anchors: Tensor

    def __init__(
        self, backbone: Backbone, spec: NetworkSpec, input_spec: InputSpec, anchor_spec: AnchorSpec, classes: int, *,
        kernel_initializer: Literal["orthogonal", "normal"] = "normal",
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes = classes
        self.quantization: FakeQuantization | None = None
        self.normalise = Normalise(input_spec)
        self.backbone = backbone
        self.pyramid = FeaturePyramid(
            backbone.channels, spec.fpn_channels,
            p6_from=spec.p6_from, norm=spec.norm == "batch", tensorflow_padding=spec.tensorflow_padding,
        )  # fmt: skip
        head = partial(
            PredictionHead, num_conv_layers=spec.head_depth, in_channels=spec.fpn_channels, filters=spec.head_channels,
            norm=spec.norm, kernel_initializer=kernel_initializer,
        )  # fmt: skip
        self.class_head = head(anchor_spec.per_cell * classes, prior_bias())
        self.box_head = head(anchor_spec.per_cell * 4, 0.0)
        self.level_sizes = level_sizes(anchor_spec, input_spec)  # anchors of each level
        self.register_buffer("anchors", make_anchors(anchor_spec, input_spec.height, input_spec.width), persistent=False)
        self.register_buffer("box_variances", torch.tensor(spec.box_variances), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class_logits [N, A, K] and box_deltas [N, A, 4] (dx, dy, dw, dh), variances applied."""
        class_logits, box_outputs = self.head_outputs(images)
        return class_logits, box_outputs * self.get_buffer("box_variances")

    def head_outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class_logits [N, A, K] and what the box head says [N, A, 4]: deltas over their variances."""
        with self.quantization.applied() if self.quantization is not None else nullcontext():
            levels = self.pyramid(self.backbone(self.normalise(images)))
            return flatten_maps(self.class_head(levels), self.classes), flatten_maps(self.box_head(levels), 4)


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
