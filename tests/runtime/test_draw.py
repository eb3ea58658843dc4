import numpy as np
import pytest

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.draw import class_color, draw_detections


def detections(*boxes, classes=None):
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.6, count).astype(np.float32),
        np.arange(count) if classes is None else np.array(classes),
    )


def test_the_outline_has_the_class_colour_and_the_inside_stays():
    image = np.full((480, 640, 3), 50, np.uint8)
    drawn = draw_detections(image, detections((100, 200, 300, 400)), ["cat"])
    assert tuple(drawn[300, 100]) == class_color(0)  # left side
    assert tuple(drawn[400, 200]) == class_color(0)  # bottom side
    assert tuple(drawn[300, 200]) == (50, 50, 50)


def test_the_image_itself_is_not_touched():
    image = np.full((480, 640, 3), 50, np.uint8)
    drawn = draw_detections(image, detections((100, 200, 300, 400)), ["cat"])
    assert (image == 50).all()
    assert not (drawn == 50).all()


def test_no_detections_draw_nothing():
    image = np.full((40, 60, 3), 50, np.uint8)
    np.testing.assert_array_equal(draw_detections(image, Detections.empty(), ["cat"]), image)


def test_the_label_stands_above_the_box_on_a_filled_ground():
    drawn = draw_detections(np.zeros((480, 640, 3), np.uint8), detections((100, 200, 300, 400)), ["cat"])
    ground = (drawn[180:199, 100:160] == class_color(0)).all(axis=2)
    assert 0.3 < ground.mean() < 1  # the rest is the text


@pytest.mark.parametrize("box", [(0, 0, 20, 20), (620, 0, 640, 20), (630, 470, 640, 480), (-50, -50, 700, 500)])
def test_a_label_at_the_border_is_whole(box):
    """As many pixels change as in the middle of the picture, were the box of the same size drawn there."""
    image = np.zeros((480, 640, 3), np.uint8)
    drawn = draw_detections(image, detections(box), ["w"])
    ground = (drawn == class_color(0)).all(axis=2)
    middle = draw_detections(image, detections((300, 200, 301, 201)), ["w"])
    assert ground.sum() >= 0.8 * (middle == class_color(0)).all(axis=2).sum()


def test_lines_grow_with_the_picture():
    def line_width(side):
        drawn = draw_detections(np.zeros((side, side, 3), np.uint8), detections((side / 4, side / 2, side / 2, side - 9)), ["a"])
        return (drawn[side * 3 // 4, : side * 3 // 8] == class_color(0)).all(axis=1).sum()

    assert line_width(2000) > line_width(480) > line_width(100) > 0


def test_the_best_score_lies_on_top():
    box = (100, 200, 300, 400)
    drawn = draw_detections(np.zeros((480, 640, 3), np.uint8), detections(box, box), ["best", "other"])
    assert tuple(drawn[300, 100]) == class_color(0)


def test_colours_are_fixed_and_those_of_80_classes_differ():
    assert class_color(3) == class_color(3)
    assert len({class_color(index) for index in range(80)}) == 80
    near = [max(abs(a - b) for a, b in zip(class_color(i), class_color(i + 1), strict=True)) for i in range(80)]
    assert min(near) > 60


def test_odd_sizes_and_names():
    drawn = draw_detections(np.zeros((1, 1, 3), np.uint8), detections((0, 0, 1, 1)), ["größe 100%"])
    assert drawn.shape == (1, 1, 3)
