import signal

import pytest

from retinanet_edge.training.interrupts import interrupts_held


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_it_is_asked_for(number: signal.Signals) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_held() as raise_held:  # noqa: PT012
        raise_held()  # nothing came
        signal.raise_signal(number)
        done.append("what was begun")
        raise_held()
        done.append("what comes next")
    assert done == ["what was begun"]


def test_a_second_signal_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_held():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append("first")
        signal.raise_signal(signal.SIGTERM)
        done.append("second")
    assert done == ["first"]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interrupts_held():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(ValueError, match="inside"), interrupts_held():
        raise ValueError("inside")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
