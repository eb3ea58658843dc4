"""TensorRT's runtime on the GPU of fake_gpu.py, with functions for engines. Names and signatures are those of TensorRT 8.5.3.1."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from retinanet_edge.runtime import device_memory
from tests.runtime.fake_gpu import FakeGpu, Stream


@dataclass(frozen=True)
class Tensor:
    """shape: -1 for the batch. rows_depend: whether the first dimension depends on the data."""

    mode: str
    dtype: str
    shape: tuple[int, ...]
    rows_depend: bool = False


_TYPES = {"FLOAT": np.float32, "INT32": np.int32, "UINT8": np.uint8}


class FakeEngine:
    """An ICudaEngine that computes `compute(inputs) -> outputs`, arrays by name. batches: smallest, best and largest."""

    device_memory_size = 1000

    def __init__(
        self, gpu: FakeGpu, tensors: Mapping[str, Tensor], compute: Callable[[dict[str, Any]], dict[str, Any]], batches: tuple[int, ...]
    ) -> None:
        self.gpu, self.tensors, self.compute, self.batches = gpu, dict(tensors), compute, batches
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name].mode)

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name].dtype)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return [(batch, *self.tensors[name].shape[1:]) for batch in self.batches]

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine, self._gpu = engine, engine.gpu
        self._batch = 0
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._streams: set[int] = set()

    def set_input_shape(self, _: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.batches
        self._batch = shape[0]
        return least <= shape[0] <= most

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        tensor = self._engine.tensors[name]
        return tensor.shape if tensor.rows_depend else tuple(self._batch if size == -1 else size for size in tensor.shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address in self._gpu.memory
        self._addresses[name] = address
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        self._allocators[name] = allocator
        return True

    def execute_async_v3(self, handle: int) -> bool:
        assert self._gpu.current > 0, "needs a current context"
        self._streams.add(handle)
        assert len(self._streams) == 1, "a context stays in one stream"
        stream, batch, addresses = self._gpu.stream(handle), self._batch, dict(self._addresses)
        if self._allocators:
            return self._execute_now(stream, batch, addresses)
        if stream.capturing is None:
            self._gpu.calls.append("plain")
        stream.push(lambda: self._write(self._compute(batch, addresses), addresses))
        return True

    def _execute_now(self, stream: Stream, batch: int, addresses: dict[str, int]) -> bool:
        """Lengths that depend on the data are known only when it has been computed."""
        self._gpu.calls.append("plain")
        stream.synchronize()
        outputs = self._compute(batch, addresses)
        for name, allocator in self._allocators.items():
            addresses[name] = allocator.reallocate_output(name, addresses.get(name, 0), outputs[name].nbytes, 256)
            if addresses[name] == 0:
                return False
            allocator.notify_shape(name, outputs[name].shape)
        stream.push(lambda: self._write(outputs, addresses))
        return True

    def _compute(self, batch: int, addresses: dict[str, int]) -> dict[str, Any]:
        inputs = {}
        for name, tensor in self._engine.tensors.items():
            if tensor.mode == "INPUT":
                shape, dtype = (batch, *tensor.shape[1:]), np.dtype(_TYPES[tensor.dtype])
                size = int(np.prod(shape)) * dtype.itemsize
                inputs[name] = self._gpu.memory[addresses[name]][:size].view(dtype).reshape(shape).copy()
        return self._engine.compute(inputs)

    def _write(self, outputs: dict[str, Any], addresses: dict[str, int]) -> None:
        for name, values in outputs.items():
            content = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            self._gpu.memory[addresses[name]][: len(content)] = content


def install(monkeypatch: Any, engine: FakeEngine, *, with_graphs: bool = True) -> SimpleNamespace:
    """Let imports of pycuda, cuda-bindings and TensorRT find the GPU of `engine`, and every plan be `engine`. Return the runtime."""
    gpu = engine.gpu
    driver = gpu.pycuda_driver()
    monkeypatch.setattr(device_memory, "primary_context", functools.cache(device_memory.primary_context.__wrapped__))  # none of others
    trt = types.ModuleType("tensorrt")
    runtime = SimpleNamespace(
        deserialize_cuda_engine=lambda plan: engine if plan == b"plan" else None,
        engine_host_code_allowed=False, num_DLA_cores=2, DLA_core=-1,
    )  # fmt: skip
    trt.__dict__.update(__version__="8.5.3.1", init_libnvinfer_plugins=lambda *_: True, Runtime=lambda _: runtime)
    trt.__dict__.update(IOutputAllocator=type("IOutputAllocator", (), {}))
    logger = SimpleNamespace(take_errors=lambda: "the fake's reason")
    monkeypatch.setattr("retinanet_edge.runtime.tensorrt_session.tensorrt_logger", lambda: logger)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=driver))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    graphs = gpu.graph_driver() if with_graphs else None
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(bindings=SimpleNamespace(driver=graphs)) if with_graphs else None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(driver=graphs) if with_graphs else None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", graphs)
    return runtime
