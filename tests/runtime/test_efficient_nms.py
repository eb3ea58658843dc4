"""The twin against a slow, plain implementation of the plugin's description, which shares no code with it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet_edge.runtime.efficient_nms import MOST_CANDIDATES, efficient_nms
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import NmsSpec

F = np.float32


def slow_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return F(0)
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else F(0)


def slow_nms(logits, deltas, anchors, nms):
    """One image, box by box: (logit, class, anchor index, box) of each kept one, best first."""
    threshold = F(math.log(nms.score_threshold / (1 - nms.score_threshold)))
    found = []
    for a in range(logits.shape[0]):
        for k in range(logits.shape[1]):
            if logits[a, k] >= threshold:
                found.append((logits[a, k], k, a))
    found.sort(key=lambda item: -item[0])  # Python's sort is stable: equal ones stay in the order of the output
    kept = []
    for logit, k, a in found[:5000]:
        cx, cy, w, h = anchors[a]
        dx, dy, dw, dh = deltas[a]
        centre_x, centre_y = dx * w + cx, dy * h + cy
        half_w, half_h = w * np.exp(dw) / F(2), h * np.exp(dh) / F(2)
        box = (centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h)
        rivals = [other for _, other_k, _, other in kept if other_k == k]
        if all(slow_iou(box, other) < nms.iou_threshold for other in rivals):
            kept.append((logit, k, a, box))
        if len(kept) == nms.max_detections:
            break
    return kept


def random_case(rng, count, classes, mean=-1.0, crowding=30.0):
    """Logits that are all distinct, and boxes crowded enough to overlap."""
    logits = (rng.permutation(count * classes) * F(6 / (count * classes)) - 3 + mean).astype(F).reshape(count, classes)
    centres, sides = rng.uniform(0, crowding, (count, 2)), rng.uniform(5, 30, (count, 2))
    anchors = np.concatenate([centres, sides], axis=1).astype(F)
    return logits, rng.normal(0, 0.3, (count, 4)).astype(F), anchors


def assert_same(found, expected):
    assert len(found) == len(expected)
    assert found.classes.tolist() == [k for _, k, _, _ in expected]
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-logit)) for logit, *_ in expected], rtol=1e-6)
    # exp of an array and of one number may differ in the last bit.
    np.testing.assert_allclose(found.xyxy, np.array([box for *_, box in expected], F).reshape(-1, 4), rtol=1e-5, atol=1e-4)


def run_one(logits, deltas, anchors, nms):
    (found,) = efficient_nms(logits[None], deltas[None], anchors[None], nms)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_slow_implementation(seed):
    rng = np.random.default_rng(seed)
    suppressed = 0
    for _ in range(300):
        count, classes = int(rng.integers(1, 30)), int(rng.integers(1, 5))
        nms = NmsSpec(F(rng.uniform(0.01, 0.6)), F(rng.uniform(0.1, 0.9)), int(rng.integers(1, 30)))
        logits, deltas, anchors = random_case(rng, count, classes)
        expected = slow_nms(logits, deltas, anchors, nms)
        assert_same(run_one(logits, deltas, anchors, nms), expected)
        suppressed += len(expected) < (logits >= math.log(nms.score_threshold / (1 - nms.score_threshold))).sum()
    assert suppressed > 150  # the cases do exercise suppression


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 4), st.integers(1, 40), st.floats(0.05, 1))
@settings(deadline=None, max_examples=300)
def test_equals_the_slow_implementation_where_scores_are_equal(seed, count, classes, most, iou_threshold):
    rng = np.random.default_rng(seed)
    _, deltas, anchors = random_case(rng, count, classes)
    logits = rng.integers(-4, 2, (count, classes)).astype(F)  # few values, many ties: the order of the output decides
    nms = NmsSpec(iou_threshold=F(iou_threshold), max_detections=most)
    assert_same(run_one(logits, deltas, anchors, nms), slow_nms(logits, deltas, anchors, nms))


def test_equals_the_slow_implementation_above_5000_candidates():
    rng = np.random.default_rng(1)
    logits, deltas, anchors = random_case(rng, 1500, 4, mean=2, crowding=60)  # all 6000 pass the threshold
    nms = NmsSpec(iou_threshold=0.3, max_detections=2000)
    assert_same(run_one(logits, deltas, anchors, nms), slow_nms(logits, deltas, anchors, nms))


def test_only_the_best_5000_candidates_go_on():
    # 5010 boxes that do not touch, the best last: without the cut all would come out; with it the first 10, the worst, are gone.
    count = MOST_CANDIDATES + 10
    anchors = np.array([[10 * i, 0, 5, 5] for i in range(count)], F)
    logits = np.linspace(0, 5, count, dtype=F)[:, None]
    found = run_one(logits, np.zeros((count, 4), F), anchors, NmsSpec(max_detections=count))
    assert MOST_CANDIDATES == 5000
    assert len(found) == 5000
    assert found.xyxy[-1].tolist() == [97.5, -2.5, 102.5, 2.5]  # the eleventh, around x = 100


def test_the_cut_keeps_the_first_of_equal_scores():
    count = MOST_CANDIDATES + 10
    anchors = np.array([[10 * i, 0, 5, 5] for i in range(count)], F)
    found = run_one(np.ones((count, 1), F), np.zeros((count, 4), F), anchors, NmsSpec(max_detections=count))
    assert found.xyxy[:, 0].tolist() == [10 * i - 2.5 for i in range(5000)]


def test_decodes_as_computed_by_hand():
    # centre (100 + 0.5 * 20, 60 - 0.25 * 40) = (110, 50); sides 20 * 2 = 40 and 40 / 2 = 20; corners 110 -+ 20 and 50 -+ 10.
    deltas = np.array([[0.5, -0.25, math.log(2), math.log(0.5)]], F)
    found = run_one(np.array([[-9, 0]], F), deltas, np.array([[100, 60, 20, 40]], F), NmsSpec())
    np.testing.assert_allclose(found.xyxy, [[90, 40, 130, 60]], rtol=1e-6)
    assert found.classes.tolist() == [1]
    assert found.scores.tolist() == [0.5]  # sigmoid(0)
    assert (found.xyxy.dtype, found.scores.dtype, found.classes.dtype) == (F, F, np.int64)


def test_neither_clips_to_the_image_nor_clamps_the_sides():
    # exp(10) = 22026.4658: torchvision would clamp at 1000 / 16.
    found = run_one(np.zeros((1, 1), F), np.array([[0, 0, 10, 0]], F), np.array([[0, 0, 2, 2]], F), NmsSpec())
    np.testing.assert_allclose(found.xyxy, [[-22026.4658, -1, 22026.4658, 1]], rtol=1e-6)


# Two boxes 10 x 10, the second moved right by 5: intersection 50, union 150, IoU 1/3.
HALF_APART = np.array([[5, 5, 10, 10], [10, 5, 10, 10]], F)


@pytest.mark.parametrize(("iou_threshold", "kept"), [(0.34, 2), (0.33, 1)])
def test_suppresses_above_the_iou_threshold(iou_threshold, kept):
    logits = np.array([[2], [1]], F)
    assert len(run_one(logits, np.zeros((2, 4), F), HALF_APART, NmsSpec(iou_threshold=iou_threshold))) == kept


def test_suppresses_at_the_iou_threshold_itself():
    # The second moved by 10/3 would be inexact; 16 x 10 boxes moved by 0 and half as wide give exactly 1/2: keep >= means gone.
    anchors = np.array([[8, 5, 16, 10], [4, 5, 8, 10]], F)
    logits = np.array([[2], [1]], F)
    assert len(run_one(logits, np.zeros((2, 4), F), anchors, NmsSpec(iou_threshold=0.5))) == 1
    assert len(run_one(logits, np.zeros((2, 4), F), anchors, NmsSpec(iou_threshold=0.5001))) == 2


def test_classes_do_not_suppress_each_other():
    logits = np.array([[2, -9], [-9, 1]], F)  # two boxes in one place, of two classes
    found = run_one(logits, np.zeros((2, 4), F), np.array([[5, 5, 10, 10]] * 2, F), NmsSpec())
    assert found.classes.tolist() == [0, 1]


def test_one_anchor_gives_a_box_for_each_class_that_passes():
    found = run_one(np.array([[0, 1, -9, 2]], F), np.zeros((1, 4), F), HALF_APART[:1], NmsSpec())
    assert found.classes.tolist() == [3, 1, 0]


def test_a_suppressed_box_suppresses_nothing():
    # A chain: 1 overlaps 0 and 2, 2 overlaps only 1. 1 goes, so 2 stays.
    anchors = np.array([[5, 5, 10, 10], [9, 5, 10, 10], [13, 5, 10, 10]], F)
    found = run_one(np.array([[3], [2], [1]], F), np.zeros((3, 4), F), anchors, NmsSpec(iou_threshold=0.4))
    assert found.xyxy[:, 0].tolist() == [0, 8]  # IoU of neighbours 60 / 140 = 0.43, of the ends 20 / 180 = 0.11


def test_boxes_without_area_suppress_nothing():
    deltas = np.array([[0, 0, -200, 0]] * 2, F)  # exp(-200) is 0 in FP32
    found = run_one(np.array([[2], [1]], F), deltas, np.array([[5, 5, 10, 10]] * 2, F), NmsSpec(iou_threshold=0.01))
    assert len(found) == 2


def test_stops_at_max_detections_with_the_best():
    anchors = np.array([[10 * i, 0, 5, 5] for i in range(9)], F)
    logits = np.array([0, 3, 1, 8, 2, 7, 4, 6, 5], F)[:, None]
    found = run_one(logits, np.zeros((9, 4), F), anchors, NmsSpec(max_detections=3))
    assert found.xyxy[:, 0].tolist() == [27.5, 47.5, 67.5]  # logits 8, 7, 6 stand at 3, 5, 7


def test_keeps_a_score_equal_to_the_threshold():
    at = F(math.log(F(0.05) / (1 - F(0.05))))
    logits = np.array([[at], [np.nextafter(at, F(-np.inf))]], F)
    anchors = np.array([[0, 0, 5, 5], [50, 0, 5, 5]], F)
    found = run_one(logits, np.zeros((2, 4), F), anchors, NmsSpec(score_threshold=0.05))
    assert found.xyxy[:, 0].tolist() == [-2.5]


@pytest.mark.parametrize("shape", [(1, 0, 3), (2, 5, 1), (0, 5, 2)])
def test_nothing_above_the_threshold(shape):
    images, count, _ = shape
    found = efficient_nms(np.full(shape, -20, F), np.zeros((images, count, 4), F), np.ones((1, count, 4), F), NmsSpec())
    assert [len(one) for one in found] == [0] * images
    assert all(one.xyxy.shape == (0, 4) for one in found)


def test_images_of_a_batch_do_not_touch_each_other():
    rng = np.random.default_rng(5)
    cases = [random_case(rng, 30, 3) for _ in range(3)]
    anchors, logits = cases[0][2], np.stack([case[0] for case in cases])
    deltas = np.stack([case[1] for case in cases])
    for found, one_logits, one_deltas in zip(
        efficient_nms(logits, deltas, anchors[None], NmsSpec()), logits, deltas, strict=True
    ):
        assert_same(found, slow_nms(one_logits, one_deltas, anchors, NmsSpec()))


def test_results_share_no_memory_with_the_input():
    logits, deltas, anchors = random_case(np.random.default_rng(2), 20, 2)
    found = run_one(logits, deltas, anchors, NmsSpec())
    before = found.xyxy.copy(), found.scores.copy()
    logits[:], deltas[:], anchors[:] = 0, 0, 0
    assert (found.xyxy == before[0]).all()
    assert (found.scores == before[1]).all()


def test_nan_logits_are_dropped_and_infinite_ones_are_certain():
    logits = np.array([[np.nan], [np.inf], [-np.inf], [1]], F)
    anchors = np.array([[20 * i, 0, 5, 5] for i in range(4)], F)
    found = run_one(logits, np.zeros((4, 4), F), anchors, NmsSpec())
    assert found.xyxy[:, 0].tolist() == [17.5, 57.5]
    assert found.scores[0] == 1


def test_wild_deltas_give_infinite_boxes_and_no_warning():
    # Warnings are errors in this suite. inf - inf is NaN: such a box overlaps nothing and nothing fails.
    deltas = np.array([[0, 0, 1000, 1000], [np.inf, 0, 1000, 0], [np.nan] * 4, [0, 0, 0, 0]], F)
    found = run_one(np.array([[4], [3], [2], [1]], F), deltas, np.array([[5, 5, 10, 10]] * 4, F), NmsSpec())
    assert found.xyxy[0].tolist() == [-np.inf, -np.inf, np.inf, np.inf]
    assert found.xyxy[-1].tolist() == [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("logits", "deltas", "anchors"),
    [((1, 5, 2), (1, 4, 4), (1, 5, 4)), ((1, 5, 2), (1, 5, 4), (5, 4)), ((2, 5, 2), (1, 5, 4), (1, 5, 4)),
     ((3, 5, 2), (3, 5, 4), (2, 5, 4)), ((1, 5, 2), (1, 5, 4), (2, 5, 4))],
)  # fmt: skip
def test_refuses_shapes_that_do_not_belong_together(logits, deltas, anchors):
    with pytest.raises(ValueError, match="class_logits, box_deltas and anchors must be"):
        efficient_nms(np.zeros(logits, F), np.zeros(deltas, F), np.zeros(anchors, F), NmsSpec())


@pytest.mark.parametrize("seed", range(3))
def test_each_image_may_have_anchors_of_its_own(seed):
    cases = [random_case(np.random.default_rng([seed, image]), 40, 3) for image in range(3)]
    found = efficient_nms(*(np.stack(values) for values in zip(*cases, strict=True)), NmsSpec())
    assert len(found) == 3
    for one, case in zip(found, cases, strict=True):
        assert_same(one, slow_nms(*case, NmsSpec()))


@pytest.mark.parametrize("threshold", [0.0, 0.0099, 1.0, -1.0, math.nan])
def test_refuses_a_threshold_that_the_plugin_does_not_keep(threshold):
    with pytest.raises(UserInputError, match=r"score_threshold must be at least 0\.01"):
        NmsSpec(score_threshold=threshold)


@pytest.mark.parametrize("seed", range(20))
def test_equals_torchvision_away_from_the_threshold(seed):
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    logits, deltas, anchors = random_case(np.random.default_rng(seed), 60, 3)
    rows, classes = np.nonzero(1 / (1 + np.exp(-logits)) > 0.05)
    centres = anchors[rows, :2] + deltas[rows, :2] * anchors[rows, 2:]
    sides = anchors[rows, 2:] * np.exp(deltas[rows, 2:])
    boxes = torch.from_numpy(np.concatenate([centres - sides / 2, centres + sides / 2], axis=1))
    # torchvision suppresses above the threshold, the plugin at it, and both round: put it into the widest gap around 0.5.
    overlaps = np.unique(ops.box_iou(boxes, boxes).numpy())
    overlaps = overlaps[(overlaps > 0.4) & (overlaps < 0.6)]
    widest = np.diff(overlaps).argmax()
    threshold = float(overlaps[widest : widest + 2].mean())
    kept = ops.batched_nms(boxes, torch.from_numpy(logits[rows, classes]), torch.from_numpy(classes), threshold).numpy()
    found = run_one(logits, deltas, anchors, NmsSpec(iou_threshold=threshold, max_detections=180))
    assert len(kept) < len(rows)
    assert found.classes.tolist() == classes[kept].tolist()
    np.testing.assert_allclose(found.xyxy, boxes.numpy()[kept], atol=1e-4)
