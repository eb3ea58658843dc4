"""GPU 0 through pycuda: its primary context, which is the one that TensorRT uses too, streams, events and buffers.

On a discrete GPU a buffer is a pinned array on the host and as much memory on the device, with asynchronous copies between them. Where
CPU and GPU share their memory (Jetson), it is one piece of mapped memory, and nothing is copied. Knows nothing of TensorRT.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from retinanet_edge.runtime.errors import EngineError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which pycuda has no name: the default stream of others does not hold ours up


class Buffer:
    """The memory of one tensor. host: pinned, of the largest shape, zeros at first. address: of the same size for the GPU."""

    def __init__(self, cuda: Any, shape: Sequence[int], dtype: DTypeLike, shared: bool) -> None:
        self._cuda = cuda
        flags = cuda.host_alloc_flags.DEVICEMAP if shared else 0
        self.host: NDArray[Any] = cuda.pagelocked_empty(tuple(shape), dtype, mem_flags=flags)
        self.host[...] = 0
        self._allocation: Any = None if shared else cuda.mem_alloc(self.host.nbytes)
        pinned: Any = self.host.base  # pycuda's PagelockedHostAllocation
        address: Any = pinned.get_device_pointer() if shared else self._allocation
        self.address = int(address)

    def upload(self, values: NDArray[Any], rows: int, stream: Any) -> None:
        """Put `values` [n, ...] in the first n rows and start copying the first `rows`; the others stay as they are."""
        np.copyto(self.host[: len(values)], values, casting="no")
        if self._allocation is not None:
            self._cuda.memcpy_htod_async(self._allocation, self.host[:rows], stream)

    def download(self, rows: int, stream: Any) -> NDArray[Any]:
        """Start copying the first `rows` to the host. Return where they will be."""
        if self._allocation is not None and rows:
            self._cuda.memcpy_dtoh_async(self.host[:rows], self._allocation, stream)
        return self.host[:rows]

    def free(self) -> None:
        """Free the device memory; may be called twice. Pinned memory goes with the last reference to its array."""
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            allocation.free()


@functools.cache
def primary_context() -> Any:
    """Return the primary context of GPU 0, retained once and until the process ends.

    It is never released before: pycuda's detach leaves a released context current in its thread, and TensorRT, which works in the same
    context, would find it destroyed.
    """
    import pycuda.driver as cuda

    cuda.init()
    return cuda.Device(0).retain_primary_context()


class DeviceMemory:
    """What is taken of the GPU, all of it freed by `close`.

    shared: whether CPU and GPU share their memory. Every method but `current` and `close` must be called inside
    `with memory.current():`, from one thread at a time. Raises EngineError where CUDA fails.
    """

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        self._buffers: list[Buffer] = []
        with self._errors():
            cuda.init()
            self.shared = bool(cuda.Device(0).get_attribute(cuda.device_attribute.INTEGRATED))
            self._context = primary_context()
        self._open = True

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the CUDA context current in this thread for the block. CUDA's errors inside become EngineError."""
        with self._errors():
            self._context.push()
            try:
                yield
            finally:
                self._cuda.Context.pop()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            raise EngineError(f"the GPU fails: {error}: see nvidia-smi for its state and free memory") from None

    @property
    def bytes(self) -> int:
        """Size of the buffers that the GPU uses."""
        return sum(buffer.host.nbytes for buffer in self._buffers)

    def buffer(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Make the memory of a tensor; `shape` is its largest, and not empty."""
        with self._errors():
            buffer = Buffer(self._cuda, shape, dtype, self.shared)
        self._buffers.append(buffer)
        return buffer

    @contextmanager
    def together(self) -> Iterator[None]:
        """Free the buffers that the block made, should it fail before it has made all."""
        before = len(self._buffers)
        with ExitStack() as undo:
            undo.callback(self._free_from, before)
            yield
            undo.pop_all()

    def _free_from(self, index: int) -> None:
        for buffer in self._buffers[index:]:
            self.free(buffer)

    def free(self, buffer: Buffer) -> None:
        """Free one buffer before the others."""
        self._buffers.remove(buffer)
        buffer.free()

    def stream(self) -> Any:
        """Return a new stream, a pycuda Stream, that waits for no other but where it is told to."""
        return self._cuda.Stream(_NON_BLOCKING)

    def event(self) -> Any:
        """Return a new event, a pycuda Event, which also notes the time."""
        return self._cuda.Event()

    def synchronize(self) -> None:
        """Wait for all that the GPU does in this context."""
        self._cuda.Context.synchronize()

    def close(self) -> None:
        """Free all of it; may be called twice."""
        if not self._open:
            return
        self._open = False
        with self.current():
            for buffer in self._buffers:
                buffer.free()
            self._buffers.clear()
