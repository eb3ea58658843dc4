"""Whose habits a run follows, in defaults of train.py's flags; semantics.py has what no flag says. Loads no torch, for -h."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

ProfileName = Literal["default", "keras", "torchvision", "torchvision_v2"]


@dataclass(frozen=True)
class Profile:
    """`settings`: fields of TrainingOptions that begin otherwise than by default.

    `learning_rate` is that of a batch of 16 images where `rate_by_batch`, and grows with the batch; else that of any batch.
    """

    settings: Mapping[str, Any]
    learning_rate: float
    rate_by_batch: bool = True

    def learning_rate_of(self, batch: int) -> float:
        """Return the peak learning rate of a batch of so many images."""
        return self.learning_rate * batch / 16 if self.rate_by_batch else self.learning_rate


# KerasCV's examples/training/object_detection/pascal_voc/retinanet.py: SGD, plateau, early stopping, flip, JitteredResize, RandAugment.
_KERAS = {
    "head_depth": 3, "norm": "none", "anchor_scales": (1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
    "epochs": 100, "optimizer": "sgd", "weight_decay": 0.0, "clip_norm": 10.0, "average_decay": 0.0, "warmup_epochs": 0.0,
    "schedule": "plateau", "patience": 5, "early_stopping": 10, "eval_every": 1,
    "scale_jitter": (0.8, 1.25), "color_jitter": 0.0, "rand_augment": 2, "rand_magnitude": 0.2,
}  # fmt: skip
# torchvision's references/detection: SGD, step, no clipping, no average, images mirrored and nothing else.
_TORCHVISION = {
    "head_depth": 4, "norm": "none", "anchor_scales": (1.0, 2 ** (1 / 3), 2 ** (2 / 3)), "box_loss": "l1",
    "optimizer": "sgd", "weight_decay": 1e-4, "clip_norm": 0.0, "average_decay": 0.0, "warmup_epochs": 1.0,
    "epochs": 26, "schedule": "step", "drop_epochs": (16.0, 22.0), "eval_every": 1,
    "scale_jitter": (1.0, 1.0), "color_jitter": 0.0,
}  # fmt: skip
# AdamW, images of 480 to 800 pixels, which is 0.6 to 1 of the largest, statistics of norms over all processes.
_TORCHVISION_V2 = {
    **_TORCHVISION, "norm": "group", "box_loss": "giou", "optimizer": "adamw", "weight_decay": 0.05, "scale_jitter": (0.6, 1.0),
    "sync_norm": True,
}  # fmt: skip

PROFILES: Mapping[str, Profile] = MappingProxyType({
    "default": Profile({}, learning_rate=5e-4, rate_by_batch=False),
    "keras": Profile(_KERAS, learning_rate=0.005),
    "torchvision": Profile(_TORCHVISION, learning_rate=0.01),
    "torchvision_v2": Profile(_TORCHVISION_V2, learning_rate=1e-4, rate_by_batch=False),
})  # fmt: skip
