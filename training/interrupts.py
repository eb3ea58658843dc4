"""Ctrl-C and SIGTERM during a run: held back until a place where nothing is half done."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Hold back SIGINT and SIGTERM; give a function that raises KeyboardInterrupt if one came. A second one raises it at once.

    By itself Python raises it wherever it happens to be: between two files of a checkpoint, or in a callback that swallows it.
    """
    received: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    def raise_held() -> None:
        if received:
            raise KeyboardInterrupt

    usual = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield raise_held
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
