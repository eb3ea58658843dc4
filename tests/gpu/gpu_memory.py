"""How much memory of the GPU is free, how much of the host this process has, and a GPU that has next to none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retinanet_edge.runtime.device_memory import primary_context

_LEAST = 1 << 20


def free_memory() -> int:
    """Return bytes."""
    import pycuda.driver as cuda

    primary_context().push()
    try:
        return int(cuda.mem_get_info()[0])
    finally:
        cuda.Context.pop()


def host_memory() -> int:
    """Return bytes that are resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def full_gpu() -> Iterator[None]:
    """Take what is free, in ever smaller pieces, for the block."""
    import pycuda.driver as cuda

    pieces, size = [], free_memory()
    context = primary_context()
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
            piece.free()
        cuda.Context.pop()
