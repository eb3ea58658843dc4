"""When to take the frame for the engine's next call: so late that it is as new as can be, not so late that the engine waits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_REMEMBERED = 8  # calls: soon right again after a change, and one slow call does no harm
_MARGIN_S = 0.002  # for a thread to wake up


class Pacing:
    """Foretells the end of the engine's call: not before its shortest of late; and what preparing takes: its longest of late, twice.

    clock: seconds, for tests. Each method may be called from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._calls: deque[float] = deque(maxlen=_REMEMBERED)
        self._preparations: deque[float] = deque(maxlen=_REMEMBERED)
        self._began_s: float | None = None

    def engine_begins(self) -> None:
        """Note that a call begins."""
        self._began_s = self._clock()

    def engine_ends(self) -> None:
        """Note that it has ended."""
        began_s, self._began_s = self._began_s, None
        if began_s is not None:
            self._calls.append(self._clock() - began_s)

    def prepared(self, seconds: float) -> None:
        """Note how long a frame took from its camera to the engine's door."""
        self._preparations.append(seconds)

    def pause_s(self) -> float:
        """Return for how many seconds the next frame need not be taken; 0 while too little is known, and where the engine is idle."""
        began_s, calls, preparations = self._began_s, list(self._calls), list(self._preparations)
        if began_s is None or not calls or not preparations:
            return 0.0
        return max(0.0, began_s + min(calls) - 2 * max(preparations) - _MARGIN_S - self._clock())
