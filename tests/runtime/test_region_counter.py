"""Crossings and stays on hand-drawn paths. All boxes have 20 pixels a side: the margin is 2 pixels."""

import json

import numpy as np
import pytest

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.region_counter import RegionCounter, RegionEvent
from retinanet_edge.runtime.regions import parse_lines, parse_zones

SHAPE = (100, 200)
SECOND = 0.1  # from frame to frame
CLASSES = ("person", "car")


def standing(*places, kind=0):
    """Boxes of 20 pixels a side, whose lower sides' middles are at the places."""
    x, y = np.array(places, np.float32).reshape(-1, 2).T
    boxes = np.stack([x - 10, y - 20, x + 10, y], axis=1)
    return Detections(boxes, np.full(len(boxes), 0.9, np.float32), np.full(len(boxes), kind))


def walk(counter, path, *, track=1, kind=0, start_s=0.0):
    """Return the events of one thing on its path, one place a frame."""
    events = []
    for number, place in enumerate(path):
        events += counter.update(standing(place, kind=kind), np.array([track]), start_s + number * SECOND, SHAPE)
    return events


def kinds(events):
    return [event.kind for event in events]


@pytest.fixture
def gate():
    """From left to right through the middle of the picture's lower half."""
    return RegionCounter(parse_lines(["gate=50,50,150,50"]), (), CLASSES)


@pytest.fixture
def yard():
    return RegionCounter((), parse_zones(["yard=50,40,150,40,150,80,50,80"]), CLASSES)


def test_down_across_a_line_drawn_to_the_right_is_in(gate):
    events = walk(gate, [(100, 40), (100, 47), (100, 54), (100, 60)])
    assert events == [RegionEvent("crossed_in", "gate", 1, "person", 2 * SECOND)]
    assert kinds(walk(gate, [(100, 54), (100, 45)], start_s=0.4)) == ["crossed_out"]
    assert gate.counts()["lines"] == {"gate": {"in": {"person": 1}, "out": {"person": 1}}}


def test_a_line_drawn_the_other_way_counts_the_other_way():
    gate = RegionCounter(parse_lines(["gate=150,50,50,50"]), (), CLASSES)
    assert kinds(walk(gate, [(100, 40), (100, 60)])) == ["crossed_out"]


def test_a_line_drawn_downwards_counts_in_to_the_left():
    # Who walks down the picture has the picture's left at the right hand.
    gate = RegionCounter(parse_lines(["gate=100,10,100,90"]), (), CLASSES)
    assert kinds(walk(gate, [(120, 50), (80, 50)])) == ["crossed_in"]


def test_trembling_on_the_line_counts_once(gate):
    trembling = [(100, 50 + offset) for offset in (1.9, -1.9) * 10]
    assert kinds(walk(gate, [(100, 40), *trembling, (100, 60)])) == ["crossed_in"]


def test_touching_the_line_and_going_back_counts_nothing(gate):
    assert walk(gate, [(100, 40), (100, 51), (100, 40)]) == []


def test_going_round_the_end_counts_nothing(gate):
    assert walk(gate, [(160, 40), (160, 60)]) == []
    assert walk(gate, [(100, 61), (100, 62)], start_s=0.2) == []  # now on the other side, in front of the line
    assert kinds(walk(gate, [(100, 40)], start_s=0.4)) == ["crossed_out"]


def test_a_slanted_path_counts_where_it_meets_the_segment(gate):
    # From (140, 40) to (170, 60) it is at height 50 at x 155: beside the end at 150. From (130, 40), at 145.
    assert walk(gate, [(140, 40), (170, 60)]) == []
    assert kinds(walk(gate, [(130, 40), (160, 60)], track=2)) == ["crossed_in"]


def test_a_gap_in_the_path_is_bridged(gate):
    gate.update(standing((100, 40)), np.array([1]), 0.0, SHAPE)
    for number in range(1, 6):
        gate.update(Detections.empty(), np.zeros(0, np.int64), number * SECOND, SHAPE)
    assert kinds(gate.update(standing((100, 60)), np.array([1]), 0.6, SHAPE)) == ["crossed_in"]


def test_things_without_id_count_nothing(gate):
    assert walk(gate, [(100, 40), (100, 60)], track=-1) == []
    assert len(gate) == 0


def test_classes_are_counted_apart(gate):
    walk(gate, [(100, 40), (100, 60)])
    walk(gate, [(100, 40), (100, 60)], track=2, kind=1, start_s=0.2)
    assert gate.counts()["lines"]["gate"]["in"] == {"person": 1, "car": 1}


