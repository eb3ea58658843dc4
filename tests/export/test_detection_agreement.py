"""Partners of detections, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from retinanet_edge.export.detection_agreement import agreement
from retinanet_edge.runtime.detections import Detections


def found(*rows):
    """Detections of (x1, y1, x2, y2, score, class), best first."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


BOX = (0, 0, 100, 100)


def test_the_same_is_matched_from_both_sides():
    some = found((*BOX, 0.9, 0), (50, 50, 60, 60, 0.4, 1), (*BOX, 0.2, 2))  # the last is not asked for
    result = agreement([some, found()], [some, found()])
    assert (result.matched, result.compared, result.box_distance, result.share) == (4, 4, 0, 1)


@pytest.mark.parametrize(
    ("other", "matched"),
    [
        ((0, 0, 100, 90, 0.9, 0), 2),  # IoU 9000 / 10000
        ((0, 0, 100, 89, 0.9, 0), 0),
        ((*BOX, 0.9, 1), 0),
        ((*BOX, 0.86, 0), 2),
        ((*BOX, 0.84, 0), 0),
    ],
)
def test_class_place_and_score_must_agree(other, matched):
    result = agreement([found(other)], [found((*BOX, 0.9, 0))])
    assert (result.matched, result.compared) == (matched, 2)


def test_a_partner_may_lie_below_the_least_score():
    result = agreement([found((*BOX, 0.32, 0))], [found((*BOX, 0.28, 0))])
    assert (result.matched, result.compared) == (1, 1)


def test_what_only_one_side_has_counts_against_it_either_way():
    one, two = found((*BOX, 0.9, 0)), found((*BOX, 0.9, 0), (200, 0, 300, 100, 0.8, 0))
    assert agreement([two], [one]).share == agreement([one], [two]).share == 2 / 3


def test_the_distance_is_the_farthest_coordinate_of_all_partners():
    left = [found((*BOX, 0.9, 0)), found((*BOX, 0.9, 0))]
    right = [found((0, 1, 100, 98, 0.9, 0)), found((0, 0, 103, 100, 0.9, 0), (0, 0, 100, 101, 0.88, 0))]
    assert agreement(left, right).box_distance == 3  # image 1: 2; image 2: 1 for the nearest partner, 3 from the other side


def test_nothing_is_neither_alike_nor_not():
    nothing = agreement([found()], [found((*BOX, 0.2, 0))])
    assert (nothing.matched, nothing.compared) == (0, 0)
    assert math.isnan(nothing.share)
    assert math.isnan(nothing.box_distance)


def test_a_box_without_bounds_has_no_partner():
    wild = found((-math.inf, -math.inf, math.inf, math.inf, 0.9, 0))
    assert agreement([wild], [found((*BOX, 0.9, 0))]).matched == 0
    assert agreement([wild], [wild]).compared == 2
