import pytest

from retinanet_edge.runtime.lane_tickets import LaneTickets, Ticket


def test_the_lowest_free_lane_is_taken():
    tickets = LaneTickets(2)
    first = tickets.take(4)
    second = tickets.take(1)
    assert (first, second) == (Ticket(1, 0, 4), Ticket(2, 1, 1))
    tickets.give_back(first)
    third = tickets.take(2)
    assert third == Ticket(3, 0, 2)
    tickets.give_back(third)
    tickets.give_back(second)
    assert [tickets.take(1).lane, tickets.take(1).lane] == [0, 1]


def test_no_more_are_given_than_there_are_lanes():
    tickets = LaneTickets(2)
    tickets.take(1), tickets.take(1)
    with pytest.raises(ValueError, match="2 batches are in flight, which is the most: collect one"):
        tickets.take(1)


def test_a_ticket_is_good_once_and_only_here():
    tickets, others = LaneTickets(2), LaneTickets(2)
    ticket = tickets.take(1)
    tickets.check(ticket)
    with pytest.raises(ValueError, match="not in flight"):
        others.give_back(ticket)
    tickets.give_back(ticket)
    with pytest.raises(ValueError, match="not in flight"):
        tickets.check(ticket)
