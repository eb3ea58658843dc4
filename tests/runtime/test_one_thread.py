import threading
import time

import pytest

from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.one_thread import OneThread


def elsewhere(call):
    """Return what `call` gives, or raises, in a thread of its own."""
    given = []

    def work():
        try:
            given.append(call())
        except EngineError as error:
            given.append(error)

    thread = threading.Thread(target=work, name="elsewhere")
    thread.start()
    thread.join()
    return given[0]


def run(rule):
    with rule.running():
        return "ran"


def test_the_first_thread_keeps_it_whichever_made_it():
    rule = OneThread("x.engine")
    here = threading.Event()
    there = threading.Event()

    def own():
        run(rule)
        here.set()
        there.wait()
        run(rule)

    owner = threading.Thread(target=own, name="owner")
    owner.start()
    here.wait()
    with pytest.raises(EngineError, match=r"^x\.engine belongs to the thread that ran it first, owner, and was called from Main"):
        run(rule)
    there.set()
    owner.join()


def test_one_thread_may_run_it_again_and_within():
    rule = OneThread("x.engine")
    with rule.running():
        assert run(rule) == "ran"
    assert run(rule) == "ran"
    assert isinstance(elsewhere(lambda: run(rule)), EngineError)


def test_closing_waits_for_what_runs():
    rule, order = OneThread("x.engine"), []

    def close():
        with rule.closing():
            order.append("closed")

    with rule.running():
        thread = threading.Thread(target=close)
        thread.start()
        time.sleep(0.05)
        order.append("ran")
    thread.join()
    assert order == ["ran", "closed"]
