import threading

from retinanet_edge.runtime.handoff import Handoff

LONG_S = 30


def maker(handoff, items, made):
    for item in items:
        if not handoff.wait_for_room():
            return
        made.append(item)
        handoff.put(item)
    handoff.finish()


def test_every_item_arrives_in_order_and_the_end_is_seen():
    handoff, made = Handoff(), []
    thread = threading.Thread(target=maker, args=(handoff, range(200), made))
    thread.start()
    assert list(handoff) == list(range(200)) == made
    thread.join(LONG_S)
    assert not thread.is_alive()


def test_nothing_is_made_before_there_is_room():
    handoff, made = Handoff(), []
    thread = threading.Thread(target=maker, args=(handoff, range(10), made))
    thread.start()
    used = []
    for item in handoff:
        used.append(item)
        assert len(made) <= len(used) + 1  # the one in the slot, none that lies ready behind it
    assert used == list(range(10))


def test_a_maker_that_waits_is_told_when_nobody_takes_any_more():
    handoff, made = Handoff(), []
    handoff.put("in the way")
    thread = threading.Thread(target=maker, args=(handoff, range(10), made))
    thread.start()
    handoff.abandon()
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert made == []
    assert list(handoff) == []


def test_what_is_in_the_slot_outlives_the_makers_end():
    handoff = Handoff()
    assert handoff.wait_for_room()
    handoff.put("last")
    handoff.finish()
    assert list(handoff) == ["last"]
