"""AP of a model folder on a data set: what runs here is measured, the figures become a table, a line in the card and a page."""

from __future__ import annotations

import sys
from pathlib import Path

from retinanet_edge.runtime.coco import CocoFigures, CocoMetrics, measure_accuracy
from retinanet_edge.runtime.dataset import Dataset, Sample, Split, read_dataset
from retinanet_edge.runtime.engine import Engine, open_engine
from retinanet_edge.runtime.errors import DatasetError, ModelFolderError
from retinanet_edge.runtime.evaluation_page import Evaluated, figure, write_evaluation
from retinanet_edge.runtime.model_card import Accuracy, ModelCard
from retinanet_edge.runtime.model_folder import data_of_card, file_sha256, find_model_folder, locked, read_card, write_card


def evaluate_model(
    model: Path, data: Path | None, split: Split, engine_choice: str, *, report: bool = False, threshold: float | None = None
) -> list[str]:
    """Measure AP of a model and record it in the card where the data are the card's; return the table, line by line.

    data: None for the card's own. report: write the page too, whose images and confusion matrix count scores from `threshold` (None: that
    with the best F1). Raises ModelFolderError, DatasetError (data that are missing, broken, or of other classes, a split without
    objects) and EngineError.
    """
    folder = find_model_folder(model)
    card = read_card(folder)
    dataset = read_dataset(data or data_of_card(folder, card))
    check_classes(dataset, card)
    samples = samples_with_objects(dataset, split)
    with open_engine(folder, card, engine_choice) as engine:
        sha256 = file_sha256(engine.file)
        metrics, found = measure_accuracy(engine, card, samples, card.classes, f"AP of {engine.name}")
        lines = [f"{engine.name}, {split} split of {dataset.root}, {len(samples)} images", *table(metrics)]
        measured, subject = _record(engine, split, metrics, sha256), f"{engine.name}, {engine.precision.upper()}"
    lines.append(_keep(folder, measured, dataset))
    if report:
        evaluated = Evaluated(subject, split, dataset.root, card.classes, samples, found, metrics)
        lines.append(f"wrote {write_evaluation(folder, evaluated, threshold)}: open it in a browser")
    return lines


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
    """Return AP, AP50, AP75 and AR100 over all classes and of each, then both by object size and AR by detections, as lines of a table."""
    width = max(len(name) for name in ("all classes", *metrics.per_class))
    return [
        f"{'':{width}}     AP   AP50   AP75  AR100",
        *(f"{name:{width}}  {_row(found)}" for name, found in (("all classes", metrics), *metrics.per_class.items())),
        _line("AP by object size", small=metrics.ap_small, medium=metrics.ap_medium, large=metrics.ap_large),
        _line("AR by object size", small=metrics.ar_small, medium=metrics.ar_medium, large=metrics.ar_large),
        _line("AR by detections of a class an image", **{"1": metrics.ar1, "10": metrics.ar10, "100": metrics.ar100}),
    ]


def _row(found: CocoFigures) -> str:
    return "  ".join(f"{figure(value):>5}" for value in (found.ap, found.ap50, found.ap75, found.ar100))


def _line(what: str, **values: float) -> str:
    return f"{what}: " + ", ".join(f"{name} {figure(value)}" for name, value in values.items())


def samples_with_objects(dataset: Dataset, split: Split) -> tuple[Sample, ...]:
    """Return the samples of a split. Raises DatasetError where none has an object to find."""
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
