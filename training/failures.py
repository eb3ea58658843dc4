"""What ends a run from outside, as one line that says what to do: interrupts, a machine at its limits, another process that is gone."""

from __future__ import annotations

from pathlib import Path

from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.training.distributed import lost_peer

_WORKER_TERMINATED = "is killed by signal: Terminated"
_LESS_MEMORY = "give a larger --accumulate, or a smaller --batch or --input"
# What torch says, without a type of its own, where the machine is at its limits -> what to do.
_LIMITS = {
    "out of memory": _LESS_MEMORY,
    "DefaultCPUAllocator": _LESS_MEMORY,
    "DataLoader worker": "give --workers 0, or more memory (in a container also shared memory)",
}


def explain(error: RuntimeError, kept_epochs: int, folder: Path) -> BaseException | None:
    """Return the error of one line that torch's stands for, None for one that is a fault of the program."""
    if _WORKER_TERMINATED in str(error):  # SIGTERM to all of the run's processes, which reached a worker first
        return interruption(kept_epochs, folder)
    advice = next((advice for text, advice in _LIMITS.items() if text in str(error)), None)
    if advice is None:
        return lost_peer(error)
    return RetinaNetEdgeError(f"{str(error).splitlines()[0].split('. ')[0].rstrip('.')}: {advice}")


def interruption(kept_epochs: int, folder: Path) -> KeyboardInterrupt:
    """Return the interrupt that says what of the run is kept, and how to go on."""
    if not kept_epochs:
        return KeyboardInterrupt("interrupted before the first epoch ended, nothing is kept: give the same command again")
    return KeyboardInterrupt(
        f"interrupted, epoch {kept_epochs} is kept: go on with python training/train.py --resume --model {folder}"
    )
