"""One training run in its model folder: from options, or from where an earlier run ended, to the last epoch."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import torch

from retinanet_edge.runtime.dataset import Dataset, describe, read_dataset
from retinanet_edge.runtime.errors import DatasetError, RetinaNetEdgeError, UserInputError
from retinanet_edge.runtime.model_card import DatasetRecord, InputSpec, ModelCard, NetworkSpec, TrainingRecord
from retinanet_edge.runtime.model_folder import (
    CARD_FILE,
    DEFAULT_MODEL,
    REPORT_FOLDER,
    data_of_card,
    find_model_folder,
    locked,
    read_card,
    write_card,
)  # fmt: skip
from retinanet_edge.training.backbones import make_backbone
from retinanet_edge.training.checkpoint import (
    LAST_FILE,
    load_timm_weights,
    load_training_state,
    load_weights,
    read_tensors,
    read_training_settings,
)  # fmt: skip
from retinanet_edge.training.interrupts import interrupts_held
from retinanet_edge.training.keeper import Keeper
from retinanet_edge.training.loop import EpochRecord, Trainer
from retinanet_edge.training.model import RetinaNet, build_network, check_input_size
from retinanet_edge.training.options import TrainingOptions, options_from_json

_NEW_CLASS_LAYER = "class_head.predict."  # all that depends on the class list
_WORKER_TERMINATED = "is killed by signal: Terminated"
# What torch says, without a type of its own, where the machine is at its limits -> what to do.
_LIMITS = {
    "out of memory": "give a smaller --batch or --input",
    "DefaultCPUAllocator": "give a smaller --batch or --input",
    "DataLoader worker": "give --workers 0, or more memory (in a container also shared memory)",
}


def train(options: TrainingOptions, folder: Path | None, *, replace: bool) -> Path:
    """Train a new model into `folder` (None: models/<data>-<time>) and return it; `replace` allows one that holds a model."""
    check_input_size(options.input_height, options.input_width)
    target = folder or DEFAULT_MODEL.parent / f"{_plain_name(Path(options.data))}-{time.strftime('%Y%m%d-%H%M%S')}"
    if (target / CARD_FILE).exists() and not replace:
        raise UserInputError(
            f"{target} holds a model already: give --resume to go on, --replace to begin anew, or another --model"
        )
    dataset = read_dataset(options.data)
    for line in describe(dataset):
        print(line, flush=True)
    network, card = _new_network(options, dataset)
    target.mkdir(parents=True, exist_ok=True)
    target = target.resolve()
    with locked(target):
        trainer = Trainer(network, dataset, card.input, card.nms, options)
        _run(trainer, target, dataclasses.replace(card, dataset=_dataset_record(dataset, target)), dataset)
    return target


def choose_device(name: str | None) -> str:
    """Return `name`, or the best device here for None. Raises UserInputError for a device that is not there."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserInputError(f"--device must be one that torch can use here, got {name} ({reason}): give cpu") from None
    return name


def resume(folder: Path, *, data: Path | None, device: str | None) -> Path:
    """Go on with an interrupted run, with the settings it began with, and return its folder; `data` where its data set has moved to."""
    target = find_model_folder(folder)
    with locked(target):
        settings = read_training_settings(target / LAST_FILE)
        options = options_from_json(settings["options"], str(target / LAST_FILE))
        options = dataclasses.replace(options, device=choose_device(device or options.device))
        history = [EpochRecord(**record) for record in settings["history"]]
        if len(history) >= options.epochs:
            raise UserInputError(f"{target} is trained to its end ({options.epochs} epochs): begin anew without --resume")
        card = read_card(target)
        dataset = read_dataset(data or data_of_card(target, card))
        _check_same_data(card, dataset)
        card = dataclasses.replace(card, dataset=_dataset_record(dataset, target))
        write_card(target, card)
        network = build_network(card.network, card.input, card.anchors, len(card.classes))
        trainer = Trainer(network, dataset, card.input, card.nms, options)
        load_training_state(target / LAST_FILE, trainer.modules, trainer.optimizer)
        trainer.history = history
        print(f"resuming after epoch {len(history)} of {options.epochs}", flush=True)
        _run(trainer, target, card, dataset)
    return target


