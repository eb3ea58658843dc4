import logging
import threading
import time

from retinanet_edge.runtime import sink_runner
from retinanet_edge.runtime.sink import SinkError
from retinanet_edge.runtime.sink_runner import SinkRunner
from tests.runtime.stream_results import result_of, wait_until


class GatedSink:
    """Takes a result for each permit; says what it took, and on which threads."""

    name = "gated"

    def __init__(self, permits=0):
        self.permits = threading.Semaphore(permits)
        self.asked, self.taken, self.threads, self.closed = [], [], set(), 0
        self.error = None
        self.close_error = None

    def write(self, result):
        self.threads.add(threading.current_thread())
        self.asked.append(result.frame.index)
        self.permits.acquire()
        if self.error:
            raise self.error
        self.taken.append(result.frame.index)

    def close(self):
        self.threads.add(threading.current_thread())
        self.closed += 1
        if self.close_error:
            raise self.close_error

    def busy_with(self, index):
        return wait_until(lambda: self.asked and self.asked[-1] == index)


def counts(runner):
    status = runner.status
    return status.written, status.dropped, status.failed, status.queued


def test_results_go_through_in_order_on_one_thread_that_also_closes():
    sink = GatedSink(permits=100)
    runner = SinkRunner(sink, capacity=100)
    for index in range(50):
        runner.put(result_of(index))
    runner.close()
    runner.close()
    assert sink.taken == list(range(50))
    assert len(sink.threads) == 1
    assert threading.current_thread() not in sink.threads
    assert sink.closed == 1
    assert counts(runner) == (50, 0, 0, 0)


def test_a_full_queue_drops_its_oldest_and_never_blocks():
    """One in work, then five into a queue of three: 1 and 2 go, 3, 4, 5 stay."""
    sink = GatedSink()
    runner = SinkRunner(sink, capacity=3)
    runner.put(result_of(0))
    assert sink.busy_with(0)
    for index in range(1, 6):
        runner.put(result_of(index))
    assert counts(runner) == (0, 2, 0, 3)
    sink.permits.release(100)
    runner.close()
    assert sink.taken == [0, 3, 4, 5]
    assert counts(runner) == (4, 2, 0, 0)


def test_lossless_waits_for_room_and_loses_nothing():
    sink = GatedSink()
    runner = SinkRunner(sink, capacity=2, lossless=True, patience_s=60)
    feeder = threading.Thread(target=lambda: [runner.put(result_of(index)) for index in range(20)])
    feeder.start()
    assert wait_until(lambda: runner.status.queued == 2)
    assert feeder.is_alive()
    sink.permits.release(100)
    feeder.join(30)
    runner.close()
    assert sink.taken == list(range(20))
    assert counts(runner) == (20, 0, 0, 0)


def test_lossless_stops_waiting_for_a_sink_that_hangs_until_it_takes_something():
    sink = GatedSink()
    runner = SinkRunner(sink, capacity=1, lossless=True, patience_s=0.05)
    runner.put(result_of(0))
    assert sink.busy_with(0)
    for index in range(1, 1000):  # the second waits 0.05 s in vain; did each of them, it were 50 s
        runner.put(result_of(index))
    assert counts(runner) == (0, 998, 0, 1)
    assert wait_until(lambda: "hangs: busy with one result" in (runner.status.message or ""))
    sink.permits.release()
    assert sink.busy_with(999)
    runner.put(result_of(1000))  # into the queue of one
    started = time.monotonic()
    runner.put(result_of(1001))  # waits again
    assert time.monotonic() - started >= 0.05
    sink.permits.release(10)
    runner.close()
    assert sink.taken == [0, 999, 1001]


def test_failures_are_counted_said_once_and_its_recovery_too(caplog):
    caplog.set_level(logging.INFO, "retinanet_edge.sink")
    sink = GatedSink(permits=1000)
    sink.error = SinkError("cannot write a (No space left on device)")
    runner = SinkRunner(sink, capacity=100)
    for index in range(10):
        runner.put(result_of(index))
    assert wait_until(lambda: runner.status.failed == 10)
    assert runner.status.message == "cannot write a (No space left on device)"
    sink.error = None
    runner.put(result_of(10))
    assert wait_until(lambda: runner.status.written == 1)
    assert runner.status.message is None
    assert [record.getMessage() for record in caplog.records] == [
        "gated: cannot write a (No space left on device)", "gated: recovered, 10 results failed so far",
    ]  # fmt: skip
    sink.error = SinkError("again")
    runner.put(result_of(11))
    assert wait_until(lambda: runner.status.failed == 11)
    assert len(caplog.records) == 2  # within the minute
    runner.close()
    assert runner.status.message == "again"


