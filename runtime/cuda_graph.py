"""CUDA graphs through cuda-bindings, as pycuda has none: what an engine enqueues, captured once and launched as one.

Works in the context that is current, on a stream of pycuda's. Both layouts of the package are known: cuda.bindings.driver, and
cuda.cuda of cuda-python before 12.8. Every function returns a tuple that begins with a CUresult.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

from retinanet_edge.runtime.errors import EngineError

_LOG = logging.getLogger("retinanet_edge")


def graph_driver() -> Any | None:
    """Return the module with the driver's functions, None where cuda-bindings is missing or does not load."""
    try:
        from cuda.bindings import driver
    except ImportError:
        try:
            from cuda import cuda as driver
        except ImportError:
            return None
    return driver


class CudaGraph:
    """An executable graph on the stream that it was captured from."""

    def __init__(self, driver: Any, executable: Any, stream: Any) -> None:
        self._driver, self._executable, self._stream = driver, executable, stream

    def launch(self) -> None:
        """Enqueue all of it. Raises EngineError where CUDA fails."""
        _call(self._driver.cuGraphLaunch, self._executable, self._stream)

    def close(self) -> None:
        """Release it; must not be running."""
        self._driver.cuGraphExecDestroy(self._executable)  # what it returns tells of earlier failures, too


def capture(driver: Any, stream_handle: int, enqueue: Callable[[], None]) -> CudaGraph:
    """Return what `enqueue` puts on the stream as a graph, without running it. Raises EngineError where that does not work.

    The stream must not be the default one. `enqueue` must have been called before with the same shapes and addresses, as TensorRT
    then brings up to date what cannot be captured; it raises EngineError where it fails.
    """
    stream = driver.CUstream(stream_handle)
    # Of this thread only: others may go on allocating.
    _call(driver.cuStreamBeginCapture, stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    failure: EngineError | None = None
    try:
        enqueue()
    except EngineError as error:
        failure = error
    finally:  # a stream that is left capturing takes no other work
        ended, graph = driver.cuStreamEndCapture(stream)
    if int(ended) != 0:
        raise failure or _failure("cuStreamEndCapture", ended)
    try:
        if failure is not None:
            raise failure
        # Before 12 the function of the shorter name took a buffer for a log.
        instantiate = driver.cuGraphInstantiateWithFlags if hasattr(driver, "cuGraphInstantiateWithFlags") else driver.cuGraphInstantiate
        return CudaGraph(driver, _call(instantiate, graph, 0), stream)
    finally:
        driver.cuGraphDestroy(graph)


class GraphCache:
    """The graphs of a session, one for each key (shapes and addresses). Plain enqueueing takes over where they do not work.

    obstacle: None while graphs are used, else why not. name: what the log calls the engine.
    """

    def __init__(self, stream_handle: int, name: str, obstacle: str | None = None) -> None:
        self._stream_handle, self._name = stream_handle, name
        self._driver = graph_driver() if obstacle is None else None
        self._graphs: dict[Hashable, CudaGraph] = {}
        self.obstacle = "cuda-bindings is not installed" if obstacle is None and self._driver is None else obstacle

    def launch(self, key: Hashable) -> bool:
        """Launch the graph of `key` where there is one; return whether there was."""
        graph = self._graphs.get(key)
        if graph is not None:
            graph.launch()
        return graph is not None

    def capture(self, key: Hashable, enqueue: Callable[[], None]) -> None:
        """Make the graph of `key` if there is none. Where that does not work it is logged, once, and no other is tried."""
        if self.obstacle is not None or key in self._graphs:
            return
        try:
            self._graphs[key] = capture(self._driver, self._stream_handle, enqueue)
        except EngineError as error:
            self.obstacle = f"a CUDA graph cannot be captured ({error})"
            _LOG.warning("%s runs without CUDA graphs: %s", self._name, self.obstacle)

    def close(self) -> None:
        """Release all graphs; none may be running."""
        graphs, self._graphs = self._graphs, {}
        for graph in graphs.values():
            graph.close()


def _call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Return what a function of the driver gives beside its CUresult. Raises EngineError where that is an error."""
    name = getattr(function, "__name__", "a function of CUDA")
    try:
        code, *values = function(*arguments)
    except RuntimeError as error:  # a driver older than the package does not have it
        raise EngineError(f"{name}: {' '.join(str(error).split())}") from None
    if int(code) != 0:
        raise _failure(name, code)
    return values[0] if values else None


def _failure(name: str, code: Any) -> EngineError:
    return EngineError(f"{name} gives {getattr(code, 'name', code)}")
