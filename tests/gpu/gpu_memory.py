"""How much memory of the GPU is free, and a GPU that has next to none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_LEAST = 1 << 20


def free_memory() -> int:
    """Return bytes."""
    import pycuda.driver as cuda

    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        return int(cuda.mem_get_info()[0])
    finally:
        context.detach()


@contextmanager
def full_gpu() -> Iterator[None]:
    """Take what is free, in ever smaller pieces, for the block."""
    import pycuda.driver as cuda

    pieces, size = [], free_memory()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        while size >= _LEAST:
            try:
                pieces.append(cuda.mem_alloc(size))
            except cuda.MemoryError:
                size //= 2
        cuda.Context.pop()
        try:
            yield
        finally:
            context.push()
    finally:
        for piece in pieces:
            piece.free()  # before its context is let go: pycuda frees nothing of one that has gone
        context.detach()
