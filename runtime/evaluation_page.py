"""One HTML page about a model on a split: COCO's figures, curves, confusion matrix, and the images it does best and worst on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retinanet_edge.runtime import report_html as html
from retinanet_edge.runtime.coco import CocoFigures, CocoMetrics
from retinanet_edge.runtime.confusion import confusion_matrix
from retinanet_edge.runtime.confusion_section import confusion_section, errors_of_classes
from retinanet_edge.runtime.dataset import Sample, Split
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.image_ranking import best_and_worst
from retinanet_edge.runtime.matching import ImageOutcome, match_by_class, outcomes_at
from retinanet_edge.runtime.model_folder import REPORT_FOLDER, write_atomically
from retinanet_edge.runtime.outcome_picture import COLORS_EXPLAINED, picture_link
from retinanet_edge.runtime.report_charts import Line, line_chart
from retinanet_edge.runtime.score_curves import ScoreCurves, score_curves

_SHOWN_IMAGES = 6
_SHOWN_CURVES = 10
_HEAD = ("AP", "AP50", "AP75", "AP small", "medium", "large", "AR1", "AR10", "AR100", "AR small", "medium", "large")


@dataclass(frozen=True)
class Evaluated:
    """What was measured on what. subject: what ran, for people. facts: rows (name, value) to show beside the figures.

    samples hold at least one object that is no crowd; detections: one for each, in its pixels; metrics: of them.
    """

    subject: str
    split: Split
    data: Path
    class_names: Sequence[str]
    samples: Sequence[Sample]
    detections: Sequence[Detections]
    metrics: CocoMetrics
    facts: tuple[tuple[str, str], ...] = ()


def write_evaluation(folder: Path, evaluated: Evaluated, threshold: float | None = None) -> Path:
    """Write report/evaluation-<split>.html of a model folder and return its path.

    threshold: score from which detections count in the confusion matrix and on the images; None for that with the best F1. Raises
    DatasetError where an image does not decode.
    """
    content = render_evaluation(folder.name, evaluated, threshold)
    path = folder / REPORT_FOLDER / f"evaluation-{evaluated.split}.html"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, content.encode())
    return path


def render_evaluation(name: str, evaluated: Evaluated, threshold: float | None) -> str:
    """Return the page; `name` is the model's."""
    samples, names = evaluated.samples, evaluated.class_names
    matches = [match_by_class(*image) for image in zip(samples, evaluated.detections, strict=True)]
    curves = score_curves(samples, evaluated.detections, matches)
    score = curves.best_threshold if threshold is None else threshold
    chosen = "the score with the best F1 on these images" if threshold is None else "as asked for"
    outcomes = outcomes_at(samples, evaluated.detections, matches, score)
    matrix = confusion_matrix(samples, outcomes, len(names))
    parts = [
        _headline(name, evaluated),
        _figures(evaluated.metrics, matrix.objects.tolist()),
        _curves(evaluated.metrics, curves, score),
        html.section(
            f"Errors at score {score:.3f} and more",
            html.paragraph(f"The threshold is {chosen}. A detection is right with an IoU of 0.5 or more to an object of its class that no "
                           "better one has; crowds count neither way."),
            errors_of_classes(matrix, names),
        ),
        confusion_section(matrix, names),
        *_images(evaluated, outcomes),
        "<footer>" + html.paragraph("AP and AR as COCO defines them, by pycocotools. Made by retinanet-edge.") + "</footer>",
    ]  # fmt: skip
    return html.page(f"{name}: {evaluated.split} split", "\n".join(parts))


def _headline(name: str, evaluated: Evaluated) -> str:
    metrics, images = evaluated.metrics, len(evaluated.samples)
    said = html.paragraph(f"{evaluated.subject}, on the {evaluated.split} split of {evaluated.data}: {images} images")
    figures = ("AP", metrics.ap), ("AP50", metrics.ap50), ("AP75", metrics.ap75), ("AR100", metrics.ar100)
    return html.heading(f"{name}: {evaluated.split} split", said) + html.tiles(
        [(figure(value), meaning) for meaning, value in figures] + [(value, meaning) for meaning, value in evaluated.facts]
    )


def _figures(metrics: CocoMetrics, objects: Sequence[int]) -> str:
    rows = [["all classes", str(sum(objects)), *_row(metrics)]]
    rows += [[name, str(count), *_row(found)] for (name, found), count in zip(metrics.per_class.items(), objects, strict=True)]
    said = (
        "AP over IoU 0.50 to 0.95. Small is an area below 32x32 pixels, large above 96x96. AR1, AR10, AR100: recall with as many "
        "detections of a class an image. A class without objects (-) is in no mean."
    )
    return html.section("COCO figures", html.table(("", "objects", *_HEAD), rows), html.paragraph(said))


def _row(found: CocoFigures) -> list[str]:
    values = (
        found.ap, found.ap50, found.ap75, found.ap_small, found.ap_medium, found.ap_large,
        found.ar1, found.ar10, found.ar100, found.ar_small, found.ar_medium, found.ar_large,
    )  # fmt: skip
    return [figure(value) for value in values]


def figure(value: float) -> str:
    """Return a figure on the 0..1 scale as text, - where there is none."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def _curves(metrics: CocoMetrics, curves: ScoreCurves, score: float) -> str:
    over_recall = line_chart(_precision_lines(metrics), "recall", "precision")
    scores = [(name, values) for name, values in (("precision", curves.precision), ("recall", curves.recall)) if len(values)]
    lines = [Line(name, curves.thresholds, values) for name, values in scores]
    lines += [Line("F1", curves.thresholds, curves.f1, strong=True)] if scores else []
    over_score = line_chart(lines, "score threshold (dashed: the one used below)", "", mark_x=score)
    return html.section("Precision and recall at IoU 0.5", html.pair(over_recall, over_score))


def _precision_lines(metrics: CocoMetrics) -> list[Line]:
    """Return the mean, the curves of the classes with the lowest AP50, and the others without name, faint."""
    if not metrics.pr_curves:
        return []
    order = sorted(metrics.pr_curves, key=lambda name: metrics.per_class[name].ap50)
    recall = metrics.pr_curves[order[0]][0]
    mean = np.mean([precision for _, precision in metrics.pr_curves.values()], axis=0)
    others = [Line("", *metrics.pr_curves[name]) for name in order[_SHOWN_CURVES:]]
    named = [Line(f"{name} {metrics.per_class[name].ap50:.3f}", *metrics.pr_curves[name]) for name in order[:_SHOWN_CURVES]]
    return [*others, *named, Line(f"mean of {len(order)} classes {metrics.ap50:.3f}", recall, mean, strong=True)]


def _images(evaluated: Evaluated, outcomes: Sequence[ImageOutcome]) -> list[str]:
    best, worst = best_and_worst(outcomes, _SHOWN_IMAGES)
    rule = html.paragraph(f"Ranked by the F1 of each image at the score above. {COLORS_EXPLAINED}")
    sections = []
    for title, indices, none in (("Worst images", worst, "No image has a mistake."), ("Best images", best, "No image is left to show.")):
        pictures = [_picture(evaluated, index, outcomes[index]) for index in indices]
        sections.append(html.section(title, rule, html.pair(*pictures) if pictures else html.paragraph(none)))
    return sections


def _picture(evaluated: Evaluated, index: int, outcome: ImageOutcome) -> str:
    sample = evaluated.samples[index]
    right, wrong, missed = outcome.counts
    caption = f"{sample.path.name}: F1 {outcome.f1:.2f}, {right} right, {wrong} wrong, {missed} missed"
    return html.picture(picture_link(sample, outcome, evaluated.class_names), caption)
