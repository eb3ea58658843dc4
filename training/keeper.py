"""What an epoch leaves in the model folder: weights and card, training state, history, curves, pictures, and the link models/latest."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from retinanet_edge.runtime.dataset import Dataset
from retinanet_edge.runtime.model_card import ModelCard
from retinanet_edge.runtime.model_folder import (
    CARD_FILE,
    DEFAULT_MODEL,
    REPORT_FOLDER,
    WEIGHTS_FILE,
    file_sha256,
    write_atomically,
    write_card,
)  # fmt: skip
from retinanet_edge.runtime.quantization_plan import LEARNED_RANGES_FILE, QUANTIZATION_FILE, write_plan
from retinanet_edge.training.checkpoint import LAST_FILE, save_training_state, save_weights
from retinanet_edge.training.events import EVENTS_FOLDER, Events
from retinanet_edge.training.figures import save_detection_sheet, save_loss_curve, save_pr_curve
from retinanet_edge.training.loop import EpochRecord, Evaluation, Trainer


class Keeper:
    """Writes what an epoch leaves behind: weights and card of the best one so far, all that resuming needs, and pictures.

    Before the first evaluation the newest epoch is the best known, so that the folder can be exported from its first epoch on.
    """

    def __init__(self, trainer: Trainer, folder: Path, card: ModelCard, dataset: Dataset) -> None:
        self.kept_epochs = len(trainer.history)
        self._trainer, self._folder, self._dataset = trainer, folder, dataset
        self._card = card
        self._events: Events | None = None
        self._best_ap = max((r.ap for r in trainer.history if r.ap is not None), default=-1.0)

    def after_epoch(self, evaluation: Evaluation | None) -> None:
        """Write what the epoch now last in the trainer's history leaves."""
        first, ap = self.kept_epochs == 0, -1.0 if evaluation is None else evaluation.metrics.ap
        if first:
            _remove_former_model(self._folder)
        best = ap >= self._best_ap
        if best:
            self._best_ap = ap
            self._card = _save_best(self._trainer, self._folder, self._card)
        # After the weights: where a run ends between the two, resuming repeats the epoch, and with it the weights.
        _save_last(self._trainer, self._folder)
        self.kept_epochs = len(self._trainer.history)
        if first:
            _point_latest(self._folder)
        _save_history(self._folder / REPORT_FOLDER / "training.csv", self._trainer.history)
        self._add_events(evaluation)
        if evaluation is not None:
            _save_pictures(self._folder / REPORT_FOLDER, self._trainer, evaluation, self._dataset, best=best)

    def close(self) -> None:
        """End what writes in the background."""
        if self._events is not None:
            self._events.close()

    def _add_events(self, evaluation: Evaluation | None) -> None:
        record = self._trainer.history[-1]
        if self._events is None:  # only now: a run that ends before its first epoch leaves the former model's
            self._events = Events(self._folder, record.epoch - 1)
        self._events.add(record, None if evaluation is None else evaluation.metrics)


def _save_best(trainer: Trainer, folder: Path, card: ModelCard) -> ModelCard:
    network = trainer.averaged_network
    save_weights(folder / WEIGHTS_FILE, network)
    assert card.training is not None
    training = dataclasses.replace(
        card.training, weights_sha256=file_sha256(folder / WEIGHTS_FILE), best_epoch=len(trainer.history)
    )
    if network.quantization is not None:
        write_plan(folder / LEARNED_RANGES_FILE, network.quantization.plan(training.weights_sha256))
    card = card.with_training(training)
    write_card(folder, card)
    return card


def _save_pictures(report: Path, trainer: Trainer, evaluation: Evaluation, dataset: Dataset, *, best: bool) -> None:
    save_loss_curve(report / "loss.png", trainer.history)
    if best:
        save_pr_curve(report / "pr_curve.png", evaluation.metrics)
        save_detection_sheet(report / "val_detections.png", dataset.val, evaluation.detections, dataset.classes)


def _save_last(trainer: Trainer, folder: Path) -> None:
    save_training_state(folder / LAST_FILE, trainer.modules, trainer.optimizer, trainer.settings())


def _save_history(path: Path, history: Sequence[EpochRecord]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in dataclasses.fields(EpochRecord)])
    writer.writeheader()
    writer.writerows(map(dataclasses.asdict, history))
    write_atomically(path, table.getvalue().encode())


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
    for name in (CARD_FILE, WEIGHTS_FILE, LAST_FILE, QUANTIZATION_FILE, LEARNED_RANGES_FILE):
        (folder / name).unlink(missing_ok=True)
    # The report too, or report.py would show the former model's stream and times as this one's.
    report = [path for path in (folder / REPORT_FOLDER).iterdir() if path.is_file()]
    for path in (*folder.glob("model*.onnx"), *folder.glob("model*.engine"), *(folder / EVENTS_FOLDER).glob("events*"), *report):
        path.unlink()
