"""Progress of long work: a tqdm bar on a terminal, plain lines every few seconds elsewhere (logs, CI)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

_PLAIN_LINE_SECONDS = 15.0


class Progress:
    """Counts `total` steps of `description` on stderr. A context manager."""

    def __init__(self, description: str, total: int, unit: str = "image") -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done, self._figures = 0, ""
        self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=description, unit=unit, leave=False)

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Say that `steps` more are done; `figures` (a loss, AP) stand beside the count."""
        self._done += steps
        self._figures = "".join(f", {name} {value:.3f}" for name, value in figures.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures.removeprefix(", "), refresh=False)
            self._bar.update(steps)
        elif time.monotonic() - self._last_line >= _PLAIN_LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(f"{self._description}: {self._done} of {self._total} {self._unit}s{self._figures}")

    def say(self, line: str) -> None:
        """Print a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def track(items: Sequence[Item], description: str, unit: str = "image") -> Iterator[Item]:
    """Yield `items`, showing progress."""
    with Progress(description, len(items), unit) as progress:
        for item in items:
            yield item
            progress.advance()
