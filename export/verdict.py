"""The verdict on INT8: AP of both precisions in one table, how sure their difference is, and what the card and the user are told."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from retinanet_edge.runtime.model_card import ClassDrop, Verdict

if TYPE_CHECKING:  # this file also runs on devices that have no data to measure on
    from retinanet_edge.runtime.coco import CocoFigures, CocoMetrics
    from retinanet_edge.runtime.dataset import Sample
    from retinanet_edge.runtime.detections import Detections

_MOST_ROWS: Final = 15
_NAMED: Final = 3
Pair = tuple[float, float]  # a figure of FP32 and of INT8


def make_verdict(
    samples: Sequence[Sample], fp32: tuple[CocoMetrics, list[Detections]], int8: tuple[CocoMetrics, list[Detections]],
    max_ap_drop: float, onnx_sha256: str,
) -> Verdict:  # fmt: skip
    """Return the verdict on figures and detections of both precisions on the same samples; max_ap_drop on the 0..1 scale.

    It passes or fails by the difference itself, not by the interval's end: that would ask of an INT8 model as good as its FP32 to prove it,
    which a small split cannot, and the same model would fail with few images and pass with many. The interval says how sure it is.
    """
    from retinanet_edge.runtime.bootstrap import ap_drop_interval

    drop = fp32[0].ap - int8[0].ap
    interval = ap_drop_interval(samples, fp32[1], int8[1], len(fp32[0].per_class))
    changes = _class_changes(fp32[0], int8[0])
    worst = tuple(ClassDrop(name, -change) for name, change in changes[:_NAMED] if change < 0)
    return Verdict(drop <= max_ap_drop, drop, max_ap_drop, onnx_sha256, False, interval, worst)


def unmeasured(max_ap_drop: float, onnx_sha256: str) -> Verdict:
    """Return the verdict where there is nothing to measure on: only force makes that an engine."""
    return Verdict(False, None, max_ap_drop, onnx_sha256, forced=True)


def judged(verdict: Verdict, max_ap_drop: float, force: bool) -> Verdict:
    """Return the verdict under today's limit; a model once accepted by force stays accepted."""
    passed = verdict.ap_drop is not None and verdict.ap_drop <= max_ap_drop
    return dataclasses.replace(verdict, passed=passed, max_ap_drop=max_ap_drop, forced=not passed and (force or verdict.forced))


def verdict_words(verdict: Verdict) -> str:
    """Return in one line what INT8 costs, how sure that is, what is allowed, and whether more images are needed to be sure of a pass."""
    allowed, interval = verdict.max_ap_drop, verdict.interval
    if verdict.ap_drop is None:
        return "INT8 is unmeasured, there was no object to find"
    words = f"INT8 changes AP by {_change(verdict.ap_drop)} points"
    if interval is not None:
        words += (
            f" (95 % interval {_change(interval.high)} to {_change(interval.low)}, "
            f"{interval.resamples} resamples of {interval.images} images)"
        )
    words += f", {100 * allowed:.2f} is allowed"
    if verdict.passed and interval is not None and interval.high > allowed:
        words += "; the interval reaches beyond that, more validation images are needed to be sure"
    return words


def losses(verdict: Verdict) -> str:
    """Return which classes lost most, as "; lost most: cat -1.20, dog -0.40"; nothing where none did or the card does not say."""
    named = ", ".join(f"{worst.name} {_change(worst.ap_drop)}" for worst in verdict.worst_classes)
    return f"; lost most: {named}" if named else ""


def _change(drop: float) -> str:
    return f"{0.0 - 100 * drop:+.2f}"  # in points; not -0.00 where nothing was lost


def comparison_table(fp32: CocoMetrics, int8: CocoMetrics) -> list[str]:
    """Return AP and AP50 of both and the change in points as lines: all classes, each class, the worst first, and by object size."""
    rows = [("all classes", (fp32.ap, int8.ap), (fp32.ap50, int8.ap50)), *_class_rows(fp32, int8)]
    by_size = zip(("small", "medium", "large"), _ap_by_size(fp32), _ap_by_size(int8), fp32.ap50_by_size, int8.ap50_by_size, strict=True)
    rows += [(f"{size} objects", (ap, ap8), (ap50, ap508)) for size, ap, ap8, ap50, ap508 in by_size]
    width = max(len(name) for name, *_ in rows)
    columns = f"{'FP32':>8}{'INT8':>8}{'points':>8}"
    return [
        f"{'':{width}}{'AP':>8}{'':16}  {'AP50':>8}",
        f"{'':{width}}{columns}  {columns}",
        *(f"{name:{width}}{_cells(ap)}  {_cells(ap50)}" for name, ap, ap50 in rows),
    ]


def _class_rows(fp32: CocoMetrics, int8: CocoMetrics) -> list[tuple[str, Pair, Pair]]:
    names = [name for name, _ in _class_changes(fp32, int8)]
    shown = names if len(names) <= _MOST_ROWS + 1 else names[:_MOST_ROWS]
    others = names[len(shown) :]
    rows = [(name, *_pairs([fp32.per_class[name]], [int8.per_class[name]])) for name in shown]
    if others:
        pairs = _pairs([fp32.per_class[name] for name in others], [int8.per_class[name] for name in others])
        rows.append((f"{len(others)} others, mean", *pairs))
    return rows


def _pairs(fp32: Sequence[CocoFigures], int8: Sequence[CocoFigures]) -> tuple[Pair, Pair]:
    """Return the mean AP and the mean AP50 of some classes, each of FP32 and of INT8."""
    count = len(fp32)
    ap, ap8 = (sum(found.ap for found in figures) / count for figures in (fp32, int8))
    ap50, ap508 = (sum(found.ap50 for found in figures) / count for figures in (fp32, int8))
    return (ap, ap8), (ap50, ap508)


def _class_changes(fp32: CocoMetrics, int8: CocoMetrics) -> list[tuple[str, float]]:
    """Return the change of AP, 0..1, of each class that has objects, the worst loss first."""
    changes = [(name, int8.per_class[name].ap - found.ap) for name, found in fp32.per_class.items() if not math.isnan(found.ap)]
    return sorted(changes, key=lambda change: change[1])


def _ap_by_size(figures: CocoFigures) -> tuple[float, float, float]:
    return figures.ap_small, figures.ap_medium, figures.ap_large


def _cells(pair: Pair) -> str:
    before, after = pair
    if math.isnan(before):
        return f"{'-':>8}" * 3
    return f"{before:>8.4f}{after:>8.4f}{100 * (after - before):>+8.2f}"
