"""benchmarks/int8_table.py: its lines are what build_engine.py measures, of every precision, on the splits that are asked for."""

from __future__ import annotations

import csv
import shutil

import pytest

from retinanet_edge.export.build import Int8Options
from retinanet_edge.export.int8 import make_int8
from retinanet_edge.runtime.model_folder import read_card
from tests.conftest import Commands, Project


def test_the_table_holds_what_the_engine_build_measures(project: Project) -> None:
    data = project.folder / "data" / "squares"
    made = make_int8(project.model, read_card(project.model), Int8Options(data, None, 3, "minmax", 0, 1.0, False, True))
    shutil.copytree(project.model, project.model.with_name(f"{project.model.name}-qat"))  # any INT8 model: that of minmax
    said = Commands(project.folder).must(
        "benchmarks/int8_table.py", "--model", project.model, "--data", data, "--images", 3, "--rounds", 1, "--calls", 1,
        "--splits", "train", "val", "test", "--out", "table.csv",
    ).out  # fmt: skip
    with (project.folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["FP32", "FP16", "INT8 percentile", "INT8 minmax", "INT8 entropy", "INT8 mse", "INT8 after --qat"]
    assert [(row["split"], row["images"], row["precision"]) for row in rows] == [
        *(("train", "32", name) for name in names), *(("val", "8", name) for name in names),
    ]  # fmt: skip
    found = {row["precision"]: row for row in rows if row["split"] == "val"}
    verdict = made.verdict
    assert verdict is not None
    assert verdict.interval is not None
    for name in ("INT8 minmax", "INT8 after --qat"):
        measured = [-float(found[name][column]) / 100 for column in ("points", "points_high", "points_low")]
        assert measured == pytest.approx([verdict.ap_drop, verdict.interval.low, verdict.interval.high], abs=1e-6)
    assert float(found["FP16"]["ap"]) == pytest.approx(float(found["FP32"]["ap"]), abs=0.02)
    assert found["FP16"]["frames_per_second"] == ""
    assert float(found["FP32"]["times_fp32"]) == 1
    assert float(found["INT8 mse"]["frames_per_second"]) > 0
    assert "| val, 8 | INT8 minmax |" in said
