"""Trails follow the middle of a box's lower side, for a while."""

import numpy as np

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.trails import Trails


def at(x):
    return Detections(np.array([[x, 10, x + 20, 50]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))


def test_a_trail_goes_from_the_oldest_point_to_the_newest():
    trails = Trails()
    trails.update(at(0), np.array([7]), 0.0)
    (trail,) = trails.update(at(5), np.array([7]), 0.1)
    assert trail == ((0.0, 10, 50), (0.1, 15, 50))


def test_a_detection_without_track_has_no_points():
    (trail,) = Trails().update(at(0), np.array([-1]), 0.0)
    assert trail == ()


def test_points_older_than_a_second_and_a_half_go():
    trails = Trails()
    for number in range(21):
        (trail,) = trails.update(at(number), np.array([1]), number * 0.1)
    assert trail[0][1] == 15  # of 0.5 s: 10 + 5
    assert len(trail) == 16


def test_a_trail_is_short_at_any_frame_rate():
    trails = Trails()
    for number in range(1_000):
        (trail,) = trails.update(at(number), np.array([1]), number * 0.001)
    assert len(trail) == 60


def test_tracks_that_are_not_seen_any_more_are_forgotten():
    trails = Trails(forget_s=1.0)
    for number in range(1_000):
        trails.update(at(0), np.array([number]), number * 0.1)
    assert len(trails) == 11  # of 1 s, both ends included
    trails.update(at(0), np.array([1_000]), 0.0)  # the clock goes back
    assert len(trails) == 1
