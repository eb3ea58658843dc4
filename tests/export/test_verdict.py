"""The verdict on detections made by hand: which class lost, by how much, and what the table and the lines say."""

from __future__ import annotations

import dataclasses

import pytest

from retinanet_edge.export.verdict import comparison_table, judged, losses, make_verdict, unmeasured, verdict_words
from retinanet_edge.runtime.coco import CocoMetrics, coco_metrics
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.model_card import ClassDrop, DropInterval, Verdict
from tests.found_boxes import detections, sample

SMALL, LARGE = (0, 0, 20, 20), (100, 100, 300, 300)
SHA = "0" * 64


def measured(samples: list[object], found: list[Detections], names: tuple[str, ...]) -> tuple[CocoMetrics, list[Detections]]:
    return coco_metrics(samples, found, names), found  # type: ignore[arg-type]


# Twenty images, a small cat and a large dog on each; INT8 does not find the cats of five.
SCENES = [sample(SMALL, LARGE, classes=[0, 1])] * 20
BOTH, DOG = detections(SMALL, LARGE, classes=[0, 1]), detections(LARGE, classes=[1])
NAMES = ("cat", "dog", "bird")
FP32 = measured(SCENES, [BOTH] * 20, NAMES)
INT8 = measured(SCENES, [BOTH] * 15 + [DOG] * 5, NAMES)
CAT_DROP = 1 - 76 / 101  # recall 0.75: precision 1 at 76 of 101 recalls
DROP = CAT_DROP / 2  # of two classes that have objects


def test_the_class_that_lost_is_named() -> None:
    verdict = make_verdict(SCENES, FP32, INT8, 0.005, SHA)
    assert verdict.ap_drop == pytest.approx(DROP)
    assert (verdict.passed, verdict.forced, verdict.onnx_sha256) == (False, False, SHA)
    (worst,) = verdict.worst_classes  # the dogs lost nothing, there are no birds
    assert (worst.name, worst.ap_drop) == ("cat", pytest.approx(CAT_DROP))
    assert losses(verdict) == "; lost most: cat -24.75"
    assert verdict.interval is not None
    assert 0 < verdict.interval.low < DROP < verdict.interval.high
    assert make_verdict(SCENES, FP32, INT8, 0.13, SHA).passed


def test_at_most_three_classes_are_named_the_worst_first() -> None:
    names = ("a", "b", "c", "d", "e")
    scenes = [sample(*[LARGE] * 5, classes=[0, 1, 2, 3, 4])] * 10
    # b is not found on one image, d on two, a on three, e on four
    missed = {1: 1, 3: 2, 0: 3, 4: 4}
    kept = [[kind for kind in range(5) if image >= missed.get(kind, 0)] for image in range(10)]
    int8 = measured(scenes, [detections(*[LARGE] * len(kinds), classes=kinds) for kinds in kept], names)
    fp32 = measured(scenes, [detections(*[LARGE] * 5, classes=range(5))] * 10, names)
    assert [worst.name for worst in make_verdict(scenes, fp32, int8, 0.005, SHA).worst_classes] == ["e", "a", "d"]
    assert [line.split()[0] for line in comparison_table(fp32[0], int8[0])[3:8]] == ["e", "a", "d", "b", "c"]


def test_nothing_lost() -> None:
    verdict = make_verdict(SCENES, FP32, FP32, 0.0, SHA)
    assert (verdict.passed, verdict.ap_drop, verdict.worst_classes, losses(verdict)) == (True, 0, (), "")
    assert verdict.interval == DropInterval(0, 0, 1000, 20)
    assert verdict_words(verdict).startswith("INT8 changes AP by +0.00 points (95 % interval +0.00 to +0.00, ")


def test_table() -> None:
    table = [" ".join(line.split()) for line in comparison_table(FP32[0], INT8[0])]
    assert table == [
        "AP AP50",
        "FP32 INT8 points FP32 INT8 points",
        "all classes 1.0000 0.8762 -12.38 1.0000 0.8762 -12.38",
        "cat 1.0000 0.7525 -24.75 1.0000 0.7525 -24.75",
        "dog 1.0000 1.0000 +0.00 1.0000 1.0000 +0.00",
        "small objects 1.0000 0.7525 -24.75 1.0000 0.7525 -24.75",
        "medium objects - - - - - -",
        "large objects 1.0000 1.0000 +0.00 1.0000 1.0000 +0.00",
    ]


def test_table_of_many_classes_ends_with_the_mean_of_the_others() -> None:
    names = tuple(f"class {index}" for index in range(20))
    figures = FP32[0].per_class["cat"]
    fp32 = dataclasses.replace(FP32[0], per_class=dict.fromkeys(names, figures))
    lost = {name: dataclasses.replace(figures, ap=1 - index / 100) for index, name in enumerate(names)}
    rows = comparison_table(fp32, dataclasses.replace(fp32, per_class=lost))[3:-3]
    assert [row.split("  ")[0] for row in rows] == [*(f"class {index}" for index in range(19, 4, -1)), "5 others, mean"]
    assert rows[-1].split()[3:6] == ["1.0000", "0.9800", "-2.00"]  # of classes 0 to 4


PASSED = Verdict(True, 0.0021, 0.005, SHA, False, DropInterval(-0.001, 0.0045, 1000, 87), (ClassDrop("cat", 0.004),))


def test_words() -> None:
    words = "INT8 changes AP by -0.21 points (95 % interval -0.45 to +0.10, 1000 resamples of 87 images), 0.50 is allowed"
    assert verdict_words(PASSED) == words
    unsure = dataclasses.replace(PASSED, interval=DropInterval(-0.001, 0.0055, 1000, 87))
    assert verdict_words(unsure).endswith("0.50 is allowed; the interval reaches beyond that, more validation images are needed to be sure")
    assert verdict_words(dataclasses.replace(unsure, passed=False)).endswith("0.50 is allowed")
    assert verdict_words(dataclasses.replace(PASSED, interval=None)) == "INT8 changes AP by -0.21 points, 0.50 is allowed"


def test_todays_limit_judges_and_force_stays() -> None:
    forced = judged(PASSED, 0.002, force=True)
    assert (forced.passed, forced.forced, forced.max_ap_drop) == (False, True, 0.002)
    assert judged(forced, 0.001, force=False).forced
    assert not judged(PASSED, 0.002, force=False).forced
    assert not judged(PASSED, 0.003, force=True).forced  # passed by itself
    assert judged(unmeasured(0.005, SHA), 1, force=False) == Verdict(False, None, 1, SHA, forced=True)
