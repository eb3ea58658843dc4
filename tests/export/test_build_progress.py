"""Waiting for a build: its result, its errors, Ctrl-C, and the monitor that TensorRT 10 calls. Builds themselves are in tests/gpu."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest

from retinanet_edge.export import build_progress
from retinanet_edge.export.build_progress import progress_monitor, watched


@pytest.fixture
def _interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as in a command."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("plan", [b"plan", None])
def test_what_the_build_gives_comes_back(plan: bytes | None) -> None:
    assert watched(lambda: plan, threading.Event(), stoppable=True) == plan


def test_it_runs_in_a_thread_of_its_own() -> None:
    names: list[str] = []
    watched(lambda: names.append(threading.current_thread().name), threading.Event(), stoppable=True)
    assert len(names) == 1
    assert names[0] != threading.current_thread().name


def test_an_error_of_the_build_comes_back() -> None:
    def fail() -> bytes:
        raise RuntimeError("of TensorRT")

    with pytest.raises(RuntimeError, match="of TensorRT"):
        watched(fail, threading.Event(), stoppable=True)


@pytest.mark.usefixtures("_interrupts")
@pytest.mark.parametrize("stoppable", [True, False])
def test_ctrl_c_ends_the_build_at_its_next_step_or_waits_for_its_end(stoppable: bool, capsys: pytest.CaptureFixture[str]) -> None:
    stop, events = threading.Event(), []

    def work() -> bytes:
        os.kill(os.getpid(), signal.SIGINT)  # as from a terminal
        assert stop.wait(60), "told to stop"
        os.kill(os.getpid(), signal.SIGINT)  # impatience changes nothing
        time.sleep(0.3)
        events.append("ended")
        return b"plan"

    with pytest.raises(KeyboardInterrupt):
        watched(work, stop, stoppable)
    assert events == ["ended"], "not before TensorRT is done with the network"
    said = capsys.readouterr().err
    assert ("at its next step" in said, "cannot stop" in said) == (stoppable, not stoppable)


@pytest.mark.parametrize("stoppable", [True, False])
def test_a_build_without_progress_says_that_it_goes_on(
    stoppable: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_progress, "_LINE_SECONDS", 0.01)
    done = threading.Event()
    timer = threading.Timer(0.2, done.set)
    timer.start()
    watched(lambda: done.wait(60) and None, threading.Event(), stoppable)
    assert ("building for 0 s" in capsys.readouterr().err) == (not stoppable)


@pytest.fixture
def _tensorrt_with_monitors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base class of TensorRT 10, where there is no TensorRT."""
    stand_in = types.ModuleType("tensorrt")
    stand_in.IProgressMonitor = type("IProgressMonitor", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)


@pytest.mark.usefixtures("_tensorrt_with_monitors")
def test_phases_within_phases_are_shown_with_their_steps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("retinanet_edge.runtime.progress._PLAIN_LINE_SECONDS", 0.0)
    monitor: Any = progress_monitor(threading.Event())
    monitor.phase_start("Building", None, 2)
    monitor.phase_start("Timing kernels", "Building", 3)
    assert [monitor.step_complete("Timing kernels", step) for step in range(3)] == [True] * 3
    monitor.phase_finish("Timing kernels")
    assert monitor.step_complete("Building", 0)
    monitor.phase_finish("Building")
    assert capsys.readouterr().err.splitlines() == [
        "  Timing kernels: 1 of 3 steps", "  Timing kernels: 2 of 3 steps", "  Timing kernels: 3 of 3 steps", "Building: 1 of 2 steps",
    ]  # fmt: skip


@pytest.mark.usefixtures("_tensorrt_with_monitors")
def test_the_monitor_ends_the_build_once_it_is_told_to_and_takes_phases_that_it_does_not_know() -> None:
    stop = threading.Event()
    monitor: Any = progress_monitor(stop)
    monitor.phase_finish("never begun")
    assert monitor.step_complete("never begun", 0) is True
    stop.set()
    assert monitor.step_complete("never begun", 1) is False


def test_this_tensorrt_takes_the_monitor() -> None:
    trt = pytest.importorskip("tensorrt", reason="no TensorRT in this environment", exc_type=ImportError)
    if not hasattr(trt, "IProgressMonitor"):
        pytest.skip(f"TensorRT {trt.__version__} has no progress monitors")
    assert isinstance(progress_monitor(threading.Event()), trt.IProgressMonitor)
