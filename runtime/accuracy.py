"""AP of a model folder on a data set: what runs here is measured, the figures become a table and a line in the card."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from retinanet_edge.runtime.coco import CocoMetrics, measure_accuracy
from retinanet_edge.runtime.dataset import Dataset, Sample, Split, read_dataset
from retinanet_edge.runtime.engine import Engine, open_engine
from retinanet_edge.runtime.errors import DatasetError, ModelFolderError
from retinanet_edge.runtime.model_card import Accuracy, ModelCard
from retinanet_edge.runtime.model_folder import data_of_card, file_sha256, find_model_folder, locked, read_card, write_card


def evaluate_model(model: Path, data: Path | None, split: Split, engine_choice: str) -> list[str]:
    """Measure AP of a model and record it in the card where the data are the card's; return the table, line by line.

    data: None for the card's own. Raises ModelFolderError, DatasetError (data that are missing, broken, or of other classes, a split
    without objects) and EngineError.
    """
    folder = find_model_folder(model)
    card = read_card(folder)
    dataset = read_dataset(data or data_of_card(folder, card))
    check_classes(dataset, card)
    samples = _samples_with_objects(dataset, split)
    with open_engine(folder, card, engine_choice) as engine:
        sha256 = file_sha256(engine.file)
        metrics, _ = measure_accuracy(engine, card, samples, card.classes, f"AP of {engine.name}")
        lines = [f"{engine.name}, {split} split of {dataset.root}, {len(samples)} images", *table(metrics)]
        measured = _record(engine, split, metrics, sha256)
    return [*lines, _keep(folder, measured, dataset)]


def check_classes(dataset: Dataset, card: ModelCard) -> None:
    """Raise DatasetError, naming the differences, unless the data set has the model's classes in the model's order."""
    if dataset.classes == card.classes:
        return
    lacks = [name for name in card.classes if name not in dataset.classes]
    extra = [name for name in dataset.classes if name not in card.classes]
    differences = [f"{what} {_some(names)}" for what, names in (("without", lacks), ("also", extra)) if names]
    raise DatasetError(
        f"{dataset.root} must have the {len(card.classes)} classes of the model, got {len(dataset.classes)} "
        f"({', '.join(differences) or 'the same in another order'}): give the data of this model with --data"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def table(metrics: CocoMetrics) -> list[str]:
    """Return AP, AP50 and AP75 over all classes, AP by object size, and AP and AP50 of each class, as lines of a table."""
    width = max(len(name) for name in ("all classes", *metrics.per_class))
    sizes = (("small", metrics.ap_small), ("medium", metrics.ap_medium), ("large", metrics.ap_large))
    rows = [("all classes", (metrics.ap, metrics.ap50, metrics.ap75)), *metrics.per_class.items()]
    return [
        f"{'':{width}}     AP   AP50   AP75",
        *(f"{name:{width}}  {'  '.join(map(_figure, figures))}" for name, figures in rows),
        "AP by object size: " + ", ".join(f"{name} {_figure(value)}" for name, value in sizes),
    ]


def _figure(value: float) -> str:
    return "    -" if math.isnan(value) else f"{value:.3f}"


def _samples_with_objects(dataset: Dataset, split: Split) -> tuple[Sample, ...]:
    samples = dataset.split(split)
    if not any((~sample.crowd).any() for sample in samples):
        raise DatasetError(f"{dataset.root} must have objects in its {split} split, got {len(samples)} images without: try --split val")
    return samples


def _record(engine: Engine, split: Split, metrics: CocoMetrics, sha256: str) -> Accuracy:
    return Accuracy(engine.precision, engine.backend, split, metrics.images, metrics.ap, metrics.ap50, metrics.ap75, sha256)


def _keep(folder: Path, measured: Accuracy, dataset: Dataset) -> str:
    """Write the figures into the card if they belong there and it can be written; return the line that says which."""
    try:
        with locked(folder):
            card = read_card(folder)
            if card.dataset is None or card.dataset.sha256 != dataset.sha256:
                return "not recorded in card.json: the model was trained on other data"
            write_card(folder, card.with_accuracy(measured))
    except (OSError, ModelFolderError) as error:
        print(f"not recorded in card.json: {error}", file=sys.stderr)
        return "not recorded in card.json"
    return f"recorded in {folder / 'card.json'}"
