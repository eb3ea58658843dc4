"""Resampled AP against COCO's evaluation of the images written out as often as they were drawn; intervals by hand."""

import numpy as np
import pytest

from retinanet_edge.runtime.bootstrap import ap_drop_interval, class_matches, resampled_ap
from retinanet_edge.runtime.coco import coco_metrics
from retinanet_edge.runtime.detections import Detections
from tests.found_boxes import detections, random_scene, sample

NAMES = ("zero", "one", "two", "absent")
BOX = (0, 0, 100, 100)


def scenes(count=25, seed=5):
    rng = np.random.default_rng(seed)
    return zip(*(random_scene(rng) for _ in range(count)), strict=True)


def with_distinct_scores(found):
    """The same detections, no score twice: among equal ones an order is arbitrary, pycocotools' too."""
    rng = np.random.default_rng(1)
    return [Detections(d.xyxy, (d.scores + rng.uniform(0, 1e-3, len(d))).astype(np.float32), d.classes) for d in found]


def test_each_image_once_is_cocos_ap():
    samples, found = scenes()
    (ap,) = resampled_ap(class_matches(samples, found, len(NAMES)), np.ones((len(samples), 1), np.int64))
    assert ap == pytest.approx(coco_metrics(samples, found, NAMES).ap, abs=1e-12)


def test_a_resample_is_the_evaluation_of_its_images_written_out():
    samples, found = scenes()
    assert any(s.crowd.any() for s in samples)
    found = with_distinct_scores(found)
    counts = np.random.default_rng(2).multinomial(len(samples), [1 / len(samples)] * len(samples), 6).T
    counts[:, 0] = np.arange(len(samples)) == 3  # one image alone: most classes have no object
    expected = []
    for column in counts.T:
        drawn = np.repeat(np.arange(len(samples)), column)
        expected.append(coco_metrics([samples[i] for i in drawn], [found[i] for i in drawn], NAMES).ap)
    np.testing.assert_allclose(resampled_ap(class_matches(samples, found, len(NAMES)), counts), expected, rtol=0, atol=1e-9)
    assert len(set(expected)) == 6


def test_many_detections_are_done_in_parts(monkeypatch):
    samples, found = scenes(8)
    matches, counts = class_matches(samples, found, 4), np.random.default_rng(0).integers(0, 3, (8, 7))
    whole = resampled_ap(matches, counts)
    monkeypatch.setattr("retinanet_edge.runtime.bootstrap._LARGEST", 1)
    np.testing.assert_allclose(resampled_ap(matches, counts), whole, rtol=1e-12)


def test_a_resample_without_objects_has_no_ap():
    matches = class_matches([sample(BOX), sample()], [detections(BOX), detections(BOX)], 1)
    np.testing.assert_allclose(resampled_ap(matches, np.array([[0, 1], [2, 1]])), [np.nan, 1])


def test_the_same_detections_differ_by_exactly_nothing():
    samples, found = scenes()
    interval = ap_drop_interval(samples, found, found, len(NAMES), resamples=50)
    assert (interval.low, interval.high, interval.resamples, interval.images) == (0, 0, 50, 25)


def test_the_seed_makes_the_interval():
    samples, found = scenes()
    worse = [d[d.scores > 0.3] for d in found]
    first, again, other = (ap_drop_interval(samples, found, worse, len(NAMES), 50, seed) for seed in (4, 4, 5))
    assert first == again != other
    assert first.low < first.high
    mirrored = ap_drop_interval(samples, worse, found, len(NAMES), 50, 4)
    assert (mirrored.low, mirrored.high) == pytest.approx((-first.high, -first.low))


def test_the_interval_is_that_of_the_share_of_images_drawn():
    # One object an image, always found before and on 80 of 100 images after. A resample's recall after is the share s of its images among
    # the 80, at precision 1: AP = (floor(100 s) + 1) / 101. s has mean 0.8 and deviation sqrt(0.8 * 0.2 / 100) = 0.04.
    samples = [sample(BOX)] * 100
    before = [detections(BOX)] * 100
    interval = ap_drop_interval(samples, before, [detections(BOX)] * 80 + [Detections.empty()] * 20, 1, resamples=4000)
    assert (interval.low, interval.high) == pytest.approx((0.2 - 1.96 * 0.04, 0.2 + 1.96 * 0.04), abs=0.015)  # steps of 1 / 101


def test_nothing_to_find_has_no_interval():
    with pytest.raises(ValueError, match="some sample must have an object, got 2 without"):
        ap_drop_interval([sample()] * 2, [detections(BOX)] * 2, [detections(BOX)] * 2, 1)
