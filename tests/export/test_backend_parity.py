"""Figures of parity by hand: relative differences of heads, and what is within which limit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from retinanet_edge.export.backend_parity import Figures, Limits, heads_difference, is_same
from retinanet_edge.export.detection_agreement import Agreement

LIMITS = Limits(max_ap_drop=0.005, min_matched=0.5)
ALL = Agreement(4, 4, 0.0)


def heads(logits, deltas, anchors=((8, 8, 16, 16), (24, 8, 16, 16))):
    """One image of two anchors and one class; deltas are those of dx."""
    boxes = np.zeros((1, 2, 4), np.float32)
    boxes[0, :, 0] = deltas
    return np.float32([[[value] for value in logits]]), boxes, np.float32([anchors])


def test_the_difference_is_relative_to_the_largest_value_of_its_head():
    expected = [heads((-8, 2), (0.5, -0.25))]
    assert heads_difference([heads((-8, 2), (0.5, -0.25))], expected) == 0
    assert heads_difference([heads((-8, 2.5), (0.5, -0.25))], expected) == 0.5 / 8
    assert heads_difference([heads((-8, 2.5), (0.5, -0.125))], expected) == 0.125 / 0.5  # more than 0.5 / 8


def test_the_largest_value_is_that_of_all_images():
    expected = [heads((-1, 1), (0, 0)), heads((-4, 1), (0, 0))]
    found = [heads((-1, 2), (0, 0)), heads((-4, 1), (0, 0))]
    assert heads_difference(found, expected) == 1 / 4


def test_what_is_not_a_number_or_has_nothing_to_relate_to_is_no_small_difference():
    assert math.isnan(heads_difference([heads((math.nan, 2), (0, 0))], [heads((1, 2), (0, 0))]))
    assert heads_difference([heads((1, 2), (0, 0.1))], [heads((1, 2), (0, 0))]) == math.inf


def test_behind_a_top_k_anchors_are_compared_wherever_they_stand():
    a, b, c = (8, 8, 16, 16), (24, 8, 16, 16), (8, 24, 16, 16)
    expected = [heads((4, 2), (0.5, 0.25), (a, b))]
    assert heads_difference([heads((2, 4), (0.25, 0.5), (b, a))], expected) == 0
    assert heads_difference([heads((4, 9), (0.5, 9), (a, c))], expected) == 0  # of two near equals the other was taken
    assert heads_difference([heads((9, 3), (9, 0.25), (c, b))], expected) == 0.5


@pytest.mark.parametrize(
    ("precision", "figures", "same"),
    [
        ("fp32", Figures(1e-3, ALL, 0.5, 0.0), True),
        ("fp32", Figures(1.1e-3, ALL, 0.5, 0.0), False),
        ("fp32", Figures(math.nan, ALL, 0.5, 0.0), False),
        ("fp32", Figures(None, ALL, 0.5, 0.0), True),  # cannot be had: by detections and AP
        ("int8", Figures(0.3, ALL, 0.5, 0.0), True),
        ("int8", Figures(0.3, ALL, 0.5, -0.005), True),
        ("int8", Figures(0.3, ALL, 0.5, -0.006), False),
        ("int8", Figures(0.3, ALL, 0.5, 0.1), True),  # a gain is no loss
        ("fp16", Figures(None, Agreement(5, 10, 1.0), 0.5, 0.0), True),
        ("fp16", Figures(None, Agreement(4, 10, 1.0), 0.5, 0.0), False),
        ("fp16", Figures(None, Agreement(0, 0, math.nan), 0.0, 0.0), True),  # neither side finds anything
        ("fp32", Figures(1e-6, ALL, 0.5, -0.1), False),
    ],
)
def test_limits(precision, figures, same):
    assert is_same(precision, figures, LIMITS) == same
