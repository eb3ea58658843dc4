from pathlib import Path

import pytest

from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.training import distributed
from retinanet_edge.training.failures import explain, interruption

FOLDER = Path("models/m")


@pytest.mark.parametrize("message", [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB",
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nError code 12",
])  # fmt: skip
def test_want_of_memory_says_what_to_change(message: str) -> None:
    error = explain(RuntimeError(message), 3, FOLDER)
    assert isinstance(error, RetinaNetEdgeError)
    assert str(error).endswith(": give a larger --accumulate, or a smaller --batch or --input")
    assert "\n" not in str(error)


def test_a_worker_that_a_signal_reached_first_is_an_interrupt() -> None:
    error = explain(RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. "), 3, FOLDER)
    assert isinstance(error, KeyboardInterrupt)
    assert str(error) == str(interruption(3, FOLDER)) == (
        "interrupted, epoch 3 is kept: go on with python training/train.py --resume --model models/m"
    )


def test_an_interrupt_before_the_first_epoch_promises_nothing() -> None:
    assert "nothing is kept" in str(interruption(0, FOLDER))


def test_a_process_that_is_gone_is_told_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1")
    assert explain(error, 0, FOLDER) is None
    monkeypatch.setattr(distributed, "process_count", lambda: 2)
    assert "another process of this run has ended" in str(explain(error, 0, FOLDER))


def test_a_fault_of_the_program_stays_what_it_is() -> None:
    assert explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 3, FOLDER) is None
