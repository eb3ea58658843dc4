"""Rows of one output, as NonMaxSuppression leaves them, sorted out for each image."""

from __future__ import annotations

import numpy as np
import pytest

from retinanet_edge.runtime.native_rows import group_rows


def rows(*of_boxes: tuple[float, ...]) -> np.ndarray:
    return np.array(of_boxes, np.float32).reshape(-1, 7)


def test_each_image_gets_its_rows_best_first() -> None:
    found = group_rows(
        rows((1, 0, 0, 4, 4, 0.5, 2), (0, 1, 2, 3, 4, 0.25, 0), (1, 9, 9, 12, 13, 0.75, 1), (0, 5, 6, 7, 8, 0.5, 3)), 3, 10
    )
    assert [d.scores.tolist() for d in found] == [[0.5, 0.25], [0.75, 0.5], []]
    assert [d.classes.tolist() for d in found] == [[3, 0], [1, 2], []]
    assert found[0].xyxy.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert found[1].xyxy.tolist() == [[9, 9, 12, 13], [0, 0, 4, 4]]
    assert [d.classes.dtype for d in found] == [np.int64] * 3


def test_only_the_best_of_all_classes_stay() -> None:
    (found,) = group_rows(rows(*((0, 0, 0, 1, 1, score, kind) for score, kind in ((0.1, 0), (0.9, 1), (0.5, 0), (0.7, 2)))), 1, 2)
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.classes.tolist() == [1, 2]


def test_equal_scores_stay_in_their_order() -> None:
    (found,) = group_rows(rows(*((0, 0, 0, 1, 1, 0.5, kind) for kind in (4, 2, 9, 0))), 1, 3)
    assert found.classes.tolist() == [4, 2, 9]


def test_nothing_found_is_empty_for_every_image() -> None:
    assert [len(d) for d in group_rows(rows(), 2, 10)] == [0, 0]
    assert group_rows(rows(), 1, 10)[0].xyxy.shape == (0, 4)


def test_images_that_only_fill_a_batch_are_left_out() -> None:
    found = group_rows(rows((0, 0, 0, 1, 1, 0.5, 0), (1, 0, 0, 1, 1, 0.9, 0)), 1, 10)
    assert [d.scores.tolist() for d in found] == [[0.5]]


def test_what_is_returned_does_not_change_with_the_buffer() -> None:
    buffer = rows((0, 1, 2, 3, 4, 0.5, 6))
    (found,) = group_rows(buffer, 1, 10)
    buffer[:] = 0
    assert (found.xyxy.tolist(), found.scores.tolist(), found.classes.tolist()) == ([[1, 2, 3, 4]], [0.5], [6])


@pytest.mark.parametrize("wrong", [np.zeros((2, 6), np.float32), np.zeros(7, np.float32), np.zeros((2, 7), np.float64)])
def test_another_shape_or_type_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"rows must be float32 \[S, 7\], got float"):
        group_rows(wrong, 1, 10)
