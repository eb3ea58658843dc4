"""Does what runs here say what the ONNX says? Every backend of a model against model.onnx on ONNX Runtime: figures, verdicts, one table.

FP32 must give the network's outputs. FP16 and INT8 round differently, so that only what comes of it counts: detections and AP.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.export.backends import Backend, backends, reference_backend
from retinanet_edge.export.detection_agreement import LEAST_IOU, LEAST_SCORE, SCORE_TOLERANCE, Agreement, agreement
from retinanet_edge.export.parity_subject import Subject
from retinanet_edge.export.reference_network import Heads
from retinanet_edge.runtime.coco import coco_metrics
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import EngineError, RetinaNetEdgeError
from retinanet_edge.runtime.model_card import Precision
from retinanet_edge.runtime.progress import Progress

HEADS_LIMIT = 1e-3
_HEADS_IMAGES = 4  # of which the network's outputs are kept: 50 MB each at 640x640 and 80 classes, in two copies


@dataclass(frozen=True)
class Limits:
    """What still counts as the same. max_ap_drop: AP, 0..1. min_matched: share of detections, 0..1, that have a partner."""

    max_ap_drop: float
    min_matched: float


@dataclass(frozen=True)
class Figures:
    """A backend beside the reference. heads: see `heads_difference`, None where they cannot be had. ap_gain: AP less the reference's."""

    heads: float | None
    agreement: Agreement
    ap: float
    ap_gain: float


@dataclass(frozen=True)
class Row:
    """A backend with its figures, or `refusal`, why it could not be run."""

    backend: Backend
    figures: Figures | None
    refusal: str = ""


@dataclass(frozen=True)
class _Answers:
    """What a backend said: detections of every image in input pixels, heads of the first images, AP."""

    detections: list[Detections]
    heads: list[Heads]
    ap: float


def check_parity(subject: Subject, limits: Limits) -> None:
    """Compare every backend of a model with the reference on the subject's images and print the table.

    Raises RetinaNetEdgeError, after the table, where one differs or none could be run.
    """
    reference = _answers(reference_backend(subject), subject)
    rows = [_row(backend, subject, reference) for backend in backends(subject)]
    compared = [(row.backend, row.figures) for row in rows if row.figures is not None]
    print(f"model.onnx on ONNX Runtime: AP {reference.ap:.4f} on {len(subject.samples)} images of the val split of {subject.data}")
    print(*table(rows, limits), *_legend(limits), sep="\n")
    if not subject.card.engines:
        print("no TensorRT engine: the card knows none (python export/build_engine.py makes one)")
    if any(backend.precision == "fp32" and figures.heads is None for backend, figures in compared):
        print("heads of an FP32 engine need polygraphy: pip install -e '.[gpu]'")
    sys.stdout.flush()
    differing = [backend for backend, figures in compared if not is_same(backend.precision, figures, limits)]
    if not compared:
        raise RetinaNetEdgeError("nothing could be compared, the table says why: see python runtime/doctor.py for what is missing here")
    if differing:
        names = ", ".join(f"{backend.file} on {backend.name}" for backend in differing)
        raise RetinaNetEdgeError(
            f"{len(differing)} of {len(compared)} must be as model.onnx is, but differ: {names}; "
            f"look again with more --images, or run python export/parity.py --layers {differing[0].file} for the first layer that does"
        )


def is_same(precision: Precision, figures: Figures, limits: Limits) -> bool:
    """Say whether figures are within the limits: AP and matched detections at any precision, at FP32 also the heads."""
    same_heads = precision != "fp32" or figures.heads is None or figures.heads <= HEADS_LIMIT
    share = figures.agreement.share
    return same_heads and -figures.ap_gain <= limits.max_ap_drop and (np.isnan(share) or share >= limits.min_matched)


def heads_difference(found: Sequence[Heads], expected: Sequence[Heads]) -> float:
    """Return the larger of two relative differences, those of class_logits and of box_deltas; nan where a value is not a number.

    That of a head is its largest |found - expected| over the largest |expected|, both over all anchors of all images. Behind a top-K, where
    two near equals may change places, the anchors that both have are compared.
    """
    each = [_extents(ours, theirs) for ours, theirs in zip(found, expected, strict=True)]
    differences, sizes = np.stack(each).max(axis=0).T
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(differences == 0, 0, differences / sizes)
    return float(relative.max())


