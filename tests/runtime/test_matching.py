"""Detections and objects one to one: cases by hand, and pycocotools' own matches at IoU 0.5."""

import contextlib
import io
import math

import numpy as np
import pytest

from retinanet_edge.runtime.matching import IN_CROWD, UNMATCHED, f1_score, match_by_class, outcomes_at
from tests.found_boxes import detections, random_scene, sample

BOX, AWAY = (0, 0, 100, 100), (200, 200, 300, 300)


def matches(truth, found):
    return match_by_class(truth, found).tolist()


def outcome(truth, found, threshold=0.0):
    (only,) = outcomes_at([truth], [found], [match_by_class(truth, found)], threshold)
    return only


class TestByClass:
    def test_the_object_with_the_highest_overlap(self):
        near = (0, 0, 100, 80)
        assert matches(sample(near, BOX), detections(BOX)) == [1]
        assert matches(sample(near, BOX), detections(BOX, BOX)) == [1, 0]  # 0.8: still enough for the second

    def test_half_is_enough_and_less_is_not(self):
        assert matches(sample(BOX), detections((0, 0, 100, 50))) == [0]
        assert matches(sample(BOX), detections((0, 0, 100, 49))) == [UNMATCHED]

    def test_an_object_is_found_once(self):
        assert matches(sample(BOX), detections(BOX, BOX)) == [0, UNMATCHED]

    def test_another_class_is_no_match(self):
        assert matches(sample(BOX, classes=[1]), detections(BOX)) == [UNMATCHED]

    def test_a_crowd_takes_any_number_of_what_lies_in_it_by_half(self):
        truth = sample(AWAY, crowd=[True])
        halves = [(150, 200, 250, 300), (140, 200, 240, 300)]  # 50 and 40 of 100 columns inside
        assert matches(truth, detections((200, 200, 210, 210), (280, 280, 300, 300), *halves)) == [IN_CROWD] * 3 + [UNMATCHED]
        assert matches(sample(AWAY, classes=[1], crowd=[True]), detections(AWAY)) == [UNMATCHED]

    def test_an_object_comes_before_the_crowd_around_it(self):
        assert matches(sample((0, 0, 200, 200), BOX, crowd=[True, False]), detections(BOX, BOX)) == [1, IN_CROWD]

    def test_nothing_found_or_nothing_there(self):
        assert matches(sample(BOX), detections()) == []
        assert matches(sample(), detections(BOX)) == [UNMATCHED]


@pytest.mark.parametrize("seed", range(4))
def test_same_matches_as_pycocotools(seed):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, classes=2) for _ in range(20)]
    scenes.append((sample(BOX, BOX), detections(BOX)))  # which of two equal ones

    def xywh(boxes):
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(float).tolist()

    def index(annotations):
        database = COCO()
        database.dataset = {
            "images": [{"id": i} for i in range(len(scenes))], "categories": [{"id": 0}, {"id": 1}], "annotations": annotations,
        }  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            database.createIndex()
        return database

    truth = [
        {"id": 100 * i + j + 1, "image_id": i, "category_id": int(s.classes[j]), "bbox": box, "area": 1.0, "iscrowd": int(s.crowd[j])}
        for i, (s, _) in enumerate(scenes) for j, box in enumerate(xywh(s.boxes))
    ]  # fmt: skip
    found = [
        {"id": 100 * i + j + 1, "image_id": i, "category_id": int(d.classes[j]), "bbox": box, "area": 1.0, "score": float(d.scores[j])}
        for i, (_, d) in enumerate(scenes) for j, box in enumerate(xywh(d.xyxy))
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(truth), index(found), "bbox")
        evaluation.params.areaRng, evaluation.params.iouThrs = [[0, 1e10]], np.array([0.5])
        evaluation.evaluate()
    theirs = {}
    for image in filter(None, evaluation.evalImgs):
        for id_of_detection, match, ignored in zip(image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True):
            theirs[id_of_detection] = IN_CROWD if ignored else int(match) - 1
    ours = {}
    for i, (s, d) in enumerate(scenes):
        for j, match in enumerate(matches(s, d)):
            ours[100 * i + j + 1] = 100 * i + match if match >= 0 else match
    assert ours == theirs
    assert {match if match < 0 else 0 for match in ours.values()} == {0, UNMATCHED, IN_CROWD}


class TestOutcome:
    def test_scores_from_the_threshold_count(self):
        found = detections(BOX, AWAY, scores=[0.75, 0.5])
        assert outcome(sample(BOX, AWAY), found, 0.5).counts == (2, 0, 0)
        above = outcome(sample(BOX, AWAY), found, 0.51)
        assert (len(above.detections), above.counts, above.missed.tolist()) == (1, (1, 0, 1), [1])

    def test_what_is_left_over_takes_an_object_of_another_class(self):
        seen = outcome(sample(BOX, AWAY, classes=[1, 0]), detections(BOX, AWAY))
        assert seen.correct.tolist() == [UNMATCHED, 1]
        assert seen.taken_for.tolist() == [0, 1]
        assert seen.missed.tolist() == [0]
        assert seen.counts == (1, 1, 1)  # the mix-up is both a wrong detection and a missed object

    def test_a_right_detection_keeps_its_object_from_a_better_scored_wrong_one(self):
        seen = outcome(sample(BOX), detections(BOX, BOX, classes=[1, 0]))
        assert seen.taken_for.tolist() == [UNMATCHED, 0]

    def test_a_crowd_is_neither_missed_nor_taken_for_anything(self):
        seen = outcome(sample(AWAY, crowd=[True]), detections(AWAY, AWAY, classes=[0, 1]))
        assert seen.taken_for.tolist() == [IN_CROWD, UNMATCHED]
        assert seen.counts == (0, 1, 0)

    def test_f1(self):
        assert outcome(sample(BOX, AWAY), detections(BOX, (0, 200, 50, 250))).f1 == pytest.approx(0.5)  # 1 right, 1 wrong, 1 missed: 2 / 4
        assert f1_score(3, 1, 2) == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
        assert math.isnan(outcome(sample(), detections()).f1)
