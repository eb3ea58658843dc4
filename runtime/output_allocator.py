"""What TensorRT asks, while it runs, for the memory of outputs whose length depends on the data (the native NMS path)."""

from __future__ import annotations

from typing import Any

from retinanet_edge.runtime.growing_output import GrowingOutput


def output_allocator(output: GrowingOutput) -> Any:
    """Return the IOutputAllocator that gives TensorRT the memory of `output`. TensorRT keeps no reference: the caller must."""
    import tensorrt as trt

    class OutputAllocator(trt.IOutputAllocator):  # type: ignore[misc]
        """Called by execute_async_v3, in the thread that calls it."""

        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output(self, _name: str, _memory: int, size: int, _alignment: int) -> int:
            """What TensorRT 8 calls. CUDA's allocations are aligned to 256 bytes, which is more than TensorRT asks for."""
            return output.reallocate(size)

        def reallocate_output_async(self, _name: str, _memory: int, size: int, _alignment: int, _stream: int) -> int:
            """What TensorRT 10 and newer call."""
            return output.reallocate(size)

        def notify_shape(self, _name: str, shape: tuple[int, ...]) -> None:
            """Called when the length is known, before execute_async_v3 returns."""
            output.shape = tuple(shape)

    return OutputAllocator()
