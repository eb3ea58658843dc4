"""Which set of buffers serves which batch: a ticket for each batch in flight, as many at once as there are sets. Pure bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ticket:
    """What `submit` gives and `collect` takes, once. number: counts up. lane: index of the buffers. count: images of the batch."""

    number: int
    lane: int
    count: int


class LaneTickets:
    """Tickets for `lanes` sets of buffers. The lowest free lane is taken, so that one at a time needs only the first."""

    def __init__(self, lanes: int) -> None:
        self._free = list(range(lanes))
        self._in_flight: set[Ticket] = set()
        self._issued = 0

    def take(self, count: int) -> Ticket:
        """Return a ticket for a batch of `count` images. Raises ValueError where no lane is free."""
        if not self._free:
            raise ValueError(f"{len(self._in_flight)} batches are in flight, which is the most: collect one before the next is submitted")
        self._issued += 1
        ticket = Ticket(self._issued, self._free.pop(0), count)
        self._in_flight.add(ticket)
        return ticket

    def check(self, ticket: Ticket) -> None:
        """Raise ValueError for a ticket that is not in flight: of another engine, or collected before."""
        if ticket not in self._in_flight:
            raise ValueError(f"{ticket} is not in flight: each ticket of this engine can be collected once")

    def give_back(self, ticket: Ticket) -> None:
        """Free the lane of a ticket. Raises ValueError for one that is not in flight."""
        self.check(ticket)
        self._in_flight.remove(ticket)
        self._free = sorted([*self._free, ticket.lane])
