import math

import pytest
import torch

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import InputSpec
from retinanet_edge.training.anchor_coverage import anchor_coverage
from retinanet_edge.training.anchors import KERAS_ANCHORS
from tests.found_boxes import sample

INPUT = InputSpec(100, 100, (0.0,) * 3, (1.0,) * 3)
ANCHORS = torch.tensor([[20.0, 20, 20, 20], [70, 70, 40, 40]])  # xyxy 10 10 30 30, and 50 50 90 90


def of_boxes(*boxes, anchors=ANCHORS, iou=0.5, classes=1, **more):
    return anchor_coverage(anchors, [sample(*boxes, **{"height": 100, "width": 100} | more)], INPUT, classes, iou)


def test_a_box_needs_the_foreground_threshold_and_not_just_a_best_anchor():
    # 20 x 10 of 20 x 20: IoU 0.5; 20 x 9: 0.45, which KerasCV counts, as it does the third at 0
    found = of_boxes((10, 10, 30, 20), (50, 50, 90, 68), (0, 80, 10, 90))
    assert (found.matched, found.boxes, found.share) == (1, 3, pytest.approx(1 / 3))
    assert of_boxes((10, 10, 30, 20), (50, 50, 90, 68), iou=0.45).matched == 2
    assert of_boxes((10, 10, 30, 20), iou=0.51).matched == 0


def test_a_box_counts_once_however_many_anchors_it_has():
    assert of_boxes((10, 10, 30, 30), anchors=ANCHORS[[0, 0, 0]]).matched == 1


def test_an_anchor_belongs_to_its_best_box_alone():
    assert of_boxes((10, 10, 30, 30), (10, 10, 30, 25)).matched == 1  # IoU 1 and 0.75 with the one anchor


def test_boxes_are_those_of_the_letterboxed_input():
    assert of_boxes((100, 100, 180, 180), height=200, width=200).matched == 1  # half as large: 50 50 90 90
    assert of_boxes((50, 50, 90, 90), height=200, width=200).matched == 0


def test_crowds_are_left_out_and_classes_counted_each():
    found = of_boxes((10, 10, 30, 30), (50, 50, 90, 90), (0, 80, 10, 90), classes=4)
    assert (found.matched_of_class, found.boxes_of_class) == ((2, 0, 0, 0), (3, 0, 0, 0))
    boxes = (10, 10, 30, 30), (50, 50, 90, 90), (0, 80, 10, 90)
    truth = sample(*boxes, classes=[2, 0, 2], crowd=[False, True, False], height=100, width=100)
    found = anchor_coverage(ANCHORS, [truth], INPUT, 4)
    assert (found.matched_of_class, found.boxes_of_class) == ((0, 0, 1, 0), (0, 0, 2, 0))


def test_without_boxes_there_is_no_share():
    assert math.isnan(of_boxes().share)


def test_usual_anchors_match_usual_boxes():
    spec = InputSpec(256, 256, (0.0,) * 3, (1.0,) * 3)
    truth = sample((20, 20, 84, 84), (100, 100, 228, 164), (200, 10, 206, 16), height=256, width=256)
    found = anchor_coverage(KERAS_ANCHORS(256, 256), [truth], spec, 1)
    assert (found.matched, found.boxes) == (2, 3)  # the third is 6 pixels wide, the smallest anchors 32


@pytest.mark.parametrize("iou", [0.0, 1.5, -0.1])
def test_an_impossible_threshold(iou):
    with pytest.raises(UserInputError, match="IoU thresholds"):
        of_boxes((10, 10, 30, 30), iou=iou)
