"""Memory of an output whose length depends on the data, on the host and on the GPU: it grows as it must, and never shrinks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.device_memory import Buffer, DeviceMemory
from retinanet_edge.runtime.errors import EngineError


class GrowingOutput:
    """Memory of one output, as large as the largest that was asked for. shape: of the last run, None before TensorRT knows it."""

    def __init__(self, memory: DeviceMemory, dtype: np.dtype[Any]) -> None:
        self._memory, self._dtype = memory, dtype
        self._buffer: Buffer | None = None
        self.shape: tuple[int, ...] | None = None

    def reallocate(self, size: int) -> int:
        """Return the address of at least `size` bytes, 0 where there is no memory: nothing may be raised through TensorRT."""
        size = max(1, size)  # an empty output needs an address, too
        if self._buffer is None or self._buffer.host.nbytes < size:
            if self._buffer is not None:
                self._memory.free(self._buffer)
                self._buffer = None
            try:
                self._buffer = self._memory.buffer((size,), np.uint8)
            except EngineError:
                return 0
        return self._buffer.address

    def download(self, stream: Any) -> NDArray[Any]:
        """Start copying what the run gave to the host. Return where it will be, in its own type and shape."""
        shape = self.shape
        if self._buffer is None or shape is None:
            raise EngineError("TensorRT gave no length of an output that depends on the data: run python export/build_engine.py again")
        size = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
        return self._buffer.download(size, stream).view(self._dtype).reshape(shape)
