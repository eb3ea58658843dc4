"""What TensorRT calls, on TensorRT itself: its base class needs no GPU. How the memory grows: test_tensorrt_session.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.growing_output import GrowingOutput
from retinanet_edge.runtime.output_allocator import output_allocator


class Memory:
    """Gives buffers at addresses that count up, as long as there is memory."""

    def __init__(self, size):
        self.left, self.made, self.freed = size, [], []

    def buffer(self, shape, dtype):
        if shape[0] > self.left:
            raise EngineError("the GPU fails: out of memory")
        self.made.append(SimpleNamespace(host=np.zeros(shape, dtype), address=4096 * (len(self.made) + 1)))
        return self.made[-1]

    def free(self, buffer):
        self.freed.append(buffer.address)


def test_memory_grows_and_never_shrinks():
    memory = Memory(1000)
    output = GrowingOutput(memory, np.dtype(np.float32))
    assert [output.reallocate(size) for size in (0, 1, 100, 50, 100, 101)] == [4096, 4096, 8192, 8192, 8192, 12288]
    assert memory.freed == [4096, 8192]


def test_no_memory_is_address_zero_and_may_be_had_later():
    memory = Memory(10)
    output = GrowingOutput(memory, np.dtype(np.float32))
    assert output.reallocate(11) == 0
    memory.left = 20
    assert output.reallocate(11) == 4096


def test_no_length_is_one_line():
    output = GrowingOutput(Memory(10), np.dtype(np.float32))
    with pytest.raises(EngineError, match="TensorRT gave no length"):
        output.download(None)


def test_tensorrt_takes_it_and_both_generations_of_calls_are_answered():
    trt = pytest.importorskip("tensorrt", reason="no TensorRT in this environment", exc_type=ImportError)
    output = GrowingOutput(Memory(1000), np.dtype(np.float32))
    allocator = output_allocator(output)
    assert isinstance(allocator, trt.IOutputAllocator)
    assert allocator.reallocate_output("detections", 0, 64, 256) == 4096
    assert allocator.reallocate_output_async("detections", 4096, 128, 256, 7) == 8192
    allocator.notify_shape("detections", trt.Dims([3, 7]))
    assert output.shape == (3, 7)
