"""A build that says how far it is and that Ctrl-C ends: TensorRT builds in a thread of its own, this one listens.

From TensorRT 10 on its phases show their steps and it stops at the next one. Before, there is nothing but the layers' number and the
time, and a build cannot be stopped: the command then ends when the build does. Either way an interrupted build gives nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from retinanet_edge.runtime.progress import Progress

_LINE_SECONDS = 15.0


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
    """Return what `work` returns, from a thread of its own. On Ctrl-C set `stop`, wait for its end and raise KeyboardInterrupt.

    stoppable: whether work heeds `stop` and shows how far it is; where not, a line every 15 seconds says that it goes on.
    """
    with ThreadPoolExecutor(1, "build") as pool:
        working = pool.submit(work)
        try:
            _say_that_it_goes_on(working, silent=stoppable)
        except KeyboardInterrupt:
            stop.set()
            when = "at its next step" if stoppable else "with the build, which this TensorRT cannot stop (Ctrl-\\ ends it at once)"
            print(f"interrupted: ends {when}", file=sys.stderr, flush=True)
            while not working.done():  # TensorRT must not lose the network and its weights while it builds
                with suppress(KeyboardInterrupt):
                    wait([working])
            raise
        return working.result()


def _say_that_it_goes_on(working: Future[bytes | None], *, silent: bool) -> None:
    start = time.monotonic()
    while wait([working], _LINE_SECONDS).not_done:
        if not silent:
            print(f"building for {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


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
