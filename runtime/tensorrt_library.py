"""The TensorRT of this machine: whether it can be used, which one it is, and what it says. Knows no network and no engine."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from retinanet_edge.runtime.errors import EngineError

_SHOWN_ERRORS = 3  # TensorRT repeats itself; the first errors name the cause
_KEPT_MESSAGES = 100


@dataclass(frozen=True)
class Machine:
    """What an engine is bound to. tensorrt: "8.5.3.1". gpu: name of GPU 0. compute_capability: "9.0"."""

    tensorrt: str
    gpu: str
    compute_capability: str

    def __str__(self) -> str:
        return f"TensorRT {self.tensorrt} on {self.gpu} (compute capability {self.compute_capability})"


def tensorrt_unavailable_reason() -> str | None:
    """Return None where TensorRT, pycuda and a GPU can be used, else what is missing in a few words. Never prints or raises."""
    try:
        import tensorrt  # noqa: F401
    except ModuleNotFoundError:
        return "no TensorRT in this environment"
    except (ImportError, OSError) as error:  # its libraries, or those it needs, are missing
        return f"TensorRT does not load: {one_line(str(error))}"
    try:
        import pycuda.driver as cuda
    except ModuleNotFoundError:
        return "no pycuda in this environment"
    except ImportError as error:  # libcuda comes with the driver
        return f"no NVIDIA driver: {one_line(str(error))}"
    try:
        cuda.init()
        cuda.Device(0)
    except cuda.Error as error:
        return f"no GPU: CUDA error: {one_line(str(error))}"
    return None


def this_machine() -> Machine:
    """Return what engines built here are bound to. Raises EngineError where TensorRT cannot be used."""
    reason = tensorrt_unavailable_reason()
    if reason is not None:
        raise EngineError(f"an engine needs TensorRT, pycuda and an NVIDIA GPU, got {reason}: use --engine int8 without them")
    import pycuda.driver as cuda
    import tensorrt as trt

    device = cuda.Device(0)
    major, minor = device.compute_capability()
    return Machine(trt.__version__, device.name(), f"{major}.{minor}")


def has_plugin(name: str, version: str) -> bool:
    """Say whether TensorRT here has a plugin, those of its own library among them. Needs TensorRT, not a GPU."""
    import tensorrt as trt

    trt.init_libnvinfer_plugins(tensorrt_logger(), "")
    registry = trt.get_plugin_registry()
    if hasattr(registry, "get_creator"):
        return registry.get_creator(name, version, "") is not None
    return registry.get_plugin_creator(name, version, "") is not None


@functools.cache
def tensorrt_logger() -> Any:
    """Return the TensorRT logger of this process.

    There is one, and it lives as long as the process, since TensorRT and its plugin library keep the first that they are
    given. `take_errors()` returns what went wrong since its last call; `verbose` says whether messages are also printed.
    """
    import tensorrt as trt

    severity_of = trt.ILogger.Severity
    errors = (severity_of.INTERNAL_ERROR, severity_of.ERROR)

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.verbose = False
            self._errors: deque[str] = deque(maxlen=_KEPT_MESSAGES)
            self._warnings: deque[str] = deque(maxlen=_KEPT_MESSAGES)

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any of its threads."""
            if severity in errors:
                self._errors.append(one_line(message))
            elif severity == severity_of.WARNING:
                self._warnings.append(one_line(message))
            if self.verbose and severity != severity_of.VERBOSE:
                print(f"TensorRT: {message}", file=sys.stderr)

        def take_errors(self) -> str:
            """Return the first errors, or else the last warning (some versions warn of a missing driver), in one line."""
            shown = list(dict.fromkeys(self._errors))[:_SHOWN_ERRORS] or list(self._warnings)[-1:]
            self._errors.clear()
            self._warnings.clear()
            return "; ".join(shown) or "it gives no reason"

    return CollectingLogger()


def created(make: Callable[[], Any]) -> Any:
    """Return what a constructor of TensorRT gives. Raises EngineError where that is nothing, as with too old a driver."""
    try:
        made = make()
    except TypeError:  # pybind11's word for a constructor that returned null
        made = None
    if made is None:
        reason = tensorrt_logger().take_errors()
        raise EngineError(f"TensorRT does not start ({reason}): see nvidia-smi for the GPU and its driver")
    return made


def one_line(message: str) -> str:
    """Return a library's message, which may have many lines, as one."""
    return " ".join(message.split())
