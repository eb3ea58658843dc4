"""The TensorRT of this machine, on machines of all kinds: most of these tests run where there is none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.tensorrt_library import (
    created,
    has_plugin,
    one_line,
    tensorrt_logger,
    tensorrt_unavailable_reason,
    this_machine,
)


def test_the_reason_is_short_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    reason = tensorrt_unavailable_reason()
    assert reason is None or (0 < len(reason) < 200 and "\n" not in reason)
    assert capfd.readouterr() == ("", "")


def test_without_tensorrt_the_reason_says_so() -> None:
    code = (
        "import sys; sys.modules['tensorrt'] = None\n"
        "from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason as reason\n"
        "print(reason())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("no TensorRT in this environment\n", "")


def test_importing_the_backend_imports_neither_tensorrt_nor_pycuda() -> None:
    code = (
        "import sys, retinanet_edge.runtime.tensorrt_engine, retinanet_edge.runtime.device_memory\n"
        "print(sorted({'tensorrt', 'pycuda', 'cuda', 'onnx', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_the_machine_is_named_or_the_reason_given() -> None:
    if (reason := tensorrt_unavailable_reason()) is None:
        machine = this_machine()
        assert machine.gpu in str(machine)
        assert machine.compute_capability.count(".") == 1
    else:
        with pytest.raises(EngineError) as caught:
            this_machine()
        assert reason in str(caught.value)


def test_messages_become_one_line() -> None:
    assert one_line("a\n  b\t c \n") == "a b c"


@pytest.fixture
def trt():
    return pytest.importorskip("tensorrt", reason="no TensorRT in this environment", exc_type=ImportError)


def test_errors_are_collected_and_taken_once(trt, capfd: pytest.CaptureFixture[str]) -> None:
    logger, severity = tensorrt_logger(), trt.ILogger.Severity
    logger.take_errors()
    logger.log(severity.WARNING, "w")
    logger.log(severity.ERROR, "e\n1")
    logger.log(severity.INTERNAL_ERROR, "e2")
    logger.log(severity.ERROR, "e 1")
    assert logger.take_errors() == "e 1; e2"
    assert logger.take_errors() == "it gives no reason"
    assert capfd.readouterr() == ("", "")


def test_a_warning_is_the_reason_where_there_is_no_error(trt) -> None:
    logger = tensorrt_logger()
    logger.log(trt.ILogger.Severity.WARNING, "first")
    logger.log(trt.ILogger.Severity.WARNING, "CUDA initialization failure")
    assert logger.take_errors() == "CUDA initialization failure"


def test_messages_are_shown_only_when_asked(trt, capfd: pytest.CaptureFixture[str]) -> None:
    logger = tensorrt_logger()
    logger.verbose = True
    try:
        logger.log(trt.ILogger.Severity.INFO, "building")
        logger.log(trt.ILogger.Severity.VERBOSE, "every tactic")
    finally:
        logger.verbose = False
    assert capfd.readouterr().err == "TensorRT: building\n"


def test_there_is_one_logger(trt) -> None:
    assert isinstance(tensorrt_logger(), trt.ILogger)
    assert tensorrt_logger() is tensorrt_logger()


@pytest.mark.usefixtures("trt")
def test_plugins_are_asked_from_the_registry() -> None:
    assert has_plugin("EfficientNMS_TRT", "1")
    assert not has_plugin("EfficientNMS_TRT", "99")
    assert not has_plugin("NoSuchPlugin", "1")


def test_a_constructor_that_gives_nothing_is_one_line(trt) -> None:
    tensorrt_logger().log(trt.ILogger.Severity.ERROR, "driver\ntoo old")
    with pytest.raises(EngineError, match=r"does not start \(driver too old\)"):
        created(lambda: None)
    assert created(lambda: 3) == 3
