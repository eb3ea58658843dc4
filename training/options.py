"""What shapes a training run. Kept in the training state, so that a resumed run goes on with the settings that it began with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import AnchorSpec
from retinanet_edge.training.model import LEVEL_STRIDES


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of a run; one field for each flag of train.py, explained there."""

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

    @property
    def anchors(self) -> AnchorSpec:
        """Anchors of P3-P7; `anchor_size` is the side at scale 1, in strides."""
        sizes = tuple(self.anchor_size * stride for stride in LEVEL_STRIDES)
        return AnchorSpec(LEVEL_STRIDES, sizes, self.anchor_scales, self.anchor_ratios)

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
