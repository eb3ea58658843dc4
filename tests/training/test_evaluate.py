"""The evaluate command of the PyTorch weights, run in the test's process: a new one would spend seconds on loading torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retinanet_edge.runtime.boxes import iou
from retinanet_edge.runtime.coco import coco_metrics
from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.model_folder import read_card
from retinanet_edge.training import evaluate
from retinanet_edge.training.anchor_coverage import AnchorCoverage
from retinanet_edge.training.checkpoint import load_network
from retinanet_edge.training.predict import detect_samples
from retinanet_edge.training.weights_accuracy import describe_coverage
from tests import squares
from tests.conftest import SMALL_NETWORK, Finished
from tests.training.conftest import TrainCommand, contents, run_in_process

Evaluate = Callable[..., Finished]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images that a very small network learns something. Not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    squares.write_dataset(folder, train=32, val=8)
    return folder


@pytest.fixture(scope="module")
def trained_model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that finds most of the squares. Not to be changed: `trained` gives a copy."""
    command = TrainCommand(tmp_path_factory.mktemp("trained"))
    done = command("--data", data, "--model", "model", *SMALL_NETWORK, *squares.TRAINING)
    assert done.code == 0, done.err
    return command.folder / "model"


@pytest.fixture
def evaluate_command(trained: Path) -> Evaluate:
    """The command on a copy of the trained model."""

    def call(*arguments: object) -> Finished:
        return run_in_process(evaluate.main, trained.parent, "evaluate.py", "--model", trained, "--device", "cpu", *arguments)

    return call


def best_epoch(folder: Path) -> int:
    training = read_card(folder).training
    assert training
    return training.best_epoch


def test_the_table_is_that_of_the_folders_weights(evaluate_command: Evaluate, trained: Path, data: Path) -> None:
    done = evaluate_command("--data", data, "--batch", 3)
    assert done.code == 0, done.err
    card, samples = read_card(trained), read_dataset(data).val
    found = detect_samples(load_network(trained, card), samples, card.input, card.nms, 4, lambda: None)
    metrics = coco_metrics(samples, found, card.classes)
    values = (metrics.ap, metrics.ap50, metrics.ap75, metrics.ar100)
    assert f"all classes  {'  '.join(f'{value:.3f}' for value in values)}\n" in done.out
    assert f"PyTorch weights of epoch {best_epoch(trained)}, val split of {data}, 8 images" in done.out
    assert metrics.ap > 0.3


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_boxes_with_an_anchor_are_counted(evaluate_command: Evaluate, trained: Path, data: Path, threshold: float) -> None:
    done = evaluate_command("--data", data, "--foreground-iou", threshold)
    card = read_card(trained)
    centre_size = load_network(trained, card).anchors.numpy()
    anchors = np.concatenate([centre_size[:, :2] - centre_size[:, 2:] / 2, centre_size[:, :2] + centre_size[:, 2:] / 2], axis=1)
    # Images are as large as the input, and no anchor has two of the squares, which lie side by side.
    best = np.concatenate([iou(sample.boxes, anchors).max(axis=1) for sample in read_dataset(data).val])
    matched = int((best >= threshold).sum())
    assert f"boxes matched by an anchor of IoU {threshold:g} or more: {matched / 16:.1%} ({matched} of 16)" in done.out
    assert 0 < matched < 16 or threshold == 0.5


def test_by_default_an_anchor_is_an_object_s_from_the_iou_of_the_training(
    evaluate_command: Evaluate, trained: Path, data: Path
) -> None:
    card = json.loads((trained / "card.json").read_text())
    card["training"]["foreground_iou"] = 0.7
    (trained / "card.json").write_text(json.dumps(card))
    assert "boxes matched by an anchor of IoU 0.7 or more" in evaluate_command("--data", data).out


def test_the_page_says_the_same_and_the_rest_of_the_folder_stays(evaluate_command: Evaluate, trained: Path, data: Path) -> None:
    before = contents(trained)
    done = evaluate_command("--data", data, "--split", "train", "--threshold", 0.2)
    page = trained / "report" / "evaluation-train.html"
    assert f"wrote {page.resolve()}" in done.out
    text = page.read_text()
    share = re.search(r"or more: (\d+\.\d%)", done.out)
    assert share
    assert f"<b>{share[1]}</b><span>boxes with an anchor of IoU 0.5 or more</span>" in text
    assert f"PyTorch weights of epoch {best_epoch(trained)}, on the train split" in text
    assert "Errors at score 0.200 and more" in text
    after = contents(trained)
    assert after.pop("report/evaluation-train.html")
    assert after == before


def test_by_default_the_data_are_those_of_the_training(evaluate_command: Evaluate, trained: Path, data: Path) -> None:
    card = json.loads((trained / "card.json").read_text())
    card["dataset"]["path"] = str(data)
    (trained / "card.json").write_text(json.dumps(card))
    done = evaluate_command()
    assert done.code == 0, done.err
    assert f"val split of {data}" in done.out


@pytest.mark.parametrize(("arguments", "said"), [
    (("--split", "test"), "must have objects in its test split"),
    (("--device", "cuda:99"), "--device must be one that torch can use here"),
    (("--foreground-iou", 0), "argument --foreground-iou: must be a number, positive and at most 1, got 0"),
    (("--batch", 0), "argument --batch: must be a whole number of at least 1, got 0"),
    (("--data", "nowhere"), "nowhere"),
])  # fmt: skip
def test_what_is_refused_leaves_no_page(
    evaluate_command: Evaluate, trained: Path, data: Path, arguments: tuple[object, ...], said: str
) -> None:
    before = contents(trained)
    done = evaluate_command("--data", data, *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert contents(trained) == before


def test_other_classes_are_named(evaluate_command: Evaluate, tmp_path: Path) -> None:
    squares.write_dataset(tmp_path / "other", train=2, val=2)
    for file in (tmp_path / "other" / "annotations").iterdir():
        file.write_text(file.read_text().replace('"blue"', '"green"'))
    done = evaluate_command("--data", tmp_path / "other")
    assert done.code == 2
    assert "got 2 (without blue, also green)" in done.err


def test_weights_that_are_not_the_cards(evaluate_command: Evaluate, trained: Path, data: Path) -> None:
    (trained / "weights.safetensors").write_bytes(b"")
    done = evaluate_command("--data", data)
    assert done.code == 2
    assert "must have SHA-256" in done.err


def test_the_classes_with_the_least_are_named() -> None:
    line = describe_coverage(AnchorCoverage(0.5, (4, 0, 1, 2, 1), (4, 0, 2, 8, 3)), ["a", "none", "b", "c", "d"])
    assert line == "boxes matched by an anchor of IoU 0.5 or more: 47.1% (8 of 17); least: c 25.0%, d 33.3%, b 50.0%"
    assert describe_coverage(AnchorCoverage(0.5, (4,), (4,)), ["a"]).endswith("100.0% (4 of 4)")
