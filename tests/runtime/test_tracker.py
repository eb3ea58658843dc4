"""Ids that stay with their things: through occlusion, low scores and gaps, and never with other classes or things."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.tracker import Tracker, best_pairs_first

FRAME_S = 0.04


def detections(*rows):
    """Rows of left, top, right, bottom, score, class."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


def thing(x, *, y=100, side=40, score=0.9, kind=0):
    return (x, y, x + side, y + side, score, kind)


def feed(tracker, frames, start_s=0.0):
    """Return the ids of each frame, one frame every 40 ms."""
    return [tracker.update(detections(*rows), start_s + number * FRAME_S).tolist() for number, rows in enumerate(frames)]


def test_an_id_comes_with_the_second_sight_and_stays():
    assert feed(Tracker(0.5), [[thing(100 + 5 * number)] for number in range(5)]) == [[-1], [1], [1], [1], [1]]


def test_ids_follow_things_and_not_the_order_of_scores():
    frames = [[thing(100), thing(400)], [thing(402), thing(102)], [thing(104), thing(404)]]
    assert feed(Tracker(0.5), frames) == [[-1, -1], [2, 1], [1, 2]]


def test_the_best_overlap_wins():
    tracker = Tracker(0.5)
    feed(tracker, [[thing(100)], [thing(100)]])
    # Overlap of boxes of 40 pixels shifted by 5: 35 / 45 = 0.78; by 10: 30 / 50 = 0.6.
    assert feed(tracker, [[thing(110), thing(95)]], 0.08) == [[-1, 1]]


def test_a_thing_seen_once_is_forgotten():
    tracker = Tracker(0.5)
    assert feed(tracker, [[thing(100)], [], [thing(100)], [thing(100)]]) == [[-1], [], [-1], [1]]


def test_an_id_survives_an_occlusion_in_motion():
    # 5 pixels a frame; ten frames (0.4 s) hidden, in which the thing goes 55 pixels, further than its own 40.
    frames = [[thing(100 + 5 * number)] if number < 20 or number > 30 else [] for number in range(40)]
    ids = feed(Tracker(0.5), frames)
    assert ids[31:] == [[1]] * 9


def test_two_things_that_pass_each_other_keep_their_ids():
    frames = [[thing(100 + 8 * number), thing(420 - 8 * number, y=110)] for number in range(40)]
    ids = feed(Tracker(0.5), frames)
    assert ids[1:] == [ids[1]] * 39
    assert sorted(ids[1]) == [1, 2]


def test_a_doubtful_detection_continues_a_track_and_begins_none():
    doubtful = thing(100, score=0.2)
    assert feed(Tracker(0.5), [[doubtful]] * 5) == [[-1]] * 5
    assert feed(Tracker(0.5), [[thing(100)], [thing(100)], [doubtful], [doubtful]]) == [[-1], [1], [1], [1]]


def test_a_certain_detection_goes_before_a_doubtful_one():
    tracker = Tracker(0.5)
    feed(tracker, [[thing(100)], [thing(100)]])
    assert feed(tracker, [[thing(108), thing(100, score=0.3)]], 0.08) == [[1, -1]]


def test_each_class_may_have_its_own_threshold():
    tracker = Tracker(np.array([0.5, 0.2], np.float32))
    rows = [thing(100, score=0.3), thing(300, score=0.3, kind=1)]
    assert feed(tracker, [rows, rows]) == [[-1, -1], [-1, 1]]


def test_a_score_just_at_the_threshold_is_certain():
    assert feed(Tracker(0.7), [[thing(100, score=0.7)]] * 2)[1] == [1]
    assert feed(Tracker(np.array([0.7], np.float32)), [[thing(100, score=0.7)]] * 2)[1] == [1]


def test_classes_share_no_id():
    tracker = Tracker(0.5)
    feed(tracker, [[thing(100)], [thing(100)]])
    assert feed(tracker, [[thing(100, kind=1)], [thing(100, kind=1)]], 0.08) == [[-1], [2]]
    # In the same place, each class has its own.
    both = [thing(100), thing(100, kind=1)]
    assert feed(tracker, [both], 0.16) == [[1, 2]]


