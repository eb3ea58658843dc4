"""The evaluate command as a person types it, on a tiny model whose detections are the truth."""

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.detector import Detector
from retinanet_edge.runtime.model_card import Accuracy, DatasetRecord
from retinanet_edge.runtime.model_folder import CARD_FILE, ONNX_FILE, file_sha256, locked, read_card, write_card

tiny = runpy.run_path(str(Path(__file__).with_name("tiny_model.py")))
HEIGHT, WIDTH, CLASSES = tiny["HEIGHT"], tiny["WIDTH"], tiny["CLASSES"]


@pytest.fixture
def folder(tmp_path):
    return tiny["write_model"](tmp_path / "model")


@pytest.fixture
def data(tmp_path, folder):
    """Noise labelled with what the FP32 model itself finds on it: its AP is 1. No test split."""
    with Detector(folder, "fp32", threshold=0) as detector:
        for split, seeds in (("train", range(2)), ("val", range(2, 6))):
            write_split(tmp_path / "data", split, seeds, detector)
    record = DatasetRecord("coco", "../data", read_dataset(tmp_path / "data").sha256, "the data's own", 2, 4, 0)
    write_card(folder, dataclasses.replace(read_card(folder), dataset=record))
    return tmp_path / "data"


def write_split(root, split, seeds, detector):
    truth = {"images": [], "annotations": [], "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)]}
    (root / "images").mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        bgr = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(bgr[:, :, ::-1]).save(root / "images" / f"{seed}.png")
        truth["images"].append({"id": seed, "file_name": f"{seed}.png", "width": WIDTH, "height": HEIGHT})
        found = detector(bgr)
        for box, kind in zip(found.xyxy.tolist(), found.classes.tolist(), strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            truth["annotations"].append({"id": len(truth["annotations"]), "image_id": seed, "category_id": kind, "bbox": bbox})
    assert len(truth["annotations"]) >= 4
    (root / f"{split}.json").write_text(json.dumps(truth))


def rewrite(file, change):
    truth = json.loads(file.read_text())
    change(truth)
    file.write_text(json.dumps(truth))


def test_figures_are_printed_and_kept_in_the_card(run, folder, data):
    done = run.must("runtime/evaluate.py", "--model", folder, "--engine", "fp32")
    assert "all classes  1.000  1.000  1.000  1.000" in done.out  # AP, AP50, AP75, AR100
    assert "AP by object size: small 1.000, medium -, large -" in done.out
    assert "AR by object size: small 1.000, medium -, large -" in done.out
    assert "AR by detections of a class an image: 1 " in done.out
    assert all(f"{name} " in done.out for name in CLASSES)
    assert f"val split of {data}, 4 images" in done.out
    (kept,) = read_card(folder).accuracy
    assert kept == Accuracy(
        "fp32", "OpenVINO", "val", 4, pytest.approx(1), pytest.approx(1), pytest.approx(1), file_sha256(folder / ONNX_FILE)
    )


def test_the_report_is_one_page_of_the_split(run, folder, data):
    done = run.must("runtime/evaluate.py", "--model", folder, "--engine", "fp32", "--split", "train", "--report", "--threshold", "0.4")
    page = folder / "report" / "evaluation-train.html"
    assert f"wrote {page}" in done.out
    text = page.read_text()
    assert f"model.onnx on OpenVINO, FP32, on the train split of {data}: 2 images" in text
    assert "Errors at score 0.400 and more" in text
    assert all(name in text for name in CLASSES)
    assert text.count("data:image/jpeg") == 2
    assert [path.name for path in page.parent.iterdir()] == [page.name]


@pytest.mark.usefixtures("data")
def test_without_asking_there_is_no_page(run, folder):
    run.must("runtime/evaluate.py", "--model", folder, "--engine", "fp32")
    assert not (folder / "report").exists()


@pytest.mark.parametrize("threshold", ["1.1", "-1", "nan", "much"])
def test_a_threshold_is_a_score(run, folder, threshold):
    done = run("runtime/evaluate.py", "--model", folder, "--report", f"--threshold={threshold}")
    assert done.code == 2
    assert f"argument --threshold: must be a number, at least 0 and at most 1, got {threshold}" in done.err


@pytest.mark.usefixtures("data")
def test_engine_and_split_are_those_asked_for(run, folder):
    run.must("runtime/evaluate.py", "--model", folder, "--engine", "fp32", "--split", "train")
    done = run.must("runtime/evaluate.py", "--model", folder, "--engine", "int8")  # other weights: other detections
    assert "1.000  1.000  1.000" not in done.out
    kept = {(a.precision, a.split): a.ap for a in read_card(folder).accuracy}
    assert set(kept) == {("fp32", "train"), ("int8", "val")}
    assert kept["fp32", "train"] == pytest.approx(1)
    assert kept["int8", "val"] < 0.9


def test_other_data_are_measured_but_not_recorded(run, folder, data):
    rewrite(data / "val.json", lambda truth: truth["annotations"].pop())
    done = run.must("runtime/evaluate.py", "--model", folder, "--engine", "fp32", "--data", data)
    assert "not recorded in card.json: the model was trained on other data" in done.out
    assert read_card(folder).accuracy == ()


@pytest.mark.usefixtures("data")
def test_card_that_another_command_holds_is_left_alone(run, folder):
    with locked(folder):
        done = run.must("runtime/evaluate.py", "--model", folder, "--engine", "fp32")
    assert "all classes  1.000" in done.out
    assert "another command is writing" in done.err
    assert read_card(folder).accuracy == ()


def refused(run, folder, *arguments):
    before = (folder / CARD_FILE).read_bytes()
    done = run("runtime/evaluate.py", "--model", folder, "--engine", "fp32", *arguments)
    assert done.code == 2, done
    assert (done.out, done.err.count("\n")) == ("", 1)
    assert (folder / CARD_FILE).read_bytes() == before
    return done.err


@pytest.mark.parametrize(("categories", "difference"), [
    (("round", "square", "star", "moon"), "got 4 (also moon)"),
    (("round", "square", "moon"), "got 3 (without star, also moon)"),
    (("square", "round", "star"), "got 3 (the same in another order)"),
])  # fmt: skip
def test_other_classes_are_named(run, folder, data, categories, difference):
    for file in (data / "train.json", data / "val.json"):
        rewrite(file, lambda truth: truth.update(categories=[{"id": i, "name": name} for i, name in enumerate(categories)]))
    message = refused(run, folder)
    assert "must have the 3 classes of the model" in message
    assert difference in message


def test_data_that_are_gone(run, folder, data):
    data.rename(data.with_name("elsewhere"))
    assert "--data PATH" in refused(run, folder)


def test_data_that_are_broken(run, folder, data):
    (data / "images" / "3.png").write_bytes(b"")
    assert "3.png must hold an image, got an empty file" in refused(run, folder)


@pytest.mark.usefixtures("data")
def test_split_that_the_data_lack(run, folder):
    assert "must have objects in its test split" in refused(run, folder, "--split", "test")


def test_model_that_is_not_there(run, tmp_path):
    done = run("runtime/evaluate.py", "--model", tmp_path / "nowhere")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "training/train.py" in done.err


def test_help_needs_no_heavy_library(run, tmp_path):
    for name in ("cv2", "openvino", "onnx", "torch", "pycocotools", "PIL"):
        (tmp_path / "poison").mkdir(exist_ok=True)
        (tmp_path / "poison" / f"{name}.py").write_text("raise SystemExit('imported')")
    done = run("runtime/evaluate.py", "-h", PYTHONPATH=str(tmp_path / "poison"))
    assert done.code == 0
    assert "--split" in done.out
