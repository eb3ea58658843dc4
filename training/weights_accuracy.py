"""AP of a model folder's PyTorch weights on a data set, before any export: the table and page of the runtime, and the anchors' share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retinanet_edge.runtime.accuracy import check_classes, samples_with_objects, table
from retinanet_edge.runtime.coco import coco_metrics
from retinanet_edge.runtime.dataset import Split, read_dataset
from retinanet_edge.runtime.evaluation_page import Evaluated, write_evaluation
from retinanet_edge.runtime.model_folder import data_of_card, find_model_folder, read_card
from retinanet_edge.training.anchor_coverage import AnchorCoverage, anchor_coverage
from retinanet_edge.training.checkpoint import load_network
from retinanet_edge.training.predict import detect_samples
from retinanet_edge.training.targets import Matcher

_SHOWN_CLASSES = 3


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured: a model folder on a split of `data` (None: the card's own).

    threshold: score from which detections count on the page, None for that with the best F1. foreground_iou: from which an anchor is
    an object's, None for that of the training.
    """

    model: Path
    data: Path | None = None
    split: Split = "val"
    batch: int = 8
    device: str = "cpu"
    threshold: float | None = None
    foreground_iou: float | None = None


def evaluate_weights(options: EvaluationOptions) -> list[str]:
    """Measure the AP of the best weights, write the page, and return the table, line by line. The card keeps what it says.

    Raises ModelFolderError and DatasetError (data that are missing, broken, or of other classes, a split without objects).
    """
    folder = find_model_folder(options.model)
    card = read_card(folder)
    network = load_network(folder, card).to(options.device)
    dataset = read_dataset(options.data or data_of_card(folder, card))
    check_classes(dataset, card)
    samples = samples_with_objects(dataset, options.split)
    foreground_iou = options.foreground_iou or (card.training.foreground_iou if card.training else Matcher().foreground_iou)
    coverage = anchor_coverage(network.anchors, samples, card.input, len(card.classes), foreground_iou)
    found = detect_samples(network, samples, card.input, card.nms, options.batch, lambda: None)
    metrics = coco_metrics(samples, found, card.classes)
    epoch = f"of epoch {card.training.best_epoch}" if card.training else ""
    evaluated = Evaluated(
        f"PyTorch weights {epoch}", options.split, dataset.root, card.classes, samples, found, metrics,
        facts=((f"boxes with an anchor of IoU {foreground_iou:g} or more", f"{coverage.share:.1%}"),),
    )  # fmt: skip
    return [
        f"PyTorch weights {epoch}, {options.split} split of {dataset.root}, {len(samples)} images",
        *table(metrics),
        describe_coverage(coverage, card.classes),
        f"wrote {write_evaluation(folder, evaluated, options.threshold)}: open it in a browser",
    ]


def describe_coverage(coverage: AnchorCoverage, class_names: Sequence[str]) -> str:
    """Return one line: the share of the boxes that a positive anchor matches, and the classes with the least."""
    line = (
        f"boxes matched by an anchor of IoU {coverage.foreground_iou:g} or more: {coverage.share:.1%} "
        f"({coverage.matched} of {coverage.boxes})"
    )
    counts = zip(coverage.matched_of_class, coverage.boxes_of_class, class_names, strict=True)
    lacking = sorted((matched / boxes, name) for matched, boxes, name in counts if matched < boxes)
    least = ", ".join(f"{name} {share:.1%}" for share, name in lacking[:_SHOWN_CLASSES])
    return f"{line}; least: {least}" if least else line
