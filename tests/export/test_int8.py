"""export/int8.py where there is nothing to measure INT8 on: no verdict, and no model, unless it is forced."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from retinanet_edge.export.build import Int8Options
from retinanet_edge.export.int8 import make_int8
from retinanet_edge.runtime.errors import DatasetError
from retinanet_edge.runtime.model_card import CalibrationMethod
from retinanet_edge.runtime.model_folder import file_sha256, read_card
from tests import squares
from tests.conftest import Commands, Project


@pytest.fixture
def unlabelled(project: Project) -> Path:
    """Data whose validation images have no boxes."""
    folder = project.folder / "unlabelled"
    squares.write_dataset(folder, train=4, val=3)
    labels = folder / "annotations" / "instances_val.json"
    labels.write_text(json.dumps({**json.loads(labels.read_text()), "annotations": []}))
    return folder


def options(data: Path, method: CalibrationMethod = "percentile", *, force: bool = False) -> Int8Options:
    return Int8Options(data, None, 4, method, 0, 0.005, force, recalibrate=True)  # type: ignore[arg-type]


def test_without_objects_to_find_there_is_no_verdict_and_no_new_model(project: Project, unlabelled: Path) -> None:
    before = file_sha256(project.model / "model.int8.onnx")
    done = Commands(project.folder)("export/build_engine.py", "--int8", "--data", unlabelled)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert f"{unlabelled} must have at least one object on its validation images for a verdict on INT8, got 3 images without any" in line
    assert "--force" in line
    assert "calibrating" not in done.out  # said before the long part
    assert file_sha256(project.model / "model.int8.onnx") == before
    with pytest.raises(DatasetError, match="for a verdict on INT8"):
        make_int8(project.model, read_card(project.model), options(unlabelled))


def test_forced_it_stays_unmeasured(project: Project, unlabelled: Path) -> None:
    before = read_card(project.model)
    card = make_int8(project.model, before, options(unlabelled, force=True))
    assert card.int8 is not None
    assert card.int8.sha256 == file_sha256(project.model / "model.int8.onnx")
    assert card.int8.calibration.images == 4
    assert card.verdict is not None
    assert (card.verdict.passed, card.verdict.forced, card.verdict.ap_drop) == (False, True, None)
    assert [found.precision for found in before.accuracy] == ["fp32", "int8"]
    assert [found.precision for found in card.accuracy] == ["fp32"]  # INT8's was of the former model


def test_what_was_forced_unmeasured_stays_so(project: Project, unlabelled: Path) -> None:
    build = Commands(project.folder)
    said = build.must("export/build_engine.py", "--int8", "--data", unlabelled, "--images", 2, "--force").out
    assert "verdict: accepted by --force, INT8 is unmeasured" in said
    again = build.must("export/build_engine.py", "--int8").out
    assert "reused" in again
    assert "verdict: accepted by --force, INT8 is unmeasured" in again


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_each_method_finds_the_squares_and_is_in_the_card(project: Project, method: CalibrationMethod) -> None:
    card = read_card(project.model)
    made = make_int8(project.model, card, options(project.folder / "data" / "squares", method))
    assert made.int8 is not None
    assert made.verdict is not None
    assert made.int8.calibration.method == method
    assert abs(made.verdict.ap_drop) < 0.05
    again = make_int8(project.model, card, options(project.folder / "data" / "squares", method))
    assert again.int8 == made.int8  # to the bit: the hash of the file is in it
    assert onnx.load(project.model / "model.int8.onnx").opset_import[0].version == 17
