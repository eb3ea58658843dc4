import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from retinanet_edge.runtime.coco import CocoFigures, CocoMetrics
from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.training.figures import save_detection_sheet, save_loss_curve, save_pr_curve
from retinanet_edge.training.loop import EpochRecord

RECALL = np.linspace(0, 1, 101)


def colours(path: Path) -> int:
    """Return how many saturated hues, in steps of 10 degrees, a picture has: one or more for each line."""
    picture = cv2.imread(str(path))
    assert picture is not None
    hsv = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
    hues = hsv[..., 0][(hsv[..., 1] > 120) & (hsv[..., 2] > 60)]
    return int((np.bincount(hues // 5, minlength=36) > 20).sum())


def metrics(names: list[str]) -> CocoMetrics:
    curves = {name: (RECALL, np.clip(1.2 - RECALL * (i + 1) / len(names), 0, 1)) for i, name in enumerate(names)}
    rest = (0.5,) * 10
    per_class = {name: CocoFigures(0.5, float(curves[name][1].mean()), *rest) for name in names}
    per_class["absent"] = CocoFigures(*(math.nan,) * 12)
    return CocoMetrics(0.5, 0.6, *rest, images=4, ap50_by_size=(0.6, 0.6, 0.6), per_class=per_class, pr_curves=curves)


@pytest.mark.parametrize("history", [
    [EpochRecord(1, 1.5, 2.5, 1e-3, 1.0)],
    [EpochRecord(1, 1.5, 2.5, 1e-3, 1.0, 0.0, 0.0)],
    [EpochRecord(1, 1.5, 0.0, 1e-3, 1.0), EpochRecord(2, 0.5, 0.0, 1e-3, 1.0, 0.2, 0.4)],
], ids=["one epoch", "one evaluated", "no box ever matched"])  # fmt: skip
def test_a_loss_curve_shows_even_one_epoch(history: list[EpochRecord], tmp_path: Path) -> None:
    save_loss_curve(tmp_path / "loss.png", history)
    assert colours(tmp_path / "loss.png") >= 2


@pytest.mark.parametrize("names", [
    [], ["cat"], ["_hidden", "cat"], ["$5", "$10"], ["a$^$b"], ["猫", "кот"], [f"class {i}" for i in range(30)],
], ids=["none", "one", "underscore", "money", "formula", "scripts", "many"])  # fmt: skip
def test_a_pr_curve_has_a_line_for_each_class_whatever_its_name(names: list[str], tmp_path: Path) -> None:
    save_pr_curve(tmp_path / "pr.png", metrics(names))
    assert colours(tmp_path / "pr.png") >= min(len(names), 6)


def shown(samples: list[Sample], detections: list[Detections], folder: Path) -> NDArray[np.uint8]:
    save_detection_sheet(folder / "sheet.png", samples, detections, ["cat", "dog"])
    picture = cv2.imread(str(folder / "sheet.png"))
    assert picture is not None
    return picture


def grey_sample(path: Path, height: int, width: int) -> Sample:
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    none = np.zeros(0, np.float32)
    return Sample(path, height, width, none.reshape(0, 4), none.astype(np.int64), none.astype(np.bool_), none)


@pytest.mark.parametrize(("count", "size"), [(1, (320, 320)), (3, (320, 960)), (5, (640, 1280)), (40, (960, 1280))])
def test_a_sheet_holds_up_to_twelve_images_four_a_row(count: int, size: tuple[int, int], tmp_path: Path) -> None:
    samples = [grey_sample(tmp_path / f"{i}.png", 50, 50) for i in range(count)]
    assert shown(samples, [Detections.empty()] * count, tmp_path).shape[:2] == size


@pytest.mark.parametrize(("height", "width"), [(3, 2000), (2000, 3), (1, 1), (600, 800)])
def test_a_sheet_takes_images_of_any_shape(height: int, width: int, tmp_path: Path) -> None:
    picture = shown([grey_sample(tmp_path / "i.png", height, width)], [Detections.empty()], tmp_path)
    assert picture.shape[1] == 320
    assert 80 <= picture.shape[0] <= 640
    assert (picture[0, 0] == 90).all()


def test_a_sheet_shows_only_scores_from_0_4(tmp_path: Path) -> None:
    sample = grey_sample(tmp_path / "i.png", 320, 320)
    boxes = np.array([[20, 60, 100, 140], [200, 200, 300, 300]], np.float32)
    found = Detections(boxes, np.array([0.41, 0.39], np.float32), np.array([0, 1]))
    picture = shown([sample], [found], tmp_path)
    assert (picture[100, 18:22] != 90).any()  # the left edge of the first
    assert (picture[250, 198:202] == 90).all()