def test_a_trouble_that_lasts_is_said_again(caplog, monkeypatch):
    monkeypatch.setattr(sink_runner, "_SAY_AGAIN_S", 0.0)
    sink = GatedSink(permits=1000)
    sink.error = SinkError("away")
    runner = SinkRunner(sink)
    for index in range(3):
        runner.put(result_of(index))
    runner.close()
    assert [record.getMessage() for record in caplog.records] == ["gated: away"] * 3


def test_age_is_measured_when_the_sink_is_done():
    sink = GatedSink()
    runner = SinkRunner(sink)
    assert all(age != age for age in runner.status.age_ms)  # NaN
    arrived = time.perf_counter()
    runner.put(result_of(0))
    assert sink.busy_with(0)
    time.sleep(0.2)
    sink.permits.release()
    runner.close()
    most = (time.perf_counter() - arrived) * 1e3
    for age in runner.status.age_ms:
        assert 200 * 0.98 <= age <= most * 1.02  # the histogram is right to 1 %


def test_closing_is_bounded_where_the_sink_hangs(caplog):
    """One in work and two queued: none of the three is ever written."""
    sink = GatedSink()
    runner = SinkRunner(sink, capacity=5)
    for index in range(3):
        runner.put(result_of(index))
    assert sink.busy_with(0)
    runner.close(timeout_s=0.1)
    assert runner.status.message == "left behind: did not end within 0.1 s"
    assert "gated: left behind" in caplog.text
    assert counts(runner) == (0, 3, 0, 0)
    runner.put(result_of(3))
    runner.close()
    assert counts(runner) == (0, 4, 0, 0)
    sink.permits.release(10)  # what it does now counts no more
    assert wait_until(lambda: sink.closed == 1)
    assert counts(runner) == (0, 4, 0, 0)
    assert runner.status.message == "left behind: did not end within 0.1 s"


def test_closing_a_lossless_sink_waits_as_long_as_it_progresses():
    """Eight results, 0.25 s each, are more than the 1.2 s that closing waits for one of them."""
    class SlowSink(GatedSink):
        def write(self, result):
            time.sleep(0.25)
            self.taken.append(result.frame.index)

    sinks = [SlowSink(), SlowSink()]
    for sink, lossless in zip(sinks, (True, False), strict=True):
        runner = SinkRunner(sink, capacity=8, lossless=lossless)
        for index in range(8):
            runner.put(result_of(index))
        runner.close(timeout_s=1.2)
        assert sink.closed == 1
        status = runner.status
        assert status.written + status.dropped == 8
    assert sinks[0].taken == list(range(8))
    assert len(sinks[1].taken) < 8


def test_what_fails_at_closing_is_said(caplog):
    sink = GatedSink(permits=1)
    sink.close_error = SinkError("cannot finish")
    runner = SinkRunner(sink)
    runner.put(result_of())
    runner.close()
    assert runner.status.message == "cannot finish"
    assert "gated: cannot finish" in caplog.text


def test_a_sink_that_breaks_is_closed_and_said_and_stops_nobody(monkeypatch):
    broken = []
    monkeypatch.setattr(threading, "excepthook", broken.append)
    sink = GatedSink(permits=10)
    sink.error = ZeroDivisionError("a mistake of ours")
    deaths = []
    runner = SinkRunner(sink, capacity=1, lossless=True, patience_s=60, on_death=lambda: deaths.append(1))
    runner.put(result_of(0))
    assert wait_until(lambda: sink.closed == 1)
    assert (deaths, runner.died) == ([1], True)
    for index in range(1, 5):
        runner.put(result_of(index))
    runner.close()
    assert [error.exc_type for error in broken] == [ZeroDivisionError]
    assert "unexpected error" in runner.status.message
    assert counts(runner) == (0, 5, 0, 0)


def test_a_hanging_sink_holds_up_no_other():
    hanging, working = GatedSink(), GatedSink(permits=10_000)
    runners = [SinkRunner(hanging, capacity=2), SinkRunner(working, capacity=1000)]
    for index in range(500):
        for runner in runners:
            runner.put(result_of(index))
    runners[1].close()
    assert working.taken == list(range(500))
    assert runners[0].status.dropped == 497 + (not hanging.asked)  # one in work, two queued
    hanging.permits.release(10)
    runners[0].close()