def test_a_stay_in_a_zone(yard):
    events = walk(yard, [(30, 60), (60, 60), (100, 60), (140, 60), (170, 60)])
    assert events == [
        RegionEvent("entered", "yard", 1, "person", 1 * SECOND),
        RegionEvent("left", "yard", 1, "person", 4 * SECOND, pytest.approx(0.3)),
    ]
    assert yard.counts()["zones"]["yard"] == {
        "inside": {}, "entered": {"person": 1}, "mean_stay_s": pytest.approx(0.3), "longest_stay_s": 0.0
    }  # fmt: skip


def test_what_is_inside_now_and_for_how_long(yard):
    walk(yard, [(100, 60), (100, 60), (100, 60)])
    zone = yard.counts()["zones"]["yard"]
    assert zone == {"inside": {"person": 1}, "entered": {"person": 1}, "mean_stay_s": None, "longest_stay_s": pytest.approx(0.2)}


def test_trembling_on_the_border_enters_once(yard):
    trembling = [(50 + offset, 60) for offset in (1.9, -1.9) * 10]
    assert kinds(walk(yard, [(30, 60), *trembling, (30, 60)])) == ["entered", "left"]


def test_who_comes_back_enters_again_and_is_counted_once(yard):
    assert kinds(walk(yard, [(100, 60), (30, 60), (100, 60)])) == ["entered", "left", "entered"]
    assert yard.counts()["zones"]["yard"]["entered"] == {"person": 1}


def test_who_is_not_seen_any_more_has_left_when_last_seen(yard):
    walk(yard, [(100, 60), (100, 60)])
    nobody = (Detections.empty(), np.zeros(0, np.int64))
    assert yard.update(*nobody, 1.0, SHAPE) == ()
    assert yard.update(*nobody, 1.2, SHAPE) == (RegionEvent("left", "yard", 1, "person", SECOND, pytest.approx(SECOND)),)
    assert len(yard) == 0


def test_a_clock_that_goes_back_ends_stays(yard):
    walk(yard, [(100, 60)], start_s=5.0)
    assert kinds(walk(yard, [(100, 60)], track=2, start_s=0.0)) == ["left", "entered"]


def test_a_hollow_is_outside():
    yard = RegionCounter((), parse_zones(["yard=50,40,150,40,150,90,100,60,50,90"]), CLASSES)
    assert kinds(walk(yard, [(100, 55), (100, 80), (60, 75)])) == ["entered", "left", "entered"]


def test_regions_keep_their_place_in_the_picture_when_its_size_changes(gate):
    walk(gate, [(100, 40), (100, 60)])
    for place in ((200, 80), (200, 120)):  # twice the size: the line is at height 100
        events = gate.update(standing(place), np.array([2]), 1.0, (200, 400))
    assert kinds(events) == ["crossed_in"]
    np.testing.assert_allclose(gate.outlines()["gate"], [[100, 100], [300, 100]])
    assert gate.counts()["lines"]["gate"]["in"] == {"person": 2}


def test_who_is_inside_leaves_when_the_size_changes(yard):
    walk(yard, [(100, 60)])
    assert kinds(yard.update(standing((200, 120)), np.array([2]), 0.1, (200, 400))) == ["left", "entered"]


def test_a_region_outside_the_first_frame_is_refused():
    gate = RegionCounter(parse_lines(["gate=50,50,300,50"]), (), CLASSES)
    with pytest.raises(UserInputError, match=r"^gate must be inside the frame of 200x100 pixels"):
        walk(gate, [(100, 40)])


def test_one_name_twice_is_refused():
    with pytest.raises(UserInputError, match="different names, got a twice"):
        RegionCounter(parse_lines(["a=0,0,1,1"]), parse_zones(["a=0,0,1,0,1,1"]), CLASSES)


def test_counts_are_json_and_later_frames_do_not_change_them(yard):
    walk(yard, [(100, 60)])
    counts = yard.counts()
    before = json.dumps(counts)
    walk(yard, [(100, 60)], track=2, start_s=0.1)
    assert json.dumps(counts) == before


def test_memory_holds_only_what_was_seen_lately():
    counter = RegionCounter(parse_lines(["gate=50,50,150,50"]), parse_zones(["yard=50,40,150,40,150,80,50,80"]), CLASSES)
    largest = 0
    for number in range(5_000):
        counter.update(standing((100, 45)), np.array([number]), number * SECOND, SHAPE)
        largest = max(largest, len(counter))
    assert largest == 11  # of 1 s, both ends included
    assert counter.counts()["zones"]["yard"]["entered"] == {"person": 5_000}