def _run(trainer: Trainer, folder: Path, card: ModelCard, dataset: Dataset) -> None:
    (folder / REPORT_FOLDER).mkdir(exist_ok=True)
    keeper = Keeper(trainer, folder, card, dataset)
    try:
        with interrupts_held() as raise_held:
            trainer.run(after_step=raise_held, after_epoch=keeper.after_epoch)
    except KeyboardInterrupt:
        raise _interruption(keeper.kept_epochs, folder) from None
    except RuntimeError as error:
        if _WORKER_TERMINATED in str(error):  # SIGTERM to all of the run's processes, which reached a worker first
            raise _interruption(keeper.kept_epochs, folder) from None
        advice = next((advice for text, advice in _LIMITS.items() if text in str(error)), None)
        if advice is None:
            raise
        raise RetinaNetEdgeError(f"{str(error).splitlines()[0].split('. ')[0].rstrip('.')}: {advice}") from None


def _interruption(kept_epochs: int, folder: Path) -> KeyboardInterrupt:
    if not kept_epochs:
        return KeyboardInterrupt("interrupted before the first epoch ended, nothing is kept: give the same command again")
    return KeyboardInterrupt(
        f"interrupted, epoch {kept_epochs} is kept: go on with python training/train.py --resume --model {folder}"
    )


def _new_network(options: TrainingOptions, dataset: Dataset) -> tuple[RetinaNet, ModelCard]:
    torch.manual_seed(options.seed)
    file = None if options.weights in ("auto", "imagenet", "none") else Path(options.weights)
    backbone, start = make_backbone(options.backbone, "none" if file else options.weights)
    spec = NetworkSpec(options.backbone, options.fpn_channels, options.head_channels, options.head_depth, options.norm)
    input_spec = InputSpec(options.input_height, options.input_width, backbone.info.mean, backbone.info.std)
    network = RetinaNet(backbone, spec, input_spec, options.anchors, len(dataset.classes))
    if file:
        start = str(file)
        _start_from_file(network, file, dataset.classes, options.new_classes)
    card = ModelCard(dataset.classes, input_spec, options.anchors, spec)
    record = TrainingRecord("", start, options.epochs, 0, options.seed, torch.__version__)
    return network, dataclasses.replace(card, training=record)


def _start_from_file(network: RetinaNet, file: Path, classes: tuple[str, ...], new_classes: bool) -> None:
    tensors = read_tensors(file)
    if not any(key.startswith("backbone.") for key in tensors):
        load_timm_weights(network.backbone.published, tensors, str(file))
        return
    if new_classes:
        own = network.state_dict()
        tensors = {key: own[key] if key.startswith(_NEW_CLASS_LAYER) else value for key, value in tensors.items()}
    elif (file.parent / CARD_FILE).is_file():
        former = read_card(file.parent).classes
        if former != classes:
            raise UserInputError(
                f"the classes must be those of {file}, {list(former)}, got {list(classes)}: "
                "give --new-classes to keep everything but the last class layer"
            )
    load_weights(network, tensors, str(file))


def _dataset_record(dataset: Dataset, folder: Path) -> DatasetRecord:
    path = os.path.relpath(dataset.root.resolve(), folder)
    counts = (len(dataset.train), len(dataset.val), len(dataset.test))
    return DatasetRecord(dataset.format, path, dataset.sha256, dataset.split_rule, *counts)


def _check_same_data(card: ModelCard, dataset: Dataset) -> None:
    assert card.dataset is not None
    if dataset.classes != card.classes:
        raise DatasetError(f"the data set must have the classes {list(card.classes)}, got {list(dataset.classes)}: train anew")
    if dataset.sha256 != card.dataset.sha256:
        raise DatasetError(f"{dataset.root} has changed since the run began: train anew, or bring the former data back")


def _plain_name(root: Path) -> str:
    stem = root.resolve().stem.lower()
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem) or "model"
