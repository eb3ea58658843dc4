"""What shapes a training run. Kept in the training state, so that a resumed run goes on with the settings that it began with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import AnchorSpec, NetworkSpec, NmsSpec
from retinanet_edge.training.augment import AugmentationSpec
from retinanet_edge.training.losses import BoxLoss, LossSpec
from retinanet_edge.training.model import LEVEL_STRIDES
from retinanet_edge.training.presets import resolve
from retinanet_edge.training.profiles import ProfileName
from retinanet_edge.training.schedules import Schedule, ScheduleKind
from retinanet_edge.training.semantics import SEMANTICS, Semantics

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of a run; one field for each flag of train.py, explained there. `batch` is of all processes and parts together.

    freeze, freeze_norms: None for what the profile does with the first weights that are found (`with_freezing_settled`).
    """

    data: str
    backbone: str
    weights: str
    new_classes: bool
    input_height: int
    input_width: int
    fpn_channels: int
    head_channels: int
    head_depth: int
    norm: Literal["none", "batch", "group"]
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
    scale_jitter: tuple[float, float] = (0.6, 1.6)
    color_jitter: float = 0.4
    rand_augment: int = 0
    rand_magnitude: float = 0.5
    mosaic: float = 0.0
    mosaic_off_epochs: int = 5
    precision: Precision = "fp32"
    sync_norm: bool = False
    freeze: int | None = None
    freeze_norms: bool | None = None
    foreground_iou: float = 0.5
    background_iou: float = 0.4
    nms_iou: float = 0.5
    score_threshold: float = 0.05
    max_detections: int = 100
    top_k: int | None = None
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    box_loss: BoxLoss = "smooth_l1"
    profile: ProfileName = "default"
    qat: bool = False

    @property
    def semantics(self) -> Semantics:
        """What the profile decides."""
        return SEMANTICS[self.profile]

    @property
    def anchors(self) -> AnchorSpec:
        """Anchors of P3-P7; `anchor_size` is the side at scale 1, in strides."""
        sizes = tuple(self.anchor_size * stride for stride in LEVEL_STRIDES)
        return dataclasses.replace(
            self.semantics.anchors, strides=LEVEL_STRIDES, sizes=sizes, scales=self.anchor_scales, ratios=self.anchor_ratios
        )

    @property
    def network(self) -> NetworkSpec:
        """What is built on the backbone."""
        semantics = self.semantics
        return NetworkSpec(
            self.backbone, self.fpn_channels, self.head_channels, self.head_depth, self.norm,
            semantics.p6_from, semantics.tensorflow_padding, semantics.loss.variances,
        )  # fmt: skip

    @property
    def loss(self) -> LossSpec:
        """Parameters of the loss. Raises UserInputError for thresholds in the wrong order."""
        loss = self.semantics.loss
        matcher = dataclasses.replace(loss.matcher, foreground_iou=self.foreground_iou, background_iou=self.background_iou)
        return dataclasses.replace(
            loss, alpha=self.focal_alpha, gamma=self.focal_gamma, label_smoothing=self.label_smoothing, box_loss=self.box_loss,
            matcher=matcher,
        )  # fmt: skip

    @property
    def nms(self) -> NmsSpec:
        """Post-processing of the trained model."""
        return NmsSpec(self.score_threshold, self.nms_iou, self.max_detections, self.top_k)

    @property
    def augmentation(self) -> AugmentationSpec:
        """What may happen to a training image. Raises UserInputError for what cannot be."""
        return AugmentationSpec(
            self.augment, self.flip, self.scale_jitter, self.color_jitter, self.rand_augment, self.rand_magnitude, self.mosaic,
            self.mosaic_off_epochs, self.semantics.rand_rate, self.semantics.rand_spread,
        )  # fmt: skip

    def check(self) -> None:
        """Raise UserInputError for settings that cannot be, or do not go together, and for a name that is no backbone's."""
        _ = self.loss, self.nms
        resolve(self.backbone)
        self.augmentation.check_epochs(self.epochs)

    def with_freezing_settled(self, *, pretrained: bool) -> TrainingOptions:
        """Return the options with what the profile freezes of a backbone that is `pretrained`, and nothing of one that is not."""
        stages, norms = (self.semantics.frozen_stages, self.semantics.frozen_norms) if pretrained else (0, False)
        return dataclasses.replace(
            self,
            freeze=stages if self.freeze is None else self.freeze,
            freeze_norms=norms if self.freeze_norms is None else self.freeze_norms,
        )

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
