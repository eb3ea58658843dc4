"""What a profile decides and no flag says: the rule of the anchors, of the loss, of the pyramid, and what is frozen of trained weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from retinanet_edge.runtime.model_card import AnchorSpec
from retinanet_edge.training.anchors import KERAS_ANCHORS, TORCHVISION_ANCHORS, AnchorGenerator
from retinanet_edge.training.losses import KERAS_LOSS, TORCHVISION_LOSS, TORCHVISION_V2_LOSS, LossSpec
from retinanet_edge.training.profiles import ProfileName
from retinanet_edge.training.rand_augment import RATE, SPREAD


@dataclass(frozen=True)
class Semantics:
    """Fields as AnchorSpec, LossSpec, NetworkSpec and PredictionHead have them; the numbers that flags set are replaced by those.

    frozen_stages, frozen_norms: of a backbone that begins with trained weights, where no flag says otherwise. decayed: parameters that
    the weight decay draws to zero; "weights" are neither biases nor norms. rand_rate, rand_spread: as RandAugment has them.
    """

    anchors: AnchorSpec = field(default_factory=lambda: AnchorGenerator().spec)
    loss: LossSpec = field(default_factory=LossSpec)
    p6_from: Literal["C5", "P5"] = "P5"
    tensorflow_padding: bool = False
    kernel_initializer: Literal["orthogonal", "normal"] = "normal"
    frozen_stages: int = 0
    frozen_norms: bool = False
    decayed: Literal["weights", "all but norms", "all"] = "weights"
    rand_rate: float = RATE
    rand_spread: float = SPREAD


_TORCHVISION = Semantics(TORCHVISION_ANCHORS.spec, TORCHVISION_LOSS, frozen_stages=2, frozen_norms=True, decayed="all")
SEMANTICS: Mapping[ProfileName, Semantics] = MappingProxyType({
    "default": Semantics(),
    "keras": Semantics(
        KERAS_ANCHORS.spec, KERAS_LOSS, "C5", tensorflow_padding=True, kernel_initializer="orthogonal", rand_rate=0.5, rand_spread=0.1
    ),
    "torchvision": _TORCHVISION,
    "torchvision_v2": dataclasses.replace(
        _TORCHVISION, loss=TORCHVISION_V2_LOSS, p6_from="C5", frozen_norms=False, decayed="all but norms"
    ),
})  # fmt: skip
