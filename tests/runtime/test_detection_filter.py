"""What passes the filter, and what a user is told who asks for what the model cannot give."""

import argparse

import numpy as np
import pytest

from retinanet_edge.runtime.detection_filter import DetectionFilter, class_thresholds
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import UserInputError

CLASSES = ("person", "car", "dog")


def found(*rows):
    """Rows of score, class, width, height."""
    table = np.array(rows, np.float64).reshape(-1, 4)
    boxes = np.column_stack([np.full((len(table), 2), 10.0), table[:, 2:] + 10])
    return Detections(boxes.astype(np.float32), table[:, 0].astype(np.float32), table[:, 1].astype(np.int64))


def test_scores_by_class_and_the_rest_by_the_common_one():
    chosen = DetectionFilter(0.5, {"car": 0.3}).resolved(CLASSES, 0.05)
    rows = found((0.5, 0, 9, 9), (0.49, 0, 9, 9), (0.3, 1, 9, 9), (0.29, 1, 9, 9), (0.4, 2, 9, 9))
    assert chosen.keep(rows).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6, 0.7, 0.9])
def test_a_score_of_just_the_threshold_passes(threshold):
    # 0.7 as float32 is 0.699999988: below 0.7 as float64.
    assert DetectionFilter(threshold).resolved(CLASSES, 0.05).keep(found((threshold, 0, 9, 9))).all()


def test_classes_and_sizes():
    chosen = DetectionFilter(0.5, only=("person", "dog"), min_size=(20, 40)).resolved(CLASSES, 0.05)
    rows = found((0.9, 0, 20, 40), (0.9, 0, 19, 40), (0.9, 0, 20, 39), (0.9, 1, 50, 50), (0.4, 2, 50, 50))
    assert chosen.keep(rows).tolist() == [True, False, False, False, False]
    assert chosen.fits(rows).tolist() == [True, False, False, False, True]  # whatever the score


def test_no_detections():
    assert DetectionFilter().resolved(CLASSES, 0.05).keep(Detections.empty()).shape == (0,)


def test_thresholds_below_the_built_in_one_are_raised_to_it_with_a_warning():
    chosen = DetectionFilter(0.1, {"car": 0.02, "dog": 0.4}).resolved(CLASSES, 0.3)
    np.testing.assert_allclose(chosen.thresholds, [0.3, 0.3, 0.4], rtol=1e-6)
    assert chosen.warnings == (
        "threshold 0.1 raised to 0.3: the model gives nothing below that",
        "threshold 0.02 of car raised to 0.3: the model gives nothing below that",
    )
    assert DetectionFilter(0.3).resolved(CLASSES, 0.3).warnings == ()


@pytest.mark.parametrize("wanted", [DetectionFilter(only=("cat", "dog")), DetectionFilter(class_thresholds={"cat": 0.5})])
def test_an_unknown_class_is_refused_with_those_known(wanted):
    with pytest.raises(UserInputError, match=r"^the model has no class cat: it knows person, car, dog$"):
        wanted.resolved(CLASSES, 0.05)


@pytest.mark.parametrize("wrong", [{"threshold": 1.1}, {"threshold": float("nan")}, {"class_thresholds": {"car": -0.1}}])
def test_scores_that_cannot_be_are_refused(wrong):
    with pytest.raises(UserInputError, match="thresholds must be from 0 to 1, got"):
        DetectionFilter(**wrong)


@pytest.mark.parametrize("size", [(-1, 5), (5, float("inf")), (float("nan"), 5)])
def test_sizes_that_cannot_be_are_refused(size):
    with pytest.raises(UserInputError, match="the least size must be"):
        DetectionFilter(min_size=size)


def test_class_thresholds_are_read():
    assert class_thresholds("person=0.6, traffic light=0.4,a=b=1") == {"person": 0.6, "traffic light": 0.4, "a=b": 1.0}


@pytest.mark.parametrize(
    ("text", "problem"),
    [("person", "must be CLASS=SCORE"), ("=0.5", "must be CLASS=SCORE"), ("person=", "must be CLASS=SCORE"),
     ("a=0.5,", "must be CLASS=SCORE"), ("a=2", "at most 1, got 2"), ("a=x", "must be a number"),
     ("a=0.1,a=0.2", "each class once, got a twice")],
)  # fmt: skip
def test_class_thresholds_that_are_none_are_refused(text, problem):
    with pytest.raises(argparse.ArgumentTypeError, match=problem):
        class_thresholds(text)
