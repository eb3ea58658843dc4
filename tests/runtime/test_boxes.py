import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinanet_edge.runtime.boxes import area, decode_center_size, iou

F = np.float32
SQUARE = [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("box", "expected"),
    [([1, 2, 4, 6], 12), ([0, 0, 0, 5], 0), ([5, 5, 1, 1], 0), ([5, 0, 1, 9], 0), ([-3, -2, -1, -1], 2)],
)
def test_area(box, expected):
    assert area(np.array([box], F)).tolist() == [expected]  # a box whose corners are swapped has none


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (SQUARE, 1),
        ([5, 0, 15, 10], 50 / 150),
        ([5, 5, 15, 15], 25 / 175),
        ([2, 2, 4, 4], 4 / 100),
        ([10, 0, 20, 10], 0),  # they touch
        ([20, 20, 30, 30], 0),
        ([5, 5, 5, 5], 0),  # a point
        ([2, 0, 2, 10], 0),  # a line
        ([8, 8, 2, 2], 0),  # swapped corners
    ],
)
def test_iou_with_a_square_of_ten(other, expected):
    assert iou(np.array([SQUARE], F), np.array([other], F))[0, 0] == pytest.approx(expected, abs=1e-7)


def test_iou_of_boxes_without_area_is_zero_even_with_themselves():
    points = np.array([[3, 3, 3, 3], [0, 0, 0, 9]], F)
    assert iou(points, points).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0), (2, 3)])
def test_iou_has_a_row_a_box(n, m):
    assert iou(np.ones((n, 4), F), np.ones((m, 4), F)).shape == (n, m)


def test_iou_equals_torchvision():
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (80, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(F)
    found = iou(boxes[:50], boxes[50:])
    assert found.dtype == F
    assert (found > 0).sum() > 100
    np.testing.assert_allclose(found, ops.box_iou(torch.from_numpy(boxes[:50]), torch.from_numpy(boxes[50:])).numpy(), atol=1e-6)


def test_decode_as_computed_by_hand():
    # centre (100 + 0.5 * 20, 60 - 0.25 * 40) = (110, 50); sides 20 * 2 = 40 and 40 / 2 = 20.
    boxes = decode_center_size(np.array([[0.5, -0.25, math.log(2), math.log(0.5)]], F), np.array([[100, 60, 20, 40]], F))
    np.testing.assert_allclose(boxes, [[90, 40, 130, 60]], rtol=1e-6)
    assert boxes.dtype == F


def test_decode_of_no_deltas_is_the_anchor():
    assert decode_center_size(np.zeros((2, 3, 4)), np.array([[10, 20, 4, 6]] * 3)).tolist() == [[[8, 17, 12, 23]] * 3] * 2


@given(
    st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 100), st.floats(1, 100),
    st.tuples(st.floats(-100, 100), st.floats(-100, 100), st.floats(1, 200), st.floats(1, 200)),
)  # fmt: skip
def test_decode_undoes_encode(x, y, width, height, anchor):
    cx, cy, w, h = anchor
    deltas = np.array([[(x + width / 2 - cx) / w, (y + height / 2 - cy) / h, math.log(width / w), math.log(height / h)]])
    np.testing.assert_allclose(decode_center_size(deltas, np.array([anchor])), [[x, y, x + width, y + height]], atol=1e-9)
