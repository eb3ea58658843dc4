"""The filter of four independent pairs against the textbook's matrices, and against hand-computed numbers."""

import numpy as np
import pytest

from retinanet_edge.runtime import kalman


def test_a_first_sight_is_where_the_box_is():
    states = kalman.start(np.array([[10.0, 20, 30, 60]]))
    np.testing.assert_allclose(kalman.boxes_of(states), [[10, 20, 30, 60]])
    # Mean side (20 + 40) / 2 = 30: deviation 0.1 * 30 = 3 pixels of each value, 2 * 30 = 60 pixels/s of the centre's velocity.
    np.testing.assert_allclose(states[2, 0], [9, 9, 9, 9])
    np.testing.assert_allclose(states[4, 0], [3600, 3600, 0, 0])


def test_the_second_sight_gives_a_velocity():
    states = kalman.start(np.array([[0.0, 0, 20, 20]]))  # variance 2^2 = 4 and 40^2 = 1600
    states = kalman.correct(kalman.predict(states, 1.0), np.array([[10.0, 0, 30, 20]]))
    # 1 s on, the centre's variance is 4 + 1600 + 10^2 / 3 = 1637.33, the covariance 1600 + 100 / 2 = 1650; of the measurement it is 4:
    # velocity 10 * 1650 / 1641.33 = 10.053, centre 10 + 10 * 1637.33 / 1641.33 = 19.976
    assert states[1, 0, 0] == pytest.approx(10.053, abs=1e-3)
    assert states[0, 0, 0] == pytest.approx(19.976, abs=1e-3)
    assert kalman.boxes_of(kalman.predict(states, 2.0))[0, 0] == pytest.approx(9.976 + 2 * 10.053, abs=1e-3)


def test_it_is_the_textbook_filter():
    rng = np.random.default_rng(0)
    states = kalman.start(np.array([[100.0, 100, 140, 140]]))
    mean, covariance = states[:2, 0, 0].copy(), np.diag([states[2, 0, 0], states[4, 0, 0]])
    for _ in range(20):
        seconds, size = rng.uniform(0.02, 0.3), states[0, 0, 2:].mean()
        step = np.array([[1, seconds], [0, 1]])
        jolt = (0.5 * size) ** 2 * np.array([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]])
        mean, covariance = step @ mean, step @ covariance @ step.T + jolt
        states = kalman.predict(states, seconds)
        box = np.array([[100.0, 100, 140, 140]]) + rng.normal(0, 5)
        measure, size = np.array([[1.0, 0]]), states[0, 0, 2:].mean()
        gain = covariance @ measure.T / (measure @ covariance @ measure.T + (0.1 * size) ** 2)
        mean = mean + (gain * (box[0, [0, 2]].mean() - mean[0]))[:, 0]
        covariance = (np.eye(2) - gain @ measure) @ covariance
        states = kalman.correct(states, box)
    np.testing.assert_allclose(states[:2, 0, 0], mean)
    np.testing.assert_allclose(states[2:, 0, 0], covariance[[0, 0, 1], [0, 1, 1]])


def test_boxes_without_area_do_no_harm():
    states = kalman.start(np.zeros((2, 4)))
    for _ in range(3):
        states = kalman.correct(kalman.predict(states, 0.04), np.zeros((2, 4)))
    assert np.isfinite(states).all()
