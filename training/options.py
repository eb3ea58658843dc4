"""What shapes a training run. Kept in the training state, so that a resumed run goes on with the settings that it began with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import AnchorSpec, NmsSpec
from retinanet_edge.training.losses import BoxLoss, LossSpec
from retinanet_edge.training.model import LEVEL_STRIDES
from retinanet_edge.training.schedules import Schedule, ScheduleKind
from retinanet_edge.training.targets import Matcher

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of a run; one field for each flag of train.py, explained there. `batch` is of all processes and parts together."""

    data: str
    backbone: str
    weights: str
    new_classes: bool
    input_height: int
    input_width: int
    fpn_channels: int
    head_channels: int
    head_depth: int
    norm: Literal["none", "batch"]
    anchor_scales: tuple[float, ...]
    anchor_ratios: tuple[float, ...]
    anchor_size: float
    epochs: int
    batch: int
    optimizer: Literal["adamw", "sgd"]
    learning_rate: float
    weight_decay: float
    warmup_epochs: float
    average_decay: float
    augment: float
    flip: bool
    eval_every: int
    seed: int
    workers: int
    device: str
    schedule: ScheduleKind = "cosine"
    drop_epochs: tuple[float, ...] = ()
    drop_factor: float = 0.1
    patience: int = 3
    early_stopping: int = 0
    clip_norm: float = 10.0
    accumulate: int = 1
    precision: Precision = "fp32"
    sync_norm: bool = False
    freeze: int = 0
    foreground_iou: float = 0.5
    background_iou: float = 0.4
    nms_iou: float = 0.5
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    box_loss: BoxLoss = "smooth_l1"

    @property
    def anchors(self) -> AnchorSpec:
        """Anchors of P3-P7; `anchor_size` is the side at scale 1, in strides."""
        sizes = tuple(self.anchor_size * stride for stride in LEVEL_STRIDES)
        return AnchorSpec(LEVEL_STRIDES, sizes, self.anchor_scales, self.anchor_ratios)

    @property
    def loss(self) -> LossSpec:
        """Parameters of the loss. Raises UserInputError for thresholds in the wrong order."""
        return LossSpec(
            alpha=self.focal_alpha, gamma=self.focal_gamma, label_smoothing=self.label_smoothing, box_loss=self.box_loss,
            matcher=Matcher(self.foreground_iou, self.background_iou),
        )  # fmt: skip

    @property
    def nms(self) -> NmsSpec:
        """Post-processing of the trained model."""
        return NmsSpec(iou_threshold=self.nms_iou)

    def learning_rates(self, steps_per_epoch: int) -> Schedule:
        """Return the schedule of the learning rate, in fractions of `learning_rate`."""
        return Schedule(
            self.schedule, self.epochs, steps_per_epoch, self.warmup_epochs, self.drop_epochs, self.drop_factor, self.patience
        )

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain values."""
        return dataclasses.asdict(self)


def options_from_json(values: dict[str, Any], source: str) -> TrainingOptions:
    """Return the options of `to_json`. Raises ModelFolderError where they are another version's."""
    names = {field.name for field in dataclasses.fields(TrainingOptions)}
    if set(values) != names:
        differing = sorted(names ^ set(values))
        raise ModelFolderError(f"{source} was written by another version (settings {differing} differ): train again")
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return TrainingOptions(**plain)
