"""A GPU in NumPy: what pycuda and cuda-bindings are to a session of TensorRT, with nothing done before it must be.

Work on a stream waits until somebody waits for it, and then only what that needs is done. So a copy that should have waited for
another stream, and a buffer that is filled again too early, give wrong figures, as on the worst of GPUs. Names and signatures are
those of pycuda 2026.1 and cuda-bindings 11.8 to 13.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np


class CudaError(Exception):
    """pycuda.driver.Error."""


class Stream:
    """Operations that have not been done; `capturing` holds them instead while a graph is captured."""

    def __init__(self, gpu: FakeGpu, flags: int) -> None:
        self.flags = flags
        self.pending: list[Callable[[], None]] = []
        self.capturing: list[Callable[[], None]] | None = None
        gpu.streams.append(self)
        self.handle = 1000 + len(gpu.streams)

    def push(self, operation: Callable[[], None]) -> None:
        (self.pending if self.capturing is None else self.capturing).append(operation)

    def synchronize(self) -> None:
        assert self.capturing is None, "synchronising a stream breaks its capture"
        while self.pending:
            self.pending.pop(0)()

    def wait_for_event(self, event: Event) -> None:
        mark = event.mark
        if mark is not None:
            self.push(mark.reach)


class Mark:
    """One recording of an event."""

    def __init__(self, gpu: FakeGpu, stream: Stream) -> None:
        self.time: int | None = None
        self._gpu, self._stream = gpu, stream
        stream.push(self._done)

    def _done(self) -> None:
        self._gpu.clock += 1
        self.time = self._gpu.clock

    def reach(self) -> None:
        while self.time is None:
            self._stream.pending.pop(0)()


class Event:
    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self.mark: Mark | None = None

    def record(self, stream: Stream) -> Event:
        self.mark = Mark(self._gpu, stream)
        return self

    def synchronize(self) -> Event:
        if self.mark is not None:
            self.mark.reach()
        return self

    def time_till(self, other: Event) -> float:
        assert self.mark is not None
        assert other.mark is not None
        assert self.mark.time is not None
        assert other.mark.time is not None
        return float(other.mark.time - self.mark.time)


class Allocation:
    """pycuda's DeviceAllocation. Fresh memory holds rubbish."""

    def __init__(self, gpu: FakeGpu, size: int) -> None:
        if size > gpu.free_bytes:
            raise CudaError("cuMemAlloc failed: out of memory")
        self._gpu, self.address = gpu, gpu.add(np.full(size, 0xAB, np.uint8))
        gpu.free_bytes -= size

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self._gpu.free_bytes += len(self._gpu.memory.pop(self.address))


class Pinned:
    """pycuda's PagelockedHostAllocation: the base of an array on the host, which the GPU may have mapped."""

    def __init__(self, gpu: FakeGpu, shape: tuple[int, ...], dtype: Any, flags: int) -> None:
        self._gpu, self._flags = gpu, flags
        self._storage = np.full(shape, 7, dtype)
        self.__array_interface__ = self._storage.__array_interface__

    def get_device_pointer(self) -> int:
        assert self._flags == 2, "only memory that was asked for so is mapped"
        return self._gpu.add(self._storage.reshape(-1).view(np.uint8))


class FakeGpu:
    """memory: bytes by address. contexts: how many times the context is current. calls: plain runs of the engine and launched graphs."""

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared
        self.memory: dict[int, np.ndarray] = {}
        self.free_bytes = 1 << 30
        self.streams: list[Stream] = []
        self.clock = self.current = self.copies = 0
        self.retained = 0
        self.calls: list[str] = []
        self.capture_fails = False
        self._next = 4096

    def add(self, content: np.ndarray) -> int:
        address, self._next = self._next, self._next + (len(content) // 256 + 1) * 256
        self.memory[address] = content
        return address

    def stream(self, handle: int) -> Stream:
        return next(stream for stream in self.streams if stream.handle == handle)

    def pycuda_driver(self) -> types.ModuleType:
        module = types.ModuleType("pycuda.driver")
        device = SimpleNamespace(get_attribute=lambda _: int(self.shared), retain_primary_context=self._retain)
        attributes = {
            "Error": CudaError, "init": lambda: None, "Device": lambda _: device,
            "device_attribute": SimpleNamespace(INTEGRATED=18), "host_alloc_flags": SimpleNamespace(DEVICEMAP=2),
            "Context": SimpleNamespace(pop=self._pop, synchronize=self._synchronize),
            "Stream": lambda flags=0: Stream(self, flags), "Event": lambda: Event(self),
            "mem_alloc": lambda size: Allocation(self, size),
            "pagelocked_empty": lambda shape, dtype, mem_flags=0: np.asarray(Pinned(self, shape, dtype, mem_flags)),
            "memcpy_htod_async": self._upload, "memcpy_dtoh_async": self._download,
        }  # fmt: skip
        for name, value in attributes.items():
            setattr(module, name, value)
        return module

    def _retain(self) -> SimpleNamespace:
        self.retained += 1
        return SimpleNamespace(push=self._push)  # and no detach: pycuda's would leave the context on the thread's stack

    def _push(self) -> None:
        self.current += 1

    def _pop(self) -> None:
        self.current -= 1

    def _synchronize(self) -> None:
        for stream in self.streams:
            stream.synchronize()

    def _upload(self, target: Allocation, source: np.ndarray, stream: Stream) -> None:
        assert self.current > 0, "needs a current context"
        self.copies += 1

        def copy() -> None:
            content = np.ascontiguousarray(source).reshape(-1).view(np.uint8)
            self.memory[int(target)][: len(content)] = content

        stream.push(copy)

    def _download(self, target: np.ndarray, source: Allocation, stream: Stream) -> None:
        assert self.current > 0, "needs a current context"
        self.copies += 1

        def copy() -> None:
            target[...] = self.memory[int(source)][: target.nbytes].view(target.dtype).reshape(target.shape)

        stream.push(copy)

    def graph_driver(self) -> types.ModuleType:
        module = types.ModuleType("cuda.bindings.driver")

        class CUresult(IntEnum):
            CUDA_SUCCESS = 0
            CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901

        success = CUresult.CUDA_SUCCESS

        def begin(handle: int, mode: str) -> tuple[CUresult]:
            assert mode == "this thread"
            self.stream(handle).capturing = []
            return (success,)

        def end(handle: int) -> tuple[CUresult, Any]:
            stream = self.stream(handle)
            captured, stream.capturing = stream.capturing, None
            return (CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None) if self.capture_fails else (success, captured)

        def launch(executable: Any, handle: int) -> tuple[CUresult]:
            self.calls.append("graph")
            for operation in executable:
                self.stream(handle).push(operation)
            return (success,)

        module.CUresult, module.CUstream = CUresult, int  # type: ignore[attr-defined]
        module.CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="this thread")  # type: ignore[attr-defined]
        module.cuStreamBeginCapture, module.cuStreamEndCapture = begin, end  # type: ignore[attr-defined]
        module.cuGraphInstantiate = lambda graph, _: (success, tuple(graph))  # type: ignore[attr-defined]
        module.cuGraphLaunch = launch  # type: ignore[attr-defined]
        module.cuGraphDestroy = lambda _: (success,)  # type: ignore[attr-defined]
        module.cuGraphExecDestroy = lambda _: (success,)  # type: ignore[attr-defined]
        return module
