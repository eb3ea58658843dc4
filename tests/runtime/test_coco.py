"""AP against cases worked out by hand, and against pycocotools on files."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from retinanet_edge.runtime.coco import coco_metrics, measure_accuracy
from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.engine import Inference
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, ModelCard, NetworkSpec


def sample(*boxes, classes=None, crowd=None, areas=None, path=Path("none.png"), height=400, width=400):
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(xyxy)
    area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    return Sample(
        path, height, width, xyxy, np.array(classes or [0] * count, np.int64), np.array(crowd or [False] * count, np.bool_),
        area if areas is None else np.array(areas, np.float32),
    )  # fmt: skip


def detections(*boxes, scores=None, classes=None):
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    values = np.linspace(0.9, 0.5, len(xyxy)) if scores is None else scores
    return Detections(xyxy, np.array(values, np.float32), np.array(classes or [0] * len(xyxy), np.int64))


BOX, AWAY = (0, 0, 100, 100), (200, 200, 300, 300)


class TestByHand:
    def test_one_object_found_exactly(self):
        metrics = coco_metrics([sample(BOX)], [detections(BOX)], ["cat"])
        assert (metrics.ap, metrics.ap50, metrics.ap75) == pytest.approx((1, 1, 1))
        assert metrics.images == 1

    def test_overlap_of_062_counts_at_three_of_ten_thresholds(self):
        metrics = coco_metrics([sample(BOX)], [detections((0, 0, 100, 62))], ["cat"])  # IoU 6200 / 10000: 0.50, 0.55, 0.60
        assert (metrics.ap, metrics.ap50, metrics.ap75) == pytest.approx((0.3, 1, 0))

    def test_false_detection_before_the_true_one_halves_precision(self):
        assert coco_metrics([sample(BOX)], [detections(AWAY, BOX)], ["cat"]).ap == pytest.approx(0.5)  # 1 true of 2

    def test_false_detection_after_the_true_one_costs_nothing(self):
        assert coco_metrics([sample(BOX)], [detections(BOX, AWAY)], ["cat"]).ap == pytest.approx(1)

    def test_half_of_the_objects_found(self):
        metrics = coco_metrics([sample(BOX, AWAY)], [detections(BOX)], ["cat"])
        assert metrics.ap == pytest.approx(51 / 101)  # precision 1 at recall 0.00, 0.01 ... 0.50, and 0 at the other 50

    def test_second_detection_of_one_object_is_false(self):
        found = [detections(BOX, BOX, scores=[0.9, 0.8]), detections(BOX, scores=[0.7])]
        metrics = coco_metrics([sample(BOX), sample(BOX)], found, ["cat"])
        # true, false, true: precision 1 up to recall 0.5 (51 points), then 2/3 (50 points)
        assert metrics.ap == pytest.approx((51 + 50 * 2 / 3) / 101)

    def test_crowd_neither_demands_nor_punishes(self):
        inside = [(200 + 10 * i, 200, 210 + 10 * i, 300) for i in range(5)]
        crowded = sample(BOX, AWAY, crowd=[False, True])
        assert coco_metrics([crowded], [detections(*inside, BOX)], ["cat"]).ap == pytest.approx(1)
        assert coco_metrics([sample(BOX)], [detections(*inside, BOX)], ["cat"]).ap == pytest.approx(1 / 6)  # 5 false ones first

    def test_class_without_objects_has_no_ap_and_stays_out_of_the_mean(self):
        found = detections(BOX, AWAY, classes=[0, 1])
        metrics = coco_metrics([sample(BOX)], [found], ["cat", "dog"])
        assert metrics.ap == pytest.approx(1)
        assert metrics.per_class["cat"] == pytest.approx((1, 1))
        assert all(math.isnan(value) for value in metrics.per_class["dog"])
        assert list(metrics.pr_curves) == ["cat"]

    def test_classes_are_averaged(self):
        metrics = coco_metrics([sample(BOX, AWAY, classes=[0, 1])], [detections((0, 0, 100, 62), AWAY, classes=[0, 1])], ["cat", "dog"])
        assert metrics.per_class == {"cat": pytest.approx((0.3, 1)), "dog": pytest.approx((1, 1))}
        assert metrics.ap == pytest.approx(0.65)

    def test_wrong_class_is_no_hit(self):
        assert coco_metrics([sample(BOX)], [detections(BOX, classes=[1])], ["cat", "dog"]).ap == 0

    def test_right_box_on_the_wrong_image_is_no_hit(self):
        assert coco_metrics([sample(BOX), sample()], [detections(), detections(BOX)], ["cat"]).ap == 0

    def test_size_classes_go_by_the_stated_area(self):
        small, medium, large = (0, 0, 31, 31), (100, 100, 150, 150), (200, 200, 300, 300)
        metrics = coco_metrics([sample(small, medium, large)], [detections(small, large)], ["cat"])
        assert (metrics.ap_small, metrics.ap_medium, metrics.ap_large) == pytest.approx((1, 0, 1))
        metrics = coco_metrics([sample(large, areas=[900])], [detections(large)], ["cat"])  # a thin thing in a large box
        assert metrics.ap_small == pytest.approx(1)
        assert math.isnan(metrics.ap_large)

    def test_only_the_best_hundred_of_an_image_count(self):
        wrong = [(300, 300, 310, 310)] * 100
        assert coco_metrics([sample(BOX)], [detections(*wrong[:99], BOX)], ["cat"]).ap == pytest.approx(0.01)  # 1 of 100
        assert coco_metrics([sample(BOX)], [detections(*wrong, BOX)], ["cat"]).ap == 0

    def test_nothing_found(self):
        metrics = coco_metrics([sample(BOX), sample()], [Detections.empty()] * 2, ["cat", "dog"])
        assert (metrics.ap, metrics.ap50, metrics.ap75) == (0, 0, 0)
        assert metrics.per_class["cat"] == (0, 0)
        assert metrics.pr_curves["cat"][1].tolist() == [0] * 101

    @pytest.mark.parametrize("samples", [[], [sample()], [sample(BOX, crowd=[True])]])
    def test_nothing_to_find(self, samples):
        assert math.isnan(coco_metrics(samples, [detections(BOX)] * len(samples), ["cat"]).ap)

    def test_curve_falls_with_the_false_detections(self):
        recall, precision = coco_metrics([sample(BOX, AWAY)], [detections(BOX, (0, 200, 50, 250), AWAY)], ["cat"]).pr_curves["cat"]
        np.testing.assert_allclose(recall, np.arange(101) / 100)
        np.testing.assert_allclose(precision, [1] * 51 + [2 / 3] * 50)  # true, false, true

    def test_other_number_of_detections(self):
        with pytest.raises(ValueError, match="got 2 samples and 1 detections"):
            coco_metrics([sample(BOX)] * 2, [detections(BOX)], ["cat"])

    def test_nothing_is_printed(self, capsys):
        coco_metrics([sample(BOX)], [detections(BOX)], ["cat"])
        assert capsys.readouterr() == ("", "")


def random_boxes(rng, count):
    corner, side = rng.uniform(0, 250, (count, 2)), rng.uniform(5, 150, (count, 2))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def random_scene(rng):
    """Return a sample of random objects, and detections that are some of them moved, and some others."""
    boxes, classes = random_boxes(rng, int(rng.integers(0, 8))), None
    classes = rng.integers(0, 3, len(boxes))
    truth = sample(*boxes, classes=classes.tolist(), crowd=(rng.random(len(boxes)) < 0.15).tolist())
    kept = rng.random(len(boxes)) < 0.8
    others = random_boxes(rng, 3)
    moved = boxes[kept] + rng.normal(0, 6, (int(kept.sum()), 4)).astype(np.float32)
    kinds = [*classes[kept].tolist(), *rng.integers(0, 3, 3).tolist()]
    scores = np.sort(rng.random(len(kinds)))[::-1]
    return truth, detections(*moved, *others, scores=scores, classes=kinds)


def test_same_as_pycocotools_on_files(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(3)
    samples, found = zip(*(random_scene(rng) for _ in range(40)), strict=True)

    def xywh(box):
        return [float(box[0]), float(box[1]), float(box[2]) - float(box[0]), float(box[3]) - float(box[1])]

    truth = [
        {"id": 1000 * i + j, "image_id": i, "category_id": int(s.classes[j]) + 5, "bbox": xywh(s.boxes[j]), "area": float(s.areas[j]),
         "iscrowd": int(s.crowd[j])}
        for i, s in enumerate(samples, start=1) for j in range(len(s.boxes))
    ]  # fmt: skip
    results = [
        {"image_id": i, "category_id": int(d.classes[j]) + 5, "bbox": xywh(d.xyxy[j]), "score": float(d.scores[j])}
        for i, d in enumerate(found, start=1) for j in range(len(d))
    ]  # fmt: skip
    images = [{"id": i, "width": 400, "height": 400} for i in range(1, 41)]
    categories = [{"id": number, "name": str(number)} for number in (5, 6, 7)]
    (tmp_path / "truth.json").write_text(json.dumps({"info": {}, "images": images, "annotations": truth, "categories": categories}))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(reference, reference.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = coco_metrics(samples, found, ["five", "six", "seven"])
    ours = [metrics.ap, metrics.ap50, metrics.ap75, metrics.ap_small, metrics.ap_medium, metrics.ap_large]
    np.testing.assert_allclose(ours, evaluation.stats[:6], rtol=1e-12)
    assert 0.1 < metrics.ap < 0.9  # neither all hit nor all missed
    for index, name in enumerate(("five", "six", "seven")):
        np.testing.assert_allclose(metrics.per_class[name][0], evaluation.eval["precision"][:, :, index, 0, 2].mean(), rtol=1e-12)


class CornerEngine:
    """Says that the object is where the grey of the letterbox is not: measures what of the input the image takes."""

    name = backend = "corners"
    max_batch = 2

    def __init__(self):
        self.calls = []

    def infer(self, images):
        self.calls.append(images.shape)
        return Inference([self._content(image) for image in images], {})

    @staticmethod
    def _content(image):
        rows, columns = np.nonzero((image != 114).any(axis=2))
        return detections((0, 0, columns.max() + 1, rows.max() + 1))


def test_engine_is_fed_letterboxed_batches_and_boxes_come_back_in_frame_pixels(tmp_path):
    from PIL import Image

    samples = []
    for width, height in ((200, 100), (50, 100), (64, 64)):  # input 64x64: content 64x32, 32x64, 64x64
        path = tmp_path / f"{width}.png"
        Image.new("RGB", (width, height), (255, 0, 0)).save(path)
        samples.append(sample((0, 0, width, height), path=path, height=height, width=width))
    card = ModelCard(
        ("cat",), InputSpec(64, 64, (0.0,) * 3, (1.0,) * 3), AnchorSpec((8,), (32.0,), (1.0,), (1.0,)), NetworkSpec("none", 1, 1, 0, "none")
    )
    engine = CornerEngine()
    metrics, found = measure_accuracy(engine, card, samples, card.classes, "test")
    assert engine.calls == [(2, 64, 64, 3), (1, 64, 64, 3)]
    np.testing.assert_allclose([d.xyxy[0] for d in found], [(0, 0, 200, 100), (0, 0, 50, 100), (0, 0, 64, 64)])
    assert metrics.ap == pytest.approx(1)
