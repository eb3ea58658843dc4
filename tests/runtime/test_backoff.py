import pytest

from retinanet_edge.runtime.backoff import Backoff
from retinanet_edge.runtime.camera import RestartLimits


def waits(random, count, **limits):
    backoff = Backoff(RestartLimits(**limits), lambda: random)
    return [backoff.next_wait_s() for _ in range(count)]


def test_waits_double_up_to_the_longest():
    # random 1: all of 0.5 * 2^n, up to 3
    assert waits(1.0, 5, first_wait_s=0.5, longest_wait_s=3) == [0.5, 1, 2, 3, 3]


def test_the_draw_is_between_half_and_all():
    assert waits(0.0, 3, first_wait_s=0.5, longest_wait_s=3) == [0.25, 0.5, 1]
    assert waits(0.5, 3, first_wait_s=0.4, longest_wait_s=3) == pytest.approx([0.3, 0.6, 1.2])  # 3/4 of 0.4, 0.8, 1.6


def test_a_first_wait_longer_than_the_longest_is_cut():
    assert waits(1.0, 2, first_wait_s=5, longest_wait_s=3) == [3, 3]


def test_the_limit_of_restarts_and_a_new_beginning():
    backoff = Backoff(RestartLimits(first_wait_s=1, restarts=2), lambda: 1.0)
    assert [backoff.next_wait_s() for _ in range(4)] == [1, 2, None, None]
    backoff.reset()
    assert [backoff.next_wait_s() for _ in range(3)] == [1, 2, None]
    assert Backoff(RestartLimits(restarts=0), lambda: 1.0).next_wait_s() is None


def test_beyond_the_limit_it_goes_on_only_while_asked_to():
    backoff = Backoff(RestartLimits(first_wait_s=1, longest_wait_s=3, restarts=1), lambda: 1.0)
    assert [backoff.next_wait_s(beyond_limit=True) for _ in range(4)] == [1, 2, 3, 3]
    assert backoff.next_wait_s() is None


def test_without_a_limit_it_goes_on_for_ever():
    assert waits(1.0, 5000, first_wait_s=0.5, longest_wait_s=30, restarts=None)[-1] == 30  # 0.5 * 2^4999 is no float
