"""One training run in its model folder: from options, or from where an earlier run ended, to its end."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retinanet_edge.runtime.accuracy import check_classes
from retinanet_edge.runtime.dataset import Dataset, describe, read_dataset
from retinanet_edge.runtime.errors import DatasetError, UserInputError
from retinanet_edge.runtime.model_card import DatasetRecord, ModelCard
from retinanet_edge.runtime.model_folder import (
    CARD_FILE,
    DEFAULT_MODEL,
    REPORT_FOLDER,
    WEIGHTS_FILE,
    data_of_card,
    find_model_folder,
    locked,
    read_card,
    write_card,
)  # fmt: skip
from retinanet_edge.training.checkpoint import LAST_FILE, load_training_state, read_training_settings
from retinanet_edge.training.distributed import choose_device as choose_device  # for other commands
from retinanet_edge.training.distributed import from_first, is_first
from retinanet_edge.training.failures import explain, interruption
from retinanet_edge.training.first_weights import new_network
from retinanet_edge.training.interrupts import interrupts_held
from retinanet_edge.training.keeper import Keeper
from retinanet_edge.training.loop import EpochRecord, Evaluation, Trainer, is_finished
from retinanet_edge.training.model import build_network, check_input_size
from retinanet_edge.training.options import TrainingOptions, options_from_json
from retinanet_edge.training.qat import read_fine_tuning, resumed_quantization

_CHANGES_NOTHING = ("workers", "device")  # settings that a resumed run may have otherwise


def train(options: TrainingOptions, folder: Path | None, *, replace: bool) -> Path:
    """Train a new model into `folder` (None: models/<data>-<time>) and return it; `replace` allows one that holds a model."""
    check_input_size(options.input_height, options.input_width)
    options = dataclasses.replace(options, device=choose_device(options.device or None))
    options.check()  # before anything is read
    target = from_first(lambda: _new_folder(Path(options.data), folder, replace=replace))
    dataset = read_dataset(options.data)
    for line in describe(dataset):
        print(line, flush=True)
    network, card, pretrained = new_network(options, dataset)
    options = options.with_freezing_settled(pretrained=pretrained)
    trainer = Trainer(network, dataset, card.input, card.nms, options)
    with _locked_by_first(target):
        target = target.resolve()
        _run(trainer, target, dataclasses.replace(card, dataset=_dataset_record(dataset, target)), dataset)
    return target


def fine_tune(model: Path, *, data: Path | None, given: Mapping[str, Any], replace: bool) -> Path:
    """Fine-tune a trained model for INT8 into the folder <model>-qat and return that; arguments and errors as read_fine_tuning.

    data: its data set, where that has moved. replace: allows a folder that holds a model.
    """
    start = from_first(lambda: read_fine_tuning(model, data, given))
    options = dataclasses.replace(start.options, device=choose_device(start.options.device or None))
    options.check()
    target = from_first(lambda: _new_folder(Path(options.data), start.target, replace=replace))
    dataset = read_dataset(options.data)
    check_classes(dataset, start.card)
    trainer = Trainer(start.network(dataset), dataset, start.card.input, start.card.nms, options)
    with _locked_by_first(target):
        print(f"fine-tuning {start.source} for INT8 into {target}, {options.epochs} epochs", flush=True)
        _run(trainer, target, dataclasses.replace(start.new_card(), dataset=_dataset_record(dataset, target)), dataset)
    return target


def resume(folder: Path, *, data: Path | None, given: Mapping[str, Any]) -> Path:
    """Go on with an interrupted run, with the settings it began with, and return its folder; `data` where its data set has moved to.

    `given`: settings that were asked for. Raises UserInputError, saying which, where they are not those of the run.
    """
    target = from_first(lambda: find_model_folder(folder))
    with _locked_by_first(target):
        card, options, settings = from_first(lambda: _read_run(target, given))
        history = [EpochRecord(**record) for record in settings["history"]]
        device = choose_device(given.get("device") or options.device)
        options = dataclasses.replace(options, device=device, workers=given.get("workers", options.workers))
        dataset = read_dataset(data or data_of_card(target, card))
        _check_same_data(card, dataset)
        card = dataclasses.replace(card, dataset=_dataset_record(dataset, target))
        network = build_network(card.network, card.input, card.anchors, len(card.classes))
        network.quantization = resumed_quantization(target) if options.qat else None
        trainer = Trainer(network, dataset, card.input, card.nms, options)
        if is_first():
            write_card(target, card)
            load_training_state(target / LAST_FILE, trainer.modules, trainer.optimizer)
        trainer.go_on(history, settings["step"])
        print(f"resuming after epoch {len(history)} of {options.epochs}", flush=True)
        _run(trainer, target, card, dataset)
    return target


def _new_folder(data: Path, folder: Path | None, *, replace: bool) -> Path:
    target = folder or DEFAULT_MODEL.parent / f"{_plain_name(data)}-{time.strftime('%Y%m%d-%H%M%S')}"
    if (target / CARD_FILE).exists() and not replace:
        raise UserInputError(
            f"{target} holds a model already: give --resume to go on, --replace to begin anew, or another --model"
        )
    if target.is_dir() and not (target / CARD_FILE).exists():
        # A model's own files are removed when there are better ones, so the folder must be its own.
        own = (WEIGHTS_FILE, LAST_FILE)  # what a run leaves that was killed while it wrote its first epoch
        files = sorted(path.name for path in target.rglob("[!.]*") if path.is_file() and path.name not in own)
        if files:
            raise UserInputError(f"--model must be a new or empty folder, or a model's, got {target}, which holds {files[0]}: name another")
    return target


def _read_run(folder: Path, given: Mapping[str, Any]) -> tuple[ModelCard, TrainingOptions, dict[str, Any]]:
    """Return card, options and settings of a run that can go on with what is `given`."""
    state = folder / LAST_FILE
    settings = read_training_settings(state)
    options = options_from_json(settings["options"], str(state))
    differing = [
        f"{name} is {getattr(options, name)}, not {value}"
        for name, value in given.items() if name not in _CHANGES_NOTHING and value != getattr(options, name)
    ]  # fmt: skip
    if differing:
        raise UserInputError(
            f"a resumed run keeps its settings, in which {', '.join(differing)}: leave such flags out, or begin anew without --resume"
        )
    history = [EpochRecord(**record) for record in settings["history"]]
    if is_finished(history, options):
        raise UserInputError(f"{folder} is trained to its end ({len(history)} epochs): begin anew without --resume")
    return read_card(folder), options, settings


@contextmanager
def _locked_by_first(folder: Path) -> Iterator[None]:
    """Hold the folder in the first process, which alone writes it."""
    if not is_first():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        yield


def _run(trainer: Trainer, folder: Path, card: ModelCard, dataset: Dataset) -> None:
    keeper: Keeper | None = None
    kept = len(trainer.history)
    after_epoch: Callable[[Evaluation | None], None] = _keep_nothing
    if is_first():
        (folder / REPORT_FOLDER).mkdir(exist_ok=True)
        keeper = Keeper(trainer, folder, card, dataset)
        after_epoch = keeper.after_epoch
    try:
        with interrupts_held() as raise_held:
            try:
                trainer.run(after_step=raise_held, after_epoch=after_epoch)
            except RuntimeError:
                raise_held()  # where another process stopped for it first
                raise
    except KeyboardInterrupt:
        raise interruption(keeper.kept_epochs if keeper else kept, folder) from None
    except RuntimeError as error:
        explained = explain(error, keeper.kept_epochs if keeper else kept, folder)
        if explained is None:
            raise
        raise explained from None
    finally:
        if keeper:
            keeper.close()


def _keep_nothing(_: Evaluation | None) -> None:
    """Leave the writing to the first process."""


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
