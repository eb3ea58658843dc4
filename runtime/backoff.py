"""How long to wait before the next try: longer with each failure in a row, and never the same for two cameras."""

from __future__ import annotations

from collections.abc import Callable

from retinanet_edge.runtime.camera import RestartLimits


class Backoff:
    """Counts failures in a row. random: returns a number in [0, 1)."""

    def __init__(self, limits: RestartLimits, random: Callable[[], float]) -> None:
        self._limits, self._random = limits, random
        self.reset()

    def reset(self) -> None:
        """Begin again with the shortest wait: all was well for long enough."""
        self.failures = 0
        self._longest_draw_s = min(self._limits.first_wait_s, self._limits.longest_wait_s)

    def next_wait_s(self, beyond_limit: bool = False) -> float | None:
        """Count one more failure; return the seconds to wait after it, None where the limit of restarts is used up and counts."""
        if not beyond_limit and self._limits.restarts is not None and self.failures >= self._limits.restarts:
            return None
        self.failures += 1
        wait_s = self._longest_draw_s * (0.5 + 0.5 * self._random())
        self._longest_draw_s = min(2 * self._longest_draw_s, self._limits.longest_wait_s)
        return wait_s
