"""Where regions, trails and ids are on a picture."""

import numpy as np

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.draw import class_color, draw_detections
from retinanet_edge.runtime.overlay import Overlay

GREY = 50


def picture():
    return np.full((480, 640, 3), GREY, np.uint8)


def test_a_zone_is_tinted_inside_and_outlined():
    image = picture()
    counts = {"zones": {"yard": {"inside": {"car": 1, "dog": 2}, "entered": {"car": 4}}}}
    Overlay((), counts, {"yard": np.array([[200.0, 200], [400, 200], [400, 400], [200, 400]])})(image)
    assert image[300, 300].tolist() == [91, 91, 91]  # 50 + (255 - 50) * 0.2
    assert image[300, 200].tolist() == [255, 255, 255]
    assert image[300, 500].tolist() == [GREY] * 3


def test_a_zone_of_the_whole_frame_fits_in():
    image = picture()
    Overlay((), {"zones": {"all": {"inside": {}, "entered": {}}}}, {"all": np.array([[0.0, 0], [640, 0], [640, 480], [0, 480]])})(image)
    assert image[240, 320].tolist() == [91, 91, 91]


def test_a_lines_arrow_points_to_in():
    image = picture()
    Overlay((), {"lines": {"gate": {"in": {}, "out": {}}}}, {"gate": np.array([[100.0, 240], [500, 240]])})(image)
    assert image[240, 200].tolist() == [255, 255, 255]
    # 0.06 * 480 = 29 pixels from the middle at x 300: downwards, which is to the right for who walks to the right.
    assert image[262, 300].tolist() == [255, 255, 255]
    assert image[218, 300].tolist() == [GREY] * 3


def test_a_trail_has_its_class_colour_and_one_point_is_none():
    image = picture()
    trail = ((0.0, 100.0, 300.0), (0.1, 200.0, 300.0))
    Overlay(((trail, 3), (((0.0, 200.0, 400.0),), 1), ((), 0)))(image)
    assert tuple(image[300, 150]) == class_color(3)
    assert (image[380:420, 180:220] == GREY).all()


def test_boxes_lie_over_it_and_the_frame_itself_is_not_touched():
    image, box = picture(), Detections(np.array([[100, 300, 300, 400]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    trail = ((0.0, 50.0, 350.0), (0.1, 350.0, 350.0))
    drawn = draw_detections(image, box, ["cat"], np.array([7]), Overlay(((trail, 1),)))
    assert tuple(drawn[350, 200]) == class_color(1)
    assert tuple(drawn[350, 100]) == class_color(0)
    assert (image == GREY).all()


def test_an_id_makes_the_label_longer_and_none_does_not():
    box = Detections(np.array([[100, 300, 300, 400]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))

    def label_width(ids):
        return (draw_detections(picture(), box, ["cat"], ids)[285] != GREY).any(axis=1).sum()

    assert label_width(None) == label_width(np.array([-1])) < label_width(np.array([7])) < label_width(np.array([700]))
