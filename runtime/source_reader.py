"""One connection of a source, read on a thread of its own, so that a driver that hangs holds up nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from types import TracebackType

from retinanet_edge.runtime.camera import Source, SourceImage, SourceImages


class SourceReader:
    """Reads from its construction until the source ends or fails, or `dismiss`.

    deliver gets each image, and ended is called when the connection is closed, both on the reader's thread. A reader that is dismissed
    while it waits in a driver ends when that gives it back; until then it hangs.
    """

    def __init__(self, name: str, source: Source, deliver: Callable[[SourceImage], None], ended: Callable[[], None]) -> None:
        self.ended = False
        self.remark: str | None = None  # of a source that has come to its end
        self._source, self._deliver, self._call_ended = source, deliver, ended
        self._outcome, self._wanted = _Outcome(), True
        self._thread = threading.Thread(target=self._read, name=name, daemon=True)
        self._thread.start()

    @property
    def error(self) -> BaseException | None:
        """What ended it, None where the source came to its end."""
        return self._outcome.error

    def dismiss(self, timeout_s: float) -> bool:
        """Let it end after the image it waits for. Return whether it ended in time."""
        self._wanted = False
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _read(self) -> None:
        with self._outcome, closing(self._source.images()) as images:
            self.remark = self._pass_on(images)
        self.ended = True
        self._call_ended()

    def _pass_on(self, images: SourceImages) -> str | None:
        while self._wanted:
            try:
                given = next(images)
            except StopIteration as end:
                remark: str | None = end.value
                return remark
            self._deliver(given)
        return None


class _Outcome:
    """Keeps whatever ends a thread for those who wait for it: drivers raise what they like, and no camera may die unseen."""

    error: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> bool:
        self.error = error
        return True
