"""Capture and cache of graphs on a stand-in for the driver's functions, and where they are looked for."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from retinanet_edge.runtime.cuda_graph import GraphCache, capture, graph_driver
from retinanet_edge.runtime.errors import EngineError


class Driver:
    """Counts calls. results: what a function returns instead of success, by its name."""

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUstream = int

    def __init__(self, **results):
        self.results, self.calls = results, []

    def _call(self, name, *given):
        self.calls.append(name)
        result = self.results.get(name, (0, *given))
        if isinstance(result, Exception):
            raise result
        return result

    def cuStreamBeginCapture(self, stream, mode):  # noqa: N802
        assert (stream, mode) == (7, 1)
        return self._call("begin")

    def cuStreamEndCapture(self, stream):  # noqa: N802
        assert stream == 7
        return self._call("end", "graph")

    def cuGraphInstantiate(self, graph, flags):  # noqa: N802
        assert (graph, flags) == ("graph", 0)
        return self._call("instantiate", "executable")

    def cuGraphLaunch(self, executable, stream):  # noqa: N802
        assert (executable, stream) == ("executable", 7)
        return self._call("launch")

    def cuGraphDestroy(self, _):  # noqa: N802
        return self._call("destroy")

    def cuGraphExecDestroy(self, _):  # noqa: N802
        return self._call("close")


class DriverOf11(Driver):
    """CUDA 11: the short name has another signature, a longer one has ours."""

    def cuGraphInstantiate(self, *_):  # noqa: N802
        raise AssertionError("not this one")

    def cuGraphInstantiateWithFlags(self, graph, flags):  # noqa: N802
        return Driver.cuGraphInstantiate(self, graph, flags)


@pytest.mark.parametrize("kind", [Driver, DriverOf11])
def test_a_graph_is_captured_launched_and_released(kind):
    driver = kind()
    graph = capture(driver, 7, lambda: driver.calls.append("enqueue"))
    assert driver.calls == ["begin", "enqueue", "end", "instantiate", "destroy"]
    graph.launch()
    graph.close()
    assert driver.calls[5:] == ["launch", "close"]


def refused():
    raise EngineError("TensorRT refuses")


def test_what_is_refused_while_it_is_captured_ends_the_capture():
    driver = Driver()
    with pytest.raises(EngineError, match=r"^TensorRT refuses$"):
        capture(driver, 7, refused)
    assert driver.calls == ["begin", "end", "destroy"]
    broken = Driver(end=(901, None))
    with pytest.raises(EngineError, match=r"^TensorRT refuses$"):
        capture(broken, 7, refused)
    assert broken.calls == ["begin", "end"]


def test_an_interrupt_ends_the_capture_too():
    driver = Driver()
    with pytest.raises(KeyboardInterrupt):
        capture(driver, 7, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert driver.calls == ["begin", "end"]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"begin": (900,)}, "cuStreamBeginCapture gives 900"),
        ({"end": (901, None)}, "cuStreamEndCapture gives 901"),
        ({"instantiate": (2, None)}, "cuGraphInstantiate gives 2"),
        ({"begin": RuntimeError('Function "cuStreamBeginCapture_v2"\nnot found')}, 'Function "cuStreamBeginCapture_v2" not found'),
    ],
)
def test_failures_of_the_driver_are_one_line(results, message):
    with pytest.raises(EngineError) as caught:
        capture(Driver(**results), 7, lambda: None)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def cache_on(monkeypatch, driver):
    monkeypatch.setattr("retinanet_edge.runtime.cuda_graph.graph_driver", lambda: driver)
    return GraphCache(7, "x.engine")


def test_each_key_is_captured_once(monkeypatch):
    driver = Driver()
    cache = cache_on(monkeypatch, driver)
    assert not cache.launch((0, 1))
    for key in ((0, 1), (0, 1), (1, 1)):
        cache.capture(key, lambda: None)
    assert driver.calls.count("begin") == 2
    assert cache.launch((0, 1))
    assert cache.launch((1, 1))
    assert not cache.launch((0, 2))
    cache.close()
    cache.close()
    assert driver.calls.count("close") == 2


def test_after_a_failure_no_other_is_tried(monkeypatch, caplog):
    driver = Driver()
    cache = cache_on(monkeypatch, driver)
    cache.capture(1, lambda: None)
    with caplog.at_level(logging.WARNING, "retinanet_edge"):
        cache.capture(2, refused)
        cache.capture(3, refused)
    assert [record.getMessage() for record in caplog.records] == [
        "x.engine runs without CUDA graphs: a CUDA graph cannot be captured (TensorRT refuses)"
    ]
    assert cache.launch(1), "those that there are go on"
    assert cache.obstacle == "a CUDA graph cannot be captured (TensorRT refuses)"


def test_a_launch_that_fails_is_an_error(monkeypatch):
    cache = cache_on(monkeypatch, Driver(launch=(700,)))
    cache.capture(1, lambda: None)
    with pytest.raises(EngineError, match="cuGraphLaunch gives 700"):
        cache.launch(1)


@pytest.mark.parametrize(("obstacle", "said"), [(None, "cuda-bindings is not installed"), ("they are switched off",) * 2])
def test_without_the_package_or_when_not_wanted_nothing_is_captured(monkeypatch, obstacle, said):
    monkeypatch.setattr("retinanet_edge.runtime.cuda_graph.graph_driver", lambda: None)
    cache = GraphCache(7, "x.engine", obstacle)
    cache.capture(1, refused)
    assert cache.obstacle == said
    assert not cache.launch(1)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["cuda/bindings/driver.py"], "cuda.bindings.driver"),
        (["cuda/cuda.py"], "cuda.cuda"),  # cuda-python before 12.8
        (["cuda/bindings/driver.py", "cuda/cuda.py"], "cuda.bindings.driver"),
        ([], None),
    ],
)
def test_both_layouts_of_the_package_are_found(tmp_path, files, expected):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "cuda").mkdir(exist_ok=True)
    (tmp_path / "cuda" / "__init__.py").touch()  # hides one that is installed
    code = "from retinanet_edge.runtime.cuda_graph import graph_driver as d; print(getattr(d(), '__name__', None))"
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.strip() == str(expected)


def test_the_package_that_is_installed_has_every_name():
    driver = graph_driver()
    if driver is None:
        pytest.skip("no cuda-bindings in this environment")
    names = "cuStreamBeginCapture cuStreamEndCapture cuGraphInstantiate cuGraphLaunch cuGraphDestroy cuGraphExecDestroy CUstream"
    assert [name for name in names.split() if not hasattr(driver, name)] == []
    assert hasattr(driver.CUstreamCaptureMode, "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")
    assert int(driver.CUresult.CUDA_SUCCESS) == 0
