import dataclasses

import numpy as np
import pytest

from retinanet_edge.runtime.detections import Detections

THREE = Detections(
    np.array([[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3]], np.float32),
    np.array([0.75, 0.5, 0.25], np.float32),
    np.array([2, 0, 2], np.int64),
)


def test_none():
    empty = Detections.empty()
    assert len(empty) == 0
    assert (empty.xyxy.shape, empty.scores.shape, empty.classes.shape) == ((0, 4), (0,), (0,))
    assert (empty.xyxy.dtype, empty.scores.dtype, empty.classes.dtype) == (np.float32, np.float32, np.int64)
    assert len(empty.filtered(0.5, [1])) == 0


@pytest.mark.parametrize(
    ("xyxy", "scores", "classes"),
    [((3, 4), (2,), (3,)), ((3, 4), (3,), (2,)), ((2, 4), (3,), (3,)), ((3, 5), (3,), (3,)), ((12,), (3,), (3,)), ((3, 4), (3, 1), (3,))],
)
def test_refuses_shapes_that_do_not_belong_together(xyxy, scores, classes):
    with pytest.raises(ValueError, match=r"must be \[M, 4\], \[M\] and \[M\], got"):
        Detections(np.zeros(xyxy, np.float32), np.zeros(scores, np.float32), np.zeros(classes, np.int64))


@pytest.mark.parametrize(
    ("threshold", "classes", "scores"),
    [(0, None, [0.75, 0.5, 0.25]), (0.5, None, [0.75, 0.5]), (0.51, None, [0.75]), (1, None, []), (0, [2], [0.75, 0.25]),
     (0.3, {2}, [0.75]), (0, [], []), (0, [7], [])],
)  # fmt: skip
def test_filters_by_score_and_class(threshold, classes, scores):
    found = THREE.filtered(threshold, classes)
    assert found.scores.tolist() == scores
    assert found.xyxy.shape == (len(scores), 4)


def test_takes_rows_together():
    found = THREE[np.array([2, 0])]
    assert found.scores.tolist() == [0.25, 0.75]
    assert found.xyxy[:, 0].tolist() == [2, 0]
    assert found.classes.tolist() == [2, 2]
    assert THREE[:1].classes.tolist() == [2]


def test_other_boxes_leave_the_rest():
    moved = THREE.with_boxes(THREE.xyxy + 1)
    assert moved.xyxy[0].tolist() == [1, 1, 2, 2]
    assert moved.scores is THREE.scores
    with pytest.raises(ValueError, match="got"):
        THREE.with_boxes(THREE.xyxy[:2])


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        THREE.scores = THREE.scores