def test_a_track_ends_when_it_is_lost_for_too_long():
    for gap_s, expected in ((0.9, [1]), (1.1, [-1])):
        tracker = Tracker(0.5, lost_s=1.0)
        feed(tracker, [[thing(100)], [thing(100)]])
        assert tracker.update(detections(thing(100)), FRAME_S + gap_s).tolist() == expected


@pytest.mark.parametrize("jump_s", [60.0, -0.5])
def test_a_jump_in_time_ends_all_tracks_and_ids_go_on(jump_s):
    tracker = Tracker(0.5)
    feed(tracker, [[thing(100)], [thing(100)]], 1.0)
    assert feed(tracker, [[thing(100)], [thing(100)]], 1.0 + jump_s) == [[-1], [2]]


def test_two_frames_of_one_time_do_no_harm():
    tracker = Tracker(0.5)
    assert [tracker.update(detections(thing(100)), 2.0).tolist() for _ in range(3)] == [[-1], [1], [1]]


def test_smoothed_boxes_tremble_less_and_others_stay():
    rng, tracker = np.random.default_rng(0), Tracker(0.5)
    raw, steady = [], []
    for number in range(60):
        found = detections(thing(100 + rng.normal(0, 3)), thing(500, score=0.1))
        ids = tracker.update(found, number * FRAME_S)
        smoothed = tracker.smoothed(found, ids)
        np.testing.assert_array_equal(smoothed.xyxy[1], found.xyxy[1])
        raw.append(found.xyxy[0, 0])
        steady.append(smoothed.xyxy[0, 0])
    assert np.std(np.diff(steady[5:])) < 0.5 * np.std(np.diff(raw[5:]))


def test_a_negative_time_to_lose_is_refused():
    with pytest.raises(UserInputError, match=r"lost_s must be a positive number of seconds, got 0"):
        Tracker(0.5, lost_s=0)


def test_memory_holds_no_more_than_what_was_seen_lately():
    # Things that are seen twice and then never again: with 1 s at 25 frames/s, at most 26 frames' worth of them can be held.
    rng, tracker, largest, seen = np.random.default_rng(0), Tracker(0.5), 0, set()
    for number in range(5_000):
        if number % 2 == 0:
            rows = [thing(left, y=top) for left, top in rng.uniform(0, 1e6, (2, 2))]
        ids = tracker.update(detections(*rows), number * FRAME_S)
        if number % 2:
            assert not seen & set(ids.tolist())  # never again
            seen = set(ids.tolist())
        largest = max(largest, len(tracker))
    assert ids.max() == 5_000
    assert largest <= 2 * 27


similarities = arrays(np.float64, st.tuples(st.integers(0, 6), st.integers(0, 6)), elements=st.sampled_from([0, 0.1, 0.3, 0.5, 0.7, 0.9]))


@given(similarities)
@settings(max_examples=200, deadline=None)
def test_pairs_are_of_positive_similarity_each_used_once_and_none_would_rather_have_each_other(similarity):
    rows, columns = best_pairs_first(similarity)
    assert len(set(rows)) == len(rows)
    assert len(set(columns)) == len(columns)
    assert (similarity[rows, columns] > 0).all()
    of_row, of_column = np.zeros(similarity.shape[0]), np.zeros(similarity.shape[1])
    of_row[rows] = of_column[columns] = similarity[rows, columns]
    assert not ((similarity > of_row[:, None]) & (similarity > of_column)).any()


def test_the_most_similar_pair_is_taken_first():
    similarity = np.array([[0.6, 0.7], [0.0, 0.65]])
    rows, columns = best_pairs_first(similarity)
    assert (rows.tolist(), columns.tolist()) == ([0], [1])  # 0.7 first; row 1 is left with nothing
