"""Quantization-aware fine-tuning: a trained model goes on for a few epochs as its INT8 graph computes, in a folder of its own.

    models/NAME       weights.safetensors, last.safetensors for the settings, quantization.json of its model.int8.onnx; none is changed
    models/NAME-qat   weights.safetensors and learned_ranges.json, of which export_onnx.py and build_engine.py --int8 make the rest
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from retinanet_edge.runtime.dataset import Dataset
from retinanet_edge.runtime.errors import ModelFolderError, UserInputError
from retinanet_edge.runtime.model_card import ModelCard
from retinanet_edge.runtime.model_folder import data_of_card, find_model_folder, read_card
from retinanet_edge.runtime.quantization_plan import LEARNED_RANGES_FILE, QUANTIZATION_FILE, QuantizationPlan, read_plan
from retinanet_edge.training.checkpoint import LAST_FILE, load_network, read_training_settings
from retinanet_edge.training.fake_quantization import FakeQuantization
from retinanet_edge.training.model import RetinaNet
from retinanet_edge.training.options import TrainingOptions

_EPOCHS = 3
_RATE = 0.1  # of the training's: a hundredth makes up for less where INT8 loses much, and where it does not the two are alike
# Settings of the model, which fine-tuning takes as it is, and the flags that set them.
_OF_THE_MODEL = {
    "input_height": "--input", "input_width": "--input",
    **{name: f"--{name.replace('_', '-')}" for name in (
        "backbone", "weights", "new_classes", "fpn_channels", "head_channels", "head_depth", "norm", "anchor_size", "anchor_scales",
        "anchor_ratios", "profile", "freeze_norms", "sync_norm", "score_threshold", "max_detections", "nms_iou", "top_k",
    )},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """What a run begins with: the model's folder, its card, which is to be that of the new folder, its plan, and the settings."""

    source: Path
    target: Path
    card: ModelCard
    plan: QuantizationPlan
    options: TrainingOptions

    def network(self, dataset: Dataset) -> RetinaNet:
        """Return the trained network, computing as its INT8 graph; it is to be trained on `dataset`."""
        network = load_network(self.source, self.card)
        same = self.card.dataset is not None and self.card.dataset.sha256 == dataset.sha256
        network.quantization = FakeQuantization(self.plan if same else dataclasses.replace(self.plan, fp32_ap=None))
        return network

    def new_card(self) -> ModelCard:
        """Return the card that the new folder begins with."""
        options, former = self.options, self.card.training
        assert former is not None
        record = dataclasses.replace(
            former, start=f"{self.source.name}, fine-tuned for INT8", epochs=options.epochs, seed=options.seed, torch=torch.__version__,
            foreground_iou=options.foreground_iou, background_iou=options.background_iou,
        )  # fmt: skip
        return self.card.with_training(record)


def read_fine_tuning(model: Path, data: Path | None, given: Mapping[str, Any]) -> FineTuning:
    """Return what fine-tuning the model begins with; `given`: settings that were asked for.

    Raises UserInputError for settings that are the model's, ModelFolderError where the folder lacks what is needed.
    """
    fixed = sorted({_OF_THE_MODEL[name] for name in _OF_THE_MODEL.keys() & given.keys()})
    if fixed:
        raise UserInputError(f"--qat takes the network of {model} as it is, got {', '.join(fixed)}: leave such flags out")
    source = find_model_folder(model)
    card = read_card(source)
    plan = _read_plan(source, card)
    state = source / LAST_FILE
    if not state.is_file():
        raise ModelFolderError(f"{state}, whose settings fine-tuning takes over, does not exist: bring it from where the model was trained")
    options = _options(read_training_settings(state)["options"], {"data": str(data or data_of_card(source, card)), **given})
    return FineTuning(source, source.with_name(f"{source.name}-qat"), card, plan, options)


def resumed_quantization(folder: Path) -> FakeQuantization:
    """Return what a network of a run that goes on has, before its state is loaded."""
    return FakeQuantization(read_plan(folder / LEARNED_RANGES_FILE, "begin anew without --resume"))


def _read_plan(folder: Path, card: ModelCard) -> QuantizationPlan:
    remedy = f"run python export/export_onnx.py --model {folder}, then python export/build_engine.py --int8 --model {folder}"
    plan = read_plan(folder / QUANTIZATION_FILE, remedy)
    if card.training is None or plan.weights_sha256 != card.training.weights_sha256:
        raise ModelFolderError(f"{folder / QUANTIZATION_FILE} must be of the weights beside it, got one of others: {remedy}")
    return plan


def _options(former: Mapping[str, Any], given: Mapping[str, Any]) -> TrainingOptions:
    """Return the settings of the training, of which an older version may have had fewer, with what fine-tuning does otherwise."""
    fields = {field.name for field in dataclasses.fields(TrainingOptions)}
    known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in former.items() if name in fields}
    settings = TrainingOptions(**known)
    otherwise: dict[str, Any] = {
        "qat": True, "epochs": _EPOCHS, "learning_rate": settings.learning_rate * (1 if settings.qat else _RATE), "schedule": "cosine",
        "warmup_epochs": 0.0, "eval_every": 1, "early_stopping": 0, "mosaic": 0.0, "device": "", **given,
    }  # fmt: skip
    return dataclasses.replace(settings, **otherwise)
