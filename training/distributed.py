"""What the processes of one run tell each other. In a run of one process every function here returns at once.

torchrun starts the processes, on one machine or several; gloo carries what lies on the CPU, nccl what lies on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from retinanet_edge.runtime.errors import EXIT_FAILED, EXIT_INTERRUPTED, RetinaNetEdgeError, UserInputError
from retinanet_edge.training.launch import read_launch

Value = TypeVar("Value")


class ProcessGroup:
    """The processes of a run, for the length of a `with`. Where one fails, it alone says why, and the others end without a word.

    Its end breaks the connections of the others, whose next exchange then fails; the store, which torchrun keeps, tells who spoke first.
    """

    def __enter__(self) -> None:
        """Join the others."""
        self._store: Store | None = None
        if read_launch().processes > 1:
            self._store, rank, processes = next(iter(rendezvous("env://")))
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
            dist.init_process_group(backend, store=PrefixStore("group", self._store), rank=rank, world_size=processes)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Leave the others. Raises SystemExit in place of an error that is another's to tell."""
        if self._store is None:
            return
        if error is None:
            dist.destroy_process_group()
        elif not self._is_mine_to_tell(error):
            code = EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", EXIT_FAILED)
            raise SystemExit(code)

    def _is_mine_to_tell(self, error: BaseException) -> bool:
        if isinstance(error, KeyboardInterrupt) and read_launch().rank > 0:
            return False  # the first process knows what is kept
        assert self._store is not None
        try:
            return bool(self._store.add("told", 1) == 1)
        except RuntimeError:  # the process that kept the store has ended
            return False


def process_count() -> int:
    """Return the number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    """Return this process's place among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Return whether this is the process that writes."""
    return process_rank() == 0


def from_first(make: Callable[[], Value]) -> Value:
    """Return in every process what `make` returns in the first."""
    if process_count() == 1:
        return make()
    made = [make() if is_first() else None]
    dist.broadcast_object_list(made, src=0)
    return made[0]  # type: ignore[return-value]


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of the tensors that every process gives."""
    if process_count() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def own_share(items: Sequence[Value]) -> Sequence[Value]:
    """Return the items that are this process's to work on."""
    return items[process_rank() :: process_count()]


def gather_shares(results: list[Value]) -> list[Value]:
    """Return, in every process, the results of all items, in their order, of what each process made of its `own_share`."""
    if process_count() == 1:
        return results
    shares: list[list[Value]] = [[] for _ in range(process_count())]
    dist.all_gather_object(shares, results)
    return [shares[index % len(shares)][index // len(shares)] for index in range(sum(map(len, shares)))]


def copy_from_first(module: nn.Module) -> None:
    """Give a module's parameters and buffers the values that they have in the first process."""
    if process_count() > 1:
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)


def choose_device(name: str | None) -> str:
    """Return `name`, or the best device here for None; with several processes, each its own GPU.

    Raises UserInputError for a device that is not there.
    """
    kind = name or ("cuda" if torch.cuda.is_available() else "cpu")
    launch = read_launch()
    if launch.processes > 1 and kind.startswith("cuda"):
        if launch.local_rank >= torch.cuda.device_count():
            raise UserInputError(
                f"each process needs a GPU of its own, and this machine has {torch.cuda.device_count()}: "
                "give torchrun --nproc_per_node no more than that, or train.py --device cpu"
            )
        kind = f"cuda:{launch.local_rank}"
        torch.cuda.set_device(kind)
    try:
        torch.empty(1, device=kind)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserInputError(f"--device must be one that torch can use here, got {name} ({reason}): give cpu") from None
    return kind


def lost_peer(error: RuntimeError) -> RetinaNetEdgeError | None:
    """Return what to say where an exchange failed because another process is gone, None for any other error."""
    signs = ("onnection closed by peer", "onnection reset by peer", "Broken pipe", "NCCL", "gloo")
    if process_count() == 1 or not any(sign in str(error) for sign in signs):
        return None
    return RetinaNetEdgeError("another process of this run has ended without a word: maybe the system ended it for want of memory")
