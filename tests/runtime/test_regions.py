"""Lines and zones as users write them, and what is refused."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.regions import Line, Zone, check_regions, fractions, of_camera, parse_lines, parse_zones, segments_touch


def test_texts_become_lines_and_zones():
    assert parse_lines(["gate=100,400,900,400"]) == (Line("gate", ((100.0, 400.0), (900.0, 400.0))),)
    (zone,) = parse_zones(["my yard@rtsp://host/a?b=1=0,0,0.5,0,0.5,1"])
    assert zone == Zone("my yard", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0)), "rtsp://host/a?b=1")


@pytest.mark.parametrize("text", ["", "gate", "=1,2,3,4", "gate=", "gate=1,2,3", "gate=1,2,x,4", "gate@=1,2,3,4"])
def test_texts_of_another_form_are_refused(text):
    with pytest.raises(UserInputError, match=r"^--line must be NAME=x1,y1,x2,y2") as refused:
        parse_lines([text])
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a=1,2,1,2", "line a must have two different points x1,y1,x2,y2, got 1,2,1,2"), ("a=1,2,3,4,5,6", "two different points"),
     ("a=-1,2,3,4", "inside the frame, from 0 on, got -1,2,3,4"), ("a=nan,2,3,4", "from 0 on"), ("a=1,2,inf,4", "from 0 on")],
)  # fmt: skip
def test_lines_that_are_none_are_refused(text, problem):
    with pytest.raises(UserInputError, match=problem):
        parse_lines([text])


@pytest.mark.parametrize(
    "corners",
    ["0,0,10,0", "0,0,10,10,10,0,0,10", "0,0,5,5,10,10", "0,0,10,0,10,10,10,0", "0,0,0,0,10,0,10,10", "0,0,10,0,5,0,5,5",
     "0,0,10,0,10,10,5,0,0,10"],
    ids=["two corners", "bow tie", "no area", "spike", "corner twice", "back on itself", "corner on a side"],
)  # fmt: skip
def test_polygons_that_are_none_are_refused(corners):
    with pytest.raises(UserInputError, match=r"^zone yard must have .*, got " + corners + "$"):
        parse_zones([f"yard={corners}"])


@pytest.mark.parametrize("corners", ["0,0,10,0,10,10,0,10", "0,10,10,10,10,0,0,0", "0,0,10,0,10,10,5,3,0,10", "0,0,5,0,10,0,10,10"])
def test_polygons_of_either_direction_and_shape_are_taken(corners):
    assert len(parse_zones([f"yard={corners}"])) == 1


def test_pixels_and_fractions():
    pixels, shares = parse_lines(["a=320,120,640,480", "b=0.5,0.25,1,1"])
    np.testing.assert_allclose(fractions(pixels, 480, 640), [[0.5, 0.25], [1, 1]])
    np.testing.assert_allclose(fractions(shares, 480, 640), [[0.5, 0.25], [1, 1]])
    with pytest.raises(UserInputError, match=r"^a must be inside the frame of 320x240 pixels, got 320,120,640,480$"):
        fractions(pixels, 240, 320)


def test_regions_of_a_camera():
    lines = parse_lines(["a=0,0,1,1", "b@front=0,0,1,1", "c@back=0,0,1,1"])
    assert [line.name for line in of_camera(lines, "front")] == ["a", "b"]


def test_one_name_twice_is_refused_only_at_the_same_camera():
    lines, zones = parse_lines(["a@front=0,0,1,1"]), parse_zones(["a@back=0,0,1,0,1,1"])
    check_regions(lines, zones, ["front", "back"])
    with pytest.raises(UserInputError, match=r"^lines and zones must have different names, got a twice: rename one$"):
        check_regions(lines, parse_zones(["a=0,0,1,0,1,1"]), ["front", "back"])


def test_a_camera_that_is_not_there_is_refused():
    with pytest.raises(UserInputError, match=r"^a must be for one of the cameras back, got front$"):
        check_regions(parse_lines(["a@front=0,0,1,1"]), (), ["back"])


points = st.tuples(st.integers(0, 6), st.integers(0, 6))


@given(points, points, points, points)
@settings(max_examples=300, deadline=None)
def test_segments_touch_as_solving_for_their_meeting_says(a, b, c, d):
    along, other = np.subtract(b, a), np.subtract(d, c)
    turn = int(along[0] * other[1] - along[1] * other[0])
    if turn:  # a + s * along = c + t * other, by Cramer's rule, in whole numbers
        between = np.subtract(c, a)
        s, t = between[0] * other[1] - between[1] * other[0], between[0] * along[1] - between[1] * along[0]
        meet = 0 <= s * np.sign(turn) <= abs(turn) and 0 <= t * np.sign(turn) <= abs(turn)
    else:
        meet = bool({a, b} & drawn_points(c, d) or {c, d} & drawn_points(a, b))
    assert segments_touch(a, b, c, d) == meet


def drawn_points(start, end):
    """The points of the 7x7 grid on a segment, as OpenCV measures the distance from it."""
    contour = np.array([start, end], np.float32)
    return {(x, y) for x in range(7) for y in range(7) if cv2.pointPolygonTest(contour, (x, y), True) == 0}
