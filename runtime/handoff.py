"""One slot between two threads, one that makes and one that uses: what is in it is never older than one use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Handoff(Generic[Item]):
    """A queue of one. The maker asks for room first and makes then, so that nothing lies about half used.

    Iterating takes items until the maker has finished and the slot is empty.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Item] = []
        self._finished = self._abandoned = False

    def wait_for_room(self) -> bool:
        """Wait until the slot is empty; False once nobody will take anything."""
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned or not self._items)
            return not self._abandoned

    def put(self, item: Item) -> None:
        """Leave an item, after `wait_for_room`. It is lost once the slot is abandoned."""
        with self._changed:
            if not self._abandoned:
                self._items = [item]
            self._changed.notify_all()

    def finish(self) -> None:
        """Say, as the maker, that nothing follows."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Say, as the user, that nothing more will be taken."""
        with self._changed:
            self._abandoned, self._items = True, []
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._abandoned or self._finished or self._items)
                if not self._items:
                    return
                item = self._items.pop()
                self._changed.notify_all()
            yield item
