"""One training run in its model folder: from options to a network, and what is written after each epoch."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import sys
import time
from pathlib import Path

import torch

from retinanet_edge.runtime.dataset import Dataset, describe, read_dataset
from retinanet_edge.runtime.errors import DatasetError, UserInputError
from retinanet_edge.runtime.model_card import DatasetRecord, InputSpec, ModelCard, NetworkSpec, TrainingRecord
from retinanet_edge.runtime.model_folder import (
    CARD_FILE,
    DEFAULT_MODEL,
    INT8_FILE,
    ONNX_FILE,
    REPORT_FOLDER,
    WEIGHTS_FILE,
    data_of_card,
    file_sha256,
    find_model_folder,
    locked,
    read_card,
    write_atomically,
    write_card,
)  # fmt: skip
from retinanet_edge.training.backbones import make_backbone
from retinanet_edge.training.checkpoint import (
    LAST_FILE,
    load_training_state,
    load_weights,
    read_tensors,
    read_training_settings,
    save_training_state,
    save_weights,
)  # fmt: skip
from retinanet_edge.training.figures import save_detection_sheet, save_loss_curve, save_pr_curve
from retinanet_edge.training.loop import EpochRecord, Evaluation, Trainer
from retinanet_edge.training.model import RetinaNet, check_input_size
from retinanet_edge.training.options import TrainingOptions, options_from_json

_NEW_CLASS_LAYER = "class_head.predict."  # all that depends on the class list


def train(options: TrainingOptions, folder: Path | None, *, replace: bool) -> Path:
    """Train a new model into `folder` (None: models/<data>-<time>) and return it; `replace` allows one that holds a model."""
    check_input_size(options.input_height, options.input_width)
    dataset = read_dataset(options.data)
    for line in describe(dataset):
        print(line, flush=True)
    network, card = _new_network(options, dataset)
    target = folder or DEFAULT_MODEL.parent / f"{_plain_name(dataset.root)}-{time.strftime('%Y%m%d-%H%M%S')}"
    if (target / CARD_FILE).exists() and not replace:
        raise UserInputError(
            f"{target} holds a model already: give --resume to go on, --replace to begin anew, or another --model"
        )
    target.mkdir(parents=True, exist_ok=True)
    target = target.resolve()
    with locked(target):
        _remove_former_model(target)
        record = _dataset_record(dataset, target)
        trainer = Trainer(network, dataset, card.input, card.nms, options)
        _run(trainer, target, dataclasses.replace(card, dataset=record), dataset)
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


def resume(folder: Path, device: str | None) -> Path:
    """Go on with an interrupted run, with the settings it began with, and return its folder."""
    target = find_model_folder(folder)
    with locked(target):
        settings = read_training_settings(target / LAST_FILE)
        options = options_from_json(settings["options"], str(target / LAST_FILE))
        history = [EpochRecord(**record) for record in settings["history"]]
        if len(history) >= options.epochs:
            raise UserInputError(f"{target} is trained to its end ({options.epochs} epochs): begin anew without --resume")
        options = dataclasses.replace(options, weights="none", device=device or options.device)
        card = read_card(target)
        dataset = read_dataset(data_of_card(target, card))
        _check_same_data(card, dataset)
        network, _ = _new_network(options, dataset)
        trainer = Trainer(network, dataset, card.input, card.nms, options)
        load_training_state(target / LAST_FILE, trainer.modules, trainer.optimizer)
        trainer.history = history
        print(f"resuming after epoch {len(history)} of {options.epochs}", flush=True)
        _run(trainer, target, card, dataset)
    return target


class _Keeper:
    """Writes what an epoch leaves behind: the training state, and weights, card and pictures whenever AP is the best so far."""

    def __init__(self, trainer: Trainer, folder: Path, card: ModelCard, dataset: Dataset) -> None:
        self._trainer, self._folder, self._dataset = trainer, folder, dataset
        self._card = card
        self._best_ap = max((r.ap for r in trainer.history if r.ap is not None), default=-1.0)

    def after_epoch(self, evaluation: Evaluation | None) -> None:
        _save_last(self._trainer, self._folder)
        if evaluation is not None:
            save_loss_curve(self._folder / REPORT_FOLDER / "loss.png", self._trainer.history)
            if evaluation.metrics.ap > self._best_ap:
                self._best_ap = evaluation.metrics.ap
                self._card = _save_best(self._trainer, self._folder, self._card, evaluation, self._dataset)
        if len(self._trainer.history) == 1:
            _point_latest(self._folder)


def _run(trainer: Trainer, folder: Path, card: ModelCard, dataset: Dataset) -> None:
    (folder / REPORT_FOLDER).mkdir(exist_ok=True)
    write_card(folder, card)
    try:
        trainer.run(_Keeper(trainer, folder, card, dataset).after_epoch)
    except KeyboardInterrupt:
        done = len(trainer.history)
        print(f"interrupted after epoch {done}; go on with: python training/train.py --resume --model {folder}", file=sys.stderr)
        raise


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


def _save_best(trainer: Trainer, folder: Path, card: ModelCard, evaluation: Evaluation, dataset: Dataset) -> ModelCard:
    save_weights(folder / WEIGHTS_FILE, trainer.averaged_network)
    assert card.training is not None
    training = dataclasses.replace(
        card.training, weights_sha256=file_sha256(folder / WEIGHTS_FILE), best_epoch=evaluation.epoch
    )
    card = card.with_training(training)
    write_card(folder, card)
    report = folder / REPORT_FOLDER
    save_pr_curve(report / "pr_curve.png", evaluation.metrics)
    save_detection_sheet(report / "val_detections.png", dataset.val, evaluation.detections, dataset.classes)
    return card


def _save_last(trainer: Trainer, folder: Path) -> None:
    history = [dataclasses.asdict(record) for record in trainer.history]
    settings = {"options": trainer.options.to_json(), "history": history}
    save_training_state(folder / LAST_FILE, trainer.modules, trainer.optimizer, settings)
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in dataclasses.fields(EpochRecord)])
    writer.writeheader()
    writer.writerows(history)
    write_atomically(folder / REPORT_FOLDER / "training.csv", table.getvalue().encode())


def _point_latest(folder: Path) -> None:
    """Repoint models/latest at a folder beside it; a folder elsewhere is named with --model anyway."""
    link = DEFAULT_MODEL
    if folder.parent != link.parent.resolve():
        return
    if link.exists() and not link.is_symlink():
        print(f"{link} is not a link, so it stays: give --model {folder} to the next commands", file=sys.stderr)
        return
    temporary = link.with_name(f".{link.name}-{os.getpid()}")
    temporary.symlink_to(folder.name)
    temporary.replace(link)


def _remove_former_model(folder: Path) -> None:
    for name in (CARD_FILE, WEIGHTS_FILE, LAST_FILE, ONNX_FILE, INT8_FILE):
        (folder / name).unlink(missing_ok=True)


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
