"""AP against cases worked out by hand, and against pycocotools on files."""

import contextlib
import dataclasses
import io
import json
import math

import numpy as np
import pytest

from retinanet_edge.runtime.coco import CocoFigures, coco_metrics, measure_accuracy
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.engine import Inference
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, ModelCard, NetworkSpec
from tests.found_boxes import detections, random_scene, sample

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
        assert (metrics.per_class["cat"].ap, metrics.per_class["cat"].ap50) == pytest.approx((1, 1))
        assert all(math.isnan(value) for value in dataclasses.astuple(metrics.per_class["dog"]))
        assert list(metrics.pr_curves) == ["cat"]

    def test_classes_are_averaged(self):
        metrics = coco_metrics([sample(BOX, AWAY, classes=[0, 1])], [detections((0, 0, 100, 62), AWAY, classes=[0, 1])], ["cat", "dog"])
        assert {name: (found.ap, found.ap50, found.ar100) for name, found in metrics.per_class.items()} == {
            "cat": pytest.approx((0.3, 1, 0.3)), "dog": pytest.approx((1, 1, 1)),
        }  # fmt: skip
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
        assert (metrics.ar1, metrics.ar10, metrics.ar100) == (0, 0, 0)
        assert metrics.per_class["cat"].ap == 0
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


NAMES = ("zero", "one", "two", "absent")  # category ids 0 to 3: that 0 counts is what KerasCV's callback gets wrong


def written_and_evaluated(samples, found, folder):
    """Return pycocotools' own summary of files, with the category ids that the classes are."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box):
        return [float(box[0]), float(box[1]), float(box[2]) - float(box[0]), float(box[3]) - float(box[1])]

    truth = [
        {"id": 1000 * i + j + 1, "image_id": i, "category_id": int(s.classes[j]), "bbox": xywh(s.boxes[j]), "area": float(s.areas[j]),
         "iscrowd": int(s.crowd[j])}
        for i, s in enumerate(samples) for j in range(len(s.boxes))
    ]  # fmt: skip
    results = [
        {"image_id": i, "category_id": int(d.classes[j]), "bbox": xywh(d.xyxy[j]), "score": float(d.scores[j])}
        for i, d in enumerate(found) for j in range(len(d))
    ]  # fmt: skip
    images = [{"id": i, "width": 400, "height": 400} for i in range(len(samples))]
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    (folder / "truth.json").write_text(json.dumps({"info": {}, "images": images, "annotations": truth, "categories": categories}))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(reference, reference.loadRes(str(folder / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.fixture
def scenes():
    rng = np.random.default_rng(3)
    row = [(30 * i, 0, 30 * i + 20, 20) for i in range(12)]
    crowded = sample(*row), detections(*row)  # tells AR10 from AR100
    samples, found = zip(crowded, *(random_scene(rng) for _ in range(40)), strict=True)
    assert sum(int(s.crowd.sum()) for s in samples) > 5
    return samples, found


def figures(found):
    """The twelve in pycocotools' order, nan as its -1."""
    of_one = [getattr(found, field.name) for field in dataclasses.fields(CocoFigures)]
    return np.nan_to_num(of_one, nan=-1)


class TestAgainstPycocotools:
    def test_all_twelve_figures(self, scenes, tmp_path):
        metrics = coco_metrics(*scenes, NAMES)
        np.testing.assert_allclose(figures(metrics), written_and_evaluated(*scenes, tmp_path).stats, rtol=1e-12)
        assert 0.1 < metrics.ap < 0.9  # neither all hit nor all missed
        assert len(set(figures(metrics))) == 12

    def test_those_of_each_class_are_those_of_an_evaluation_of_it_alone(self, scenes, tmp_path):
        per_class = coco_metrics(*scenes, NAMES).per_class
        evaluation = written_and_evaluated(*scenes, tmp_path)
        for index, name in enumerate(NAMES):
            evaluation.params.catIds = [index]
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
            np.testing.assert_allclose(figures(per_class[name]), evaluation.stats, rtol=1e-12)
        assert (figures(per_class["absent"]) == -1).all()
        assert (figures(per_class["zero"]) > 0).all()

    def test_class_0_counts(self, scenes):
        samples, found = scenes
        without = [d[d.classes != 0] for d in found]
        changed = coco_metrics(samples, without, NAMES)
        assert figures(changed.per_class["zero"]).tolist() == [0] * 12
        assert changed.ap < coco_metrics(samples, found, NAMES).ap


class TestRecallByHand:
    def test_at_most_one_detection_of_a_class_an_image(self):
        metrics = coco_metrics([sample(BOX, AWAY)], [detections(BOX, AWAY)], ["cat"])
        assert (metrics.ar1, metrics.ar10, metrics.ar100) == pytest.approx((1 / 2, 1, 1))

    def test_the_eleventh_detection_is_beyond_ar10(self):
        wrong = [(300, 300, 310, 310)] * 10
        metrics = coco_metrics([sample(BOX)], [detections(*wrong, BOX)], ["cat"])
        assert (metrics.ar1, metrics.ar10, metrics.ar100) == pytest.approx((0, 0, 1))

    def test_is_averaged_over_iou(self):
        assert coco_metrics([sample(BOX)], [detections((0, 0, 100, 62))], ["cat"]).ar100 == pytest.approx(0.3)  # IoU 0.62: 3 of 10

    def test_sizes_go_by_the_stated_area(self):
        small, large = (0, 0, 31, 31), (200, 200, 300, 300)
        metrics = coco_metrics([sample(small, large)], [detections(large)], ["cat"])
        assert (metrics.ar_small, metrics.ar_large) == (0, pytest.approx(1))
        assert math.isnan(metrics.ar_medium)


class CornerEngine:
    """Says that the object is where the grey of the letterbox is not: measures what of the input the image takes."""

    name = backend = "corners"
    max_batch = 2
    frame_size = None

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


def test_an_engine_for_whole_frames_is_fed_at_their_size(tmp_path):
    from PIL import Image

    path = tmp_path / "image.png"
    Image.new("RGB", (200, 100), (255, 0, 0)).save(path)
    card = ModelCard(
        ("cat",), InputSpec(64, 64, (0.0,) * 3, (1.0,) * 3), AnchorSpec((8,), (32.0,), (1.0,), (1.0,)), NetworkSpec("none", 1, 1, 0, "none")
    )
    engine = CornerEngine()
    engine.frame_size = (50, 100)
    _, found = measure_accuracy(engine, card, [sample((0, 0, 200, 100), path=path, height=100, width=200)], card.classes, "test")
    assert engine.calls == [(1, 50, 100, 3)]
    np.testing.assert_allclose(found[0].xyxy, [(0, 0, 200, 100)])
