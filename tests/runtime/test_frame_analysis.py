"""Filter, ids and regions together, and settings that change while frames come."""

import threading

import numpy as np
import pytest

from retinanet_edge.runtime.detection_filter import DetectionFilter
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.frame_analysis import Analysis
from retinanet_edge.runtime.regions import parse_lines, parse_zones

CLASSES = ("person", "car")
SHAPE = (100, 200, 3)
GATE = parse_lines(["gate=0,0.5,1,0.5"])


def found(*rows):
    """Rows of x, y (of the lower side's middle), score, class; boxes of 20 pixels a side."""
    table = np.array(rows, np.float64).reshape(-1, 4)
    x, y = table[:, 0], table[:, 1]
    boxes = np.stack([x - 10, y - 20, x + 10, y], axis=1)
    return Detections(boxes.astype(np.float32), table[:, 2].astype(np.float32), table[:, 3].astype(np.int64))


def analysis(settings=None, **wanted):
    return Analysis(CLASSES, 0.05, settings or DetectionFilter(0.5), **wanted)


def test_without_tracking_it_filters():
    analysed = analysis().apply(found((50, 50, 0.9, 0), (90, 50, 0.4, 1)), 0.0, SHAPE)
    assert analysed.detections.scores.tolist() == [pytest.approx(0.9)]
    assert analysed.track_ids is None
    assert (analysed.events, analysed.counts, analysed.overlay) == ((), {}, None)


def test_an_id_survives_while_its_detection_is_not_shown():
    tracked = analysis(tracking=True)
    ids = [tracked.apply(found((50, 50, score, 0)), number * 0.04, SHAPE) for number, score in enumerate([0.9, 0.9, 0.2, 0.2, 0.9])]
    assert [one.track_ids.tolist() for one in ids] == [[-1], [1], [], [], [1]]


def test_a_crossing_counts_even_while_the_score_is_low():
    counting = analysis(lines=GATE)
    steps = [(40, 0.9), (42, 0.9), (44, 0.9), (48, 0.2), (52, 0.2), (56, 0.2), (60, 0.2), (64, 0.2)]
    results = [counting.apply(found((100, y, score, 0)), number * 0.04, SHAPE) for number, (y, score) in enumerate(steps)]
    assert [event.kind for one in results for event in one.events] == ["crossed_in"]
    assert results[-1].counts["lines"]["gate"] == {"in": {"person": 1}, "out": {}}


def test_classes_that_are_not_wanted_cross_nothing():
    counting = analysis(DetectionFilter(0.5, only=("car",)), lines=GATE)
    results = [counting.apply(found((100, 40 + 2 * number, 0.9, 0)), number * 0.04, SHAPE) for number in range(12)]
    assert [event for one in results for event in one.events] == []


def test_regions_of_other_cameras_are_left_out():
    lines, zones = parse_lines(["a@front=0,0.5,1,0.5", "b=0,0.5,1,0.5"]), parse_zones(["c@back=0,0,1,0,1,1"])
    counts = analysis(lines=lines, zones=zones, camera="back").apply(found(), 0.0, SHAPE).counts
    assert (list(counts["lines"]), list(counts["zones"])) == (["b"], ["c"])
    only_front = analysis(lines=parse_lines(["a@front=0,0.5,1,0.5"]), camera="back").apply(found(), 0.0, SHAPE)
    assert only_front.track_ids is None


def test_settings_change_from_the_next_frame_on():
    tracked = analysis(DetectionFilter(0.5), tracking=True)
    rows = found((50, 50, 0.9, 0), (90, 50, 0.3, 1))
    assert len(tracked.apply(rows, 0.0, SHAPE).detections) == 1
    tracked.settings = DetectionFilter(0.5, {"car": 0.2})
    assert len(tracked.apply(rows, 0.04, SHAPE).detections) == 2
    assert tracked.apply(rows, 0.08, SHAPE).track_ids.tolist() == [1, 2]  # the new threshold is the tracker's, too


def test_settings_that_do_not_fit_change_nothing():
    tracked = analysis(DetectionFilter(0.5))
    with pytest.raises(UserInputError, match="the model has no class cat"):
        tracked.settings = DetectionFilter(only=("cat",))
    assert tracked.settings == DetectionFilter(0.5)
    assert tracked.warnings == ()
    tracked.settings = DetectionFilter(0.01)
    assert tracked.warnings == ("threshold 0.01 raised to 0.05: the model gives nothing below that",)


def test_settings_may_change_from_another_thread_in_mid_frame():
    tracked, stop, failures = analysis(tracking=True), threading.Event(), []
    choices = [DetectionFilter(0.8, only=("person",)), DetectionFilter(0.2, only=("car",))]

    def change():
        while not stop.is_set():
            for choice in choices:
                tracked.settings = choice

    tracked.settings = choices[0]
    changer = threading.Thread(target=change)
    changer.start()
    for number in range(500):
        kept = tracked.apply(found((50, 50, 0.9, 0), (90, 50, 0.3, 1), (150, 50, 0.3, 0)), number * 0.04, SHAPE).detections
        pairs = list(zip(kept.scores.tolist(), kept.classes.tolist(), strict=True))
        if pairs not in ([(pytest.approx(0.9), 0)], [(pytest.approx(0.3), 1)]):  # never the one's scores with the other's classes
            failures.append(pairs)
    stop.set()
    changer.join()
    assert failures == []


def test_another_frame_size_begins_new_tracks():
    tracked = analysis(tracking=True)
    for number in range(2):
        tracked.apply(found((50, 50, 0.9, 0)), number * 0.04, SHAPE)
    ids = [tracked.apply(found((50, 50, 0.9, 0)), 0.08 + number * 0.04, (200, 400, 3)).track_ids.tolist() for number in range(2)]
    assert ids == [[-1], [2]]


def test_trails_belong_to_what_is_shown():
    tracked = analysis(tracking=True)
    for number in range(4):
        analysed = tracked.apply(found((50 + 4 * number, 50, 0.9, 1), (150, 50, 0.2, 0)), number * 0.04, SHAPE)
    ((trail, class_index),) = analysed.overlay.trails
    assert class_index == 1
    assert trail[-1] == pytest.approx((0.12, 62, 50), abs=2)
    assert (np.diff([x for _, x, _ in trail]) > 0).all()