def _extents(found: Heads, expected: Heads) -> NDArray[np.float64]:
    """Return [2, 2]: of each head the largest difference and the largest expected value, of one image."""
    ours, theirs = _common_anchors(found[2], expected[2])
    pairs = [(a[0, ours].astype(np.float64), b[0, theirs]) for a, b in zip(found[:2], expected[:2], strict=True)]
    with np.errstate(invalid="ignore"):
        return np.array([(np.abs(a - b).max(), np.abs(b).max()) for a, b in pairs])


def _common_anchors(found: NDArray[np.float32], expected: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of the anchors [1, A, 4] that both have, first those of `found`."""
    if np.array_equal(found, expected):
        every = np.arange(found.shape[1])
        return every, every
    key = np.dtype([(side, np.float32) for side in ("x", "y", "width", "height")])
    ours_keys, theirs_keys = (np.ascontiguousarray(anchors[0]).view(key).ravel() for anchors in (found, expected))
    _, ours, theirs = np.intersect1d(ours_keys, theirs_keys, return_indices=True)
    return ours, theirs


def _row(backend: Backend, subject: Subject, reference: _Answers) -> Row:
    try:
        answers = _answers(backend, subject)
    except EngineError as error:
        return Row(backend, None, str(error))
    heads = heads_difference(answers.heads, reference.heads) if answers.heads else None
    agreed = agreement(answers.detections, reference.detections)
    return Row(backend, Figures(heads, agreed, answers.ap, answers.ap - reference.ap))


def _answers(backend: Backend, subject: Subject) -> _Answers:
    detections: list[Detections] = []
    in_frame: list[Detections] = []
    heads: list[Heads] = []
    with backend.open() as run, Progress(f"{backend.file} on {backend.name}", len(subject.samples)) as progress:
        for boxing, images in subject.inputs():
            answer = run(images)
            detections.append(answer.detections)
            in_frame.append(boxing.detections_to_frame(answer.detections))
            if answer.heads is not None and len(heads) < _HEADS_IMAGES:
                heads.append(answer.heads)
            progress.advance()
    return _Answers(detections, heads, coco_metrics(subject.samples, in_frame, subject.card.classes).ap)


def table(rows: Sequence[Row], limits: Limits) -> list[str]:
    """Return the rows as lines under a line of headings."""
    headings = ("file", "backend", "precision", "heads", "matched", "boxes px", "AP", "points", "verdict")
    cells = [headings, *((row.backend.file, row.backend.name, row.backend.precision, *_cells(row, limits)) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(headings) - 1)]
    aligned = [f"{{:{'<' if column < 3 else '>'}{width}}}" for column, width in enumerate(widths)]
    return ["  ".join((*aligned, "{}")).format(*line) for line in cells]


def _cells(row: Row, limits: Limits) -> tuple[str, ...]:
    figures = row.figures
    if figures is None:
        return "-", "-", "-", "-", "-", f"not run: {row.refusal}"
    share, distance = figures.agreement.share, figures.agreement.box_distance
    return (
        "-" if figures.heads is None else f"{figures.heads:.1e}",
        "-" if np.isnan(share) else f"{100 * share:.1f} %",
        "-" if np.isnan(distance) else f"{distance:.2f}",
        f"{figures.ap:.4f}",
        f"{100 * figures.ap_gain:+.2f}",
        "ok" if is_same(row.backend.precision, figures, limits) else "differs",
    )


def _legend(limits: Limits) -> list[str]:
    return [
        f"heads: largest difference of class_logits, box_deltas over their largest value, {_HEADS_IMAGES} images; fp32 ok to {HEADS_LIMIT}",
        f"matched: detections with score {LEAST_SCORE} or more that have a partner, both ways (same class, IoU {LEAST_IOU}, score within "
        f"{SCORE_TOLERANCE}); ok from {100 * limits.min_matched:g} %",
        "boxes px: largest distance of a box from its partner's, in pixels of the network's input",
        f"points: AP less the reference's, in points; ok from {-100 * limits.max_ap_drop:g}",
    ]
