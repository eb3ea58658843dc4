"""Memory and stream on GPU 0 through pycuda: a pinned host buffer and a device buffer for each tensor of an engine.

Works in the primary CUDA context, which is the one that TensorRT uses too. Knows nothing of TensorRT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from retinanet_edge.runtime.errors import EngineError


@dataclass(frozen=True)
class _Buffer:
    host: NDArray[Any]  # pinned, of the largest shape
    device: Any  # pycuda's DeviceAllocation of the same size


class DeviceMemory:
    """Buffers by tensor name and one stream.

    Every method but `current` and `close` must be called inside `with memory.current():`, from any one thread at a time. Raises
    EngineError where CUDA fails.
    """

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        self._buffers: dict[str, _Buffer] = {}
        self._marks: list[Any] = []
        with self._errors():
            cuda.init()
            self._context = cuda.Device(0).retain_primary_context()
        with self.current():
            self._stream = cuda.Stream()

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
    def stream_handle(self) -> int:
        """The stream as the integer that TensorRT takes."""
        handle: int = self._stream.handle
        return handle

    def allocate(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> int:
        """Make the buffers of a tensor; `shape` is its largest. Return the device address."""
        host = self._cuda.pagelocked_empty(tuple(shape), dtype)
        buffer = _Buffer(host, self._cuda.mem_alloc(max(1, host.nbytes)))
        self._buffers[name] = buffer
        return int(buffer.device)

    def upload(self, name: str, values: NDArray[Any]) -> None:
        """Start copying `values` [n, ...] into the first n rows of a tensor."""
        buffer = self._buffers[name]
        rows = buffer.host[: len(values)]
        np.copyto(rows, values, casting="no")
        self._cuda.memcpy_htod_async(buffer.device, rows, self._stream)

    def download(self, name: str, count: int) -> NDArray[Any]:
        """Start copying the first `count` rows of a tensor to the host. Return where they will be after `synchronize`."""
        buffer = self._buffers[name]
        rows = buffer.host[:count]
        self._cuda.memcpy_dtoh_async(rows, buffer.device, self._stream)
        return rows

    def mark(self) -> None:
        """Note the time at which the stream gets here."""
        event = self._cuda.Event()
        event.record(self._stream)
        self._marks.append(event)

    def synchronize(self) -> list[float]:
        """Wait for the stream. Return the milliseconds between the marks made since the last call."""
        self._stream.synchronize()
        marks, self._marks = self._marks, []
        return [float(before.time_till(after)) for before, after in pairwise(marks)]

    def close(self) -> None:
        """Free all of it; may be called twice."""
        context, self._context = self._context, None
        if context is None:
            return
        with self._errors():
            context.push()
            try:
                self._marks.clear()
                for buffer in self._buffers.values():
                    buffer.device.free()
                self._buffers.clear()  # pinned memory goes with the last reference to its array
                self._stream = None
            finally:
                # While it is current: pycuda does not release it from another thread than the one that retained it.
                context.detach()
