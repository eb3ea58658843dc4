"""A build that says how far it is and that Ctrl-C ends: TensorRT builds in a thread of its own, this one listens.

From TensorRT 10 on its phases show their steps and it stops at the next one. Before, there is nothing but the layers' number and the
time, and a build cannot be stopped: the command then ends when the build does. Either way an interrupted build gives nothing.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from retinanet_edge.runtime.progress import Progress

_LOOK_SECONDS, _LINE_SECONDS = 0.1, 15.0  # between looks for Ctrl-C, and between lines


def build_watched(builder: Any, network: Any, config: Any) -> bytes | None:
    """Return the plan of a network, None where TensorRT builds none. Raises KeyboardInterrupt, after TensorRT's end, where one came."""
    import tensorrt as trt

    stop, stoppable = threading.Event(), hasattr(config, "progress_monitor")
    if hasattr(config, "progress_monitor"):
        config.progress_monitor = progress_monitor(stop)
    print(f"building {network.num_layers} layers with TensorRT {trt.__version__}", file=sys.stderr, flush=True)

    def work() -> bytes | None:
        serialized = builder.build_serialized_network(network, config)
        return None if serialized is None else bytes(serialized)

    return watched(work, stop, stoppable)


def watched(work: Callable[[], bytes | None], stop: threading.Event, stoppable: bool) -> bytes | None:
    """Return what `work` returns, from a thread of its own. On Ctrl-C or SIGTERM set `stop`, wait for its end and raise KeyboardInterrupt.

    stoppable: whether work heeds `stop` and shows how far it is; where not, a line every 15 seconds says that
    it goes on.
    """
    # TensorRT must not lose the network and its weights while it builds: nothing is raised before its end.
    interrupts: list[int] = []
    # In another thread than the main one, as of a program that builds by itself, signals are that program's affair.
    heeded = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    former = {number: signal.signal(number, lambda number, _: interrupts.append(number)) for number in heeded}
    try:
        with ThreadPoolExecutor(1, "build") as pool:
            working = pool.submit(work)
            start = said = time.monotonic()
            while wait([working], min(_LOOK_SECONDS, _LINE_SECONDS)).not_done:
                if interrupts and not stop.is_set():
                    stop.set()
                    when = "at its next step" if stoppable else "with the build, which this TensorRT cannot stop (Ctrl-\\ ends it at once)"
                    print(f"interrupted: ends {when}", file=sys.stderr, flush=True)
                elif not stoppable and time.monotonic() - said >= _LINE_SECONDS:
                    said = time.monotonic()
                    print(f"building for {said - start:.0f} s", file=sys.stderr, flush=True)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if interrupts:
        raise KeyboardInterrupt
    return working.result()


def progress_monitor(stop: threading.Event) -> object:
    """Return a monitor that shows every phase with its steps, and that ends the build where `stop` is set. From TensorRT 10 on."""
    import tensorrt as trt

    assert hasattr(trt, "IProgressMonitor")

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Called by TensorRT, from any of its threads. What is raised here would end the process."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._shown: dict[str, Progress] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._shown[phase_name] = Progress(phase_name if parent_phase is None else f"  {phase_name}", num_steps, "step")

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002 - steps come one by one
            if phase_name in self._shown:
                self._shown[phase_name].advance()
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            if shown := self._shown.pop(phase_name, None):
                shown.__exit__()

    return Monitor()
