"""From a labelled folder to boxes on a video, with the commands as they are written down: generated squares, then real data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.boxes import iou
from retinanet_edge.runtime.dataset import read_dataset, read_image
from retinanet_edge.runtime.model_card import ModelCard
from retinanet_edge.runtime.model_folder import read_card
from tests import squares
from tests.conftest import SMALL_NETWORK, Commands, Project

ZOOM = 2  # the video's frames are the validation images so many times larger


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()


def ap(card: ModelCard, precision: str) -> float:
    [found] = [record.ap for record in card.accuracy if (record.precision, record.split) == (precision, "val")]
    return found


def test_each_command_takes_what_the_former_one_left(finished_project: Project) -> None:
    latest = finished_project.folder / "models" / "latest"
    assert latest.is_symlink()
    assert re.fullmatch(r"squares-\d{8}-\d{6}", finished_project.model.name)
    made = {path.name for path in finished_project.model.iterdir() if not path.name.startswith(".")}
    assert made == {
        "card.json", "weights.safetensors", "last.safetensors", "model.onnx", "model.int8.onnx", "quantization.json", "report", "events"
    }  # fmt: skip
    said = finished_project.said
    assert "run python export/export_onnx.py" in said["training/train.py"]
    assert "run python export/build_engine.py --int8" in said["export/export_onnx.py"]
    assert "verdict: passed" in said["export/build_engine.py"]
    card = read_card(finished_project.model)
    assert card.classes == squares.CLASSES
    assert ap(card, "int8") > 0.5


def test_a_video_becomes_boxes_where_the_squares_are(project: Project) -> None:
    samples = read_dataset(project.folder / "data" / "squares").val
    write_video(project.folder / "drive.mp4", [cv2.resize(read_image(sample), None, fx=ZOOM, fy=ZOOM) for sample in samples])
    commands = Commands(project.folder)
    done = commands.must("runtime/stream.py", "--camera", "drive.mp4", "--no-window", "--video", "out.mp4", "--jsonl", "out.jsonl")
    assert "model.int8.onnx on OpenVINO" in done.err
    assert count_frames(project.folder / "out.mp4") == len(samples)
    lines = read_lines(project.folder / "out.jsonl")
    assert [line["frame"] for line in lines] == list(range(len(samples)))
    found = 0
    for line, sample in zip(lines, samples, strict=True):
        boxes = np.array([thing["xyxy"] for thing in line["detections"]], np.float32).reshape(-1, 4)
        assert (boxes >= 0).all()
        assert (boxes <= ZOOM * squares.SIDE).all()
        assert all(thing["score"] >= 0.5 for thing in line["detections"])
        classes = np.array([squares.CLASSES.index(thing["class"]) for thing in line["detections"]], np.int64)
        matches = (iou(sample.boxes * ZOOM, boxes) > 0.5) & (sample.classes[:, None] == classes)
        found += int(matches.any(axis=1).sum())
    assert found >= 12  # of 16: the video is lossy, the network small


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_evaluating_gives_the_aps_of_the_card(precision: str, project: Project) -> None:
    before = read_card(project.model)
    done = Commands(project.folder).must("runtime/evaluate.py", "--engine", precision)
    assert f"all classes  {ap(before, precision):.3f}" in done.out
    assert "recorded in" in done.out
    after = read_card(project.model)
    assert ap(after, precision) == ap(before, precision)
    assert len(after.accuracy) == len(before.accuracy)


def test_speed_and_report_come_from_the_same_folder(project: Project) -> None:
    commands, report = Commands(project.folder), project.model / "report"
    done = commands.must("runtime/benchmark.py", "--frames", 5, "--warmup", 1, "--csv", report / "benchmark.csv")
    assert "model.int8.onnx" in done.out
    done = commands.must("runtime/report.py")
    assert str(report / "index.html") in done.out
    page = (report / "index.html").read_text()
    assert f"{ap(read_card(project.model), 'int8'):.3f}" in page
    assert all(name in page for name in squares.CLASSES)


def whole_way(commands: Commands, data: Path, *network: object) -> tuple[str, ModelCard]:
    """Train one epoch, export, quantize; return what training said and the card."""
    trained = commands.must("training/train.py", "--data", data, "--epochs", 1, *SMALL_NETWORK, *network)
    commands.must("export/export_onnx.py")
    commands.must("export/build_engine.py", "--int8", "--images", 8, "--max-ap-drop", 100)
    return trained.out, read_card(commands.folder / "models" / "latest")


def stream_twenty_frames(commands: Commands, video: Path) -> None:
    outputs = ("--video", "out.mp4", "--jsonl", "out.jsonl")
    commands.must("runtime/stream.py", "--camera", video, "--no-window", "--frames", 20, "--threshold", 0.01, *outputs)
    assert count_frames(commands.folder / "out.mp4") == 20
    assert len(read_lines(commands.folder / "out.jsonl")) == 20


def test_pascal_voc_blood_cells(real_data: Path, run: Commands) -> None:
    said, card = whole_way(run, real_data / "bccd", "--input", "64x96")
    assert "boxes without area left out: 2" in said
    assert card.dataset is not None
    assert (card.dataset.format, card.dataset.split) == ("voc", "the data's own")
    assert (card.dataset.train_images, card.dataset.val_images, card.dataset.test_images) == (205, 87, 72)
    assert card.classes == ("Platelets", "RBC", "WBC")
    assert (card.input.height, card.input.width) == (64, 96)
    assert [record.images for record in card.accuracy] == [87, 87]
    stream_twenty_frames(run, real_data / "videos" / "solidWhiteRight.mp4")


def test_coco_photographs_with_crowds_and_without_a_split(real_data: Path, run: Commands) -> None:
    said, card = whole_way(run, real_data / "coco_cc_free")
    assert "80 classes" in said
    assert "7 classes have none" in said
    assert card.dataset is not None
    assert "80/20" in card.dataset.split
    assert card.dataset.train_images + card.dataset.val_images == 125
    assert (len(card.classes), card.classes[0], card.classes[-1]) == (80, "person", "toothbrush")
    stream_twenty_frames(run, real_data / "videos" / "one-by-one-person-detection.mp4")
