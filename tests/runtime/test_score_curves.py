"""Precision, recall and F1 over the threshold, worked out by hand."""

import numpy as np
import pytest

from retinanet_edge.runtime.matching import match_by_class, outcomes_at
from retinanet_edge.runtime.score_curves import score_curves
from tests.found_boxes import detections, random_scene, sample

BOX, AWAY, NOTHING = (0, 0, 100, 100), (200, 200, 300, 300), (0, 300, 40, 340)


def curves(*images):
    samples, found = zip(*images, strict=True)
    return score_curves(samples, found, [match_by_class(*image) for image in images])


def test_right_wrong_right():
    # 2 objects of 2 images. From 0.75: 1 right of 1. From 0.625: 1 of 2. From 0.5: 2 of 3.
    cat = sample(BOX), detections(BOX, NOTHING, scores=[0.75, 0.625])
    dog = sample(BOX, classes=[1]), detections(BOX, scores=[0.5], classes=[1])
    found = curves(cat, dog)
    np.testing.assert_allclose(found.thresholds, [0.75, 0.625, 0.5])
    np.testing.assert_allclose(found.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(found.recall, [1 / 2, 1 / 2, 1])
    np.testing.assert_allclose(found.f1, [2 / 3, 1 / 2, 4 / 5])
    assert found.best_threshold == 0.5


def test_equal_scores_pass_together():
    found = curves((sample(BOX, AWAY), detections(NOTHING, BOX, AWAY, scores=[0.5, 0.5, 0.25])))
    np.testing.assert_allclose(found.thresholds, [0.5, 0.25])
    np.testing.assert_allclose(found.precision, [1 / 2, 2 / 3])


def test_of_equal_f1_the_highest_threshold():
    found = curves((sample(BOX, AWAY), detections(BOX, NOTHING, NOTHING, AWAY, scores=[0.9, 0.8, 0.7, 0.6])))
    np.testing.assert_allclose(found.f1, [2 / 3, 2 / 4, 2 / 5, 4 / 6])
    assert found.best_threshold == pytest.approx(0.9)


def test_crowds_and_what_lies_in_them_do_not_count():
    found = curves((sample(BOX, AWAY, crowd=[False, True]), detections(BOX, AWAY)))
    assert (found.precision.tolist(), found.recall.tolist()) == ([1], [1])


def test_nothing_found():
    found = curves((sample(BOX), detections()))
    assert len(found.f1) == 0
    assert found.best_threshold == 0.5


def test_nothing_to_find():
    with pytest.raises(ValueError, match="at least one object"):
        curves((sample(BOX, crowd=[True]), detections(BOX)))


def test_the_curves_are_what_each_threshold_gives():
    rng = np.random.default_rng(5)
    samples, detected = zip(*(random_scene(rng) for _ in range(20)), strict=True)
    matches = [match_by_class(*image) for image in zip(samples, detected, strict=True)]
    found = score_curves(samples, detected, matches)
    assert len(found.thresholds) > 5
    for threshold, precision, recall in zip(found.thresholds, found.precision, found.recall, strict=True):
        counts = [outcome.counts for outcome in outcomes_at(samples, detected, matches, float(threshold))]
        right, wrong, missed = np.sum(counts, axis=0)
        assert (precision, recall) == pytest.approx((right / (right + wrong), right / (right + missed)))
