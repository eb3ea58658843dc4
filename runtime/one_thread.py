"""The rule that one thread runs a CUDA engine, enforced: calls of another thread are refused in one line, and closing waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from retinanet_edge.runtime.errors import EngineError


class OneThread:
    """Remembers the thread that first ran something, and lets no other run it; any may close it. name: what messages call it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._owner: int | None = None
        self._owner_name = ""
        self._at_work = threading.RLock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold what is run for the block. Raises EngineError in another thread than the first that came here."""
        with self._at_work:
            self._check()
            yield

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Hold what is closed for the block, from any thread, as soon as no block of `running` is left."""
        with self._at_work:
            yield

    def _check(self) -> None:
        here = threading.get_ident()
        if self._owner is None:
            self._owner, self._owner_name = here, threading.current_thread().name
        if self._owner != here:
            raise EngineError(
                f"{self._name} belongs to the thread that ran it first, {self._owner_name}, "
                f"and was called from {threading.current_thread().name}: open one engine for each thread that runs one"
            )
