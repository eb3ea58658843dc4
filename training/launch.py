"""What torchrun said to this process when it started it. Knows nothing of torch, so that `-h` stays quick."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Launch:
    """This process among the `processes` of a run: its `rank` over all machines, its `local_rank` on its own."""

    rank: int
    local_rank: int
    processes: int


def read_launch() -> Launch:
    """Return the launch that the environment describes: without torchrun, one process."""
    rank, local_rank, processes = (int(os.environ.get(name, usual)) for name, usual in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    return Launch(rank, local_rank, processes)


@contextlib.contextmanager
def silent_unless_first() -> Iterator[None]:
    """Let only the first process print what they would all print."""
    if read_launch().rank == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
