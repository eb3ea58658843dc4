import threading

import numpy as np

from retinanet_edge.runtime.frame import Frame
from retinanet_edge.runtime.frame_mailbox import Mailbox

IMAGE = np.zeros((1, 1, 3), np.uint8)


def frame(index):
    return Frame(IMAGE, index, 0.0, 0.0)


def test_the_newest_frame_wins_and_the_others_are_counted():
    mailbox = Mailbox()
    for index in range(5):
        mailbox.replace(frame(index))
    assert mailbox.take().index == 4
    assert mailbox.take() is None
    assert (mailbox.dropped, mailbox.empty) == (4, True)


def test_a_recording_waits_for_room_and_keeps_its_order():
    mailbox, last = Mailbox(), 100

    def put():
        for index in range(last):
            assert mailbox.await_room()
            mailbox.append(frame(index))

    putter = threading.Thread(target=put)
    putter.start()
    taken, longest = [], 0
    while len(taken) < last:
        longest = max(longest, len(mailbox._frames))
        if found := mailbox.take():
            taken.append(found.index)
    putter.join(30)
    assert taken == list(range(last))
    assert (longest <= 4, mailbox.dropped) == (True, 0)


def test_closing_wakes_the_reader_and_leaves_the_frames():
    mailbox, answers = Mailbox(), []
    for index in range(4):
        assert mailbox.await_room()
        mailbox.append(frame(index))
    waiter = threading.Thread(target=lambda: answers.append(mailbox.await_room()))
    waiter.start()
    mailbox.close()
    waiter.join(30)
    assert answers == [False]
    assert [mailbox.take().index for _ in range(4)] == [0, 1, 2, 3]


def test_what_is_cleared_counts_as_dropped():
    mailbox = Mailbox()
    for index in range(3):
        mailbox.append(frame(index))
    mailbox.clear()
    assert (mailbox.take(), mailbox.dropped) == (None, 3)
