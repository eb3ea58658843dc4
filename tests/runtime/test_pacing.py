import pytest

from retinanet_edge.runtime.pacing import Pacing


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def call(pacing, clock, seconds):
    pacing.engine_begins()
    clock.now += seconds
    pacing.engine_ends()


def test_the_next_frame_is_taken_just_in_time(clock):
    pacing = Pacing(clock)
    for seconds, preparation in ((0.020, 0.003), (0.030, 0.001), (0.025, 0.002)):
        call(pacing, clock, seconds)
        pacing.prepared(preparation)
    pacing.engine_begins()
    clock.now += 0.004
    # shortest call 20 ms - twice the longest preparation 6 ms - margin 2 ms - 4 ms gone
    assert pacing.pause_s() == pytest.approx(0.008)
    clock.now += 0.010
    assert pacing.pause_s() == 0.0  # too late already


def test_an_idle_engine_is_not_kept_waiting(clock):
    pacing = Pacing(clock)
    call(pacing, clock, 0.020)
    pacing.prepared(0.001)
    assert pacing.pause_s() == 0.0


def test_nothing_is_foretold_before_something_is_known(clock):
    pacing = Pacing(clock)
    pacing.engine_begins()
    assert pacing.pause_s() == 0.0
    clock.now += 0.02
    pacing.engine_ends()
    pacing.engine_begins()
    assert pacing.pause_s() == 0.0  # how long preparing takes is still unknown


def test_what_was_long_ago_is_forgotten(clock):
    pacing = Pacing(clock)
    call(pacing, clock, 0.001)
    pacing.prepared(0.001)
    for _ in range(8):
        call(pacing, clock, 0.020)
    pacing.engine_begins()
    assert pacing.pause_s() == pytest.approx(0.016)
