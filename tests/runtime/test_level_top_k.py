"""Top-K per level in NumPy: by hand, and against a selection anchor by anchor."""

import numpy as np
import pytest

from retinanet_edge.runtime.level_top_k import keep_best_of_levels, level_sizes
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec

F = np.float32


def spec(height, width):
    return InputSpec(height, width, (0.0,) * 3, (1.0,) * 3)


def test_levels_have_a_cell_for_every_begun_stride():
    anchors = AnchorSpec((8, 16, 64), (32.0, 64.0, 128.0), (1.0, 1.5), (0.5, 1.0, 2.0))
    # 40 / 8 x 100 / 8 -> 5 x 13 cells, 3 x 7, 1 x 2; six anchors in each.
    assert level_sizes(anchors, spec(40, 100)) == (6 * 65, 6 * 21, 6 * 2)


def test_keeps_the_best_of_each_level_by_its_best_class():
    # Two levels of four and two anchors, two classes. Best class of each: 1, 5, 2, 5 | -3, -4. The best three of the first level are
    # the second, the fourth (as good, but later) and the third; the other level has no more than three.
    logits = np.array([[[1, 0], [-1, 5], [2, 2], [5, -9], [-3, -8], [-6, -4]]], F)
    deltas = np.arange(6, dtype=F)[None, :, None] + np.array([0, 0.1, 0.2, 0.3], F)
    anchors = deltas + 10
    found = keep_best_of_levels(logits, deltas, anchors, (4, 2), 3)
    assert found[0].tolist() == [[[-1, 5], [5, -9], [2, 2], [-3, -8], [-6, -4]]]
    assert found[1][0, :, 0].tolist() == [1, 3, 2, 4, 5]
    assert found[2][0, :, 0].tolist() == [11, 13, 12, 14, 15]
    assert [values.dtype for values in found] == [F, F, F]
    assert found[2].shape == (1, 5, 4)


def test_each_image_keeps_its_own():
    logits = np.array([[[1], [2], [3]], [[3], [2], [1]]], F)
    deltas = np.zeros((2, 3, 4), F)
    anchors = np.array([[[0] * 4, [1] * 4, [2] * 4]], F)
    kept, _, places = keep_best_of_levels(logits, deltas, anchors, (3,), 1)
    assert kept.tolist() == [[[3]], [[3]]]
    assert places[:, 0, 0].tolist() == [2, 0]


@pytest.mark.parametrize("k", [1, 3, 7])
def test_equals_a_selection_anchor_by_anchor(k):
    random = np.random.default_rng(k)
    sizes, images, classes = (12, 7, 3, 1), 4, 3
    logits = random.integers(-3, 3, (images, sum(sizes), classes)).astype(F)  # many ties
    deltas = random.normal(size=(images, sum(sizes), 4)).astype(F)
    anchors = random.normal(size=(1, sum(sizes), 4)).astype(F)
    found = keep_best_of_levels(logits, deltas, anchors, sizes, k)
    for image in range(images):
        rows, start = [], 0
        for size in sizes:
            level = list(range(start, start + size))
            rows += sorted(level, key=lambda row: -max(logits[image, row]))[:k] if size > k else level
            start += size
        np.testing.assert_array_equal(found[0][image], logits[image, rows])
        np.testing.assert_array_equal(found[1][image], deltas[image, rows])
        np.testing.assert_array_equal(found[2][image], anchors[0, rows])


@pytest.mark.parametrize("k", [4, 5, 3840])
def test_where_no_level_is_larger_all_stays_as_it_was(k):
    given = np.zeros((2, 6, 3), F), np.zeros((2, 6, 4), F), np.zeros((1, 6, 4), F)
    assert all(after is before for after, before in zip(keep_best_of_levels(*given, (4, 2), k), given, strict=True))


@pytest.mark.parametrize(("sizes", "k"), [((4, 2), 0), ((4, 2), -1), ((4, 3), 2), ((4,), 2)])
def test_refuses_sizes_of_other_anchors_and_no_anchors_at_all(sizes, k):
    with pytest.raises(ValueError, match="must add up to the 6 anchors and k be at least 1, got"):
        keep_best_of_levels(np.zeros((2, 6, 3), F), np.zeros((2, 6, 4), F), np.zeros((1, 6, 4), F), sizes, k)
