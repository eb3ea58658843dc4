"""benchmarks/calibration_methods.py: its lines are what build_engine.py measures, and a second run adds to the file."""

import csv
from pathlib import Path

import pytest

from retinanet_edge.export.build import Int8Options
from retinanet_edge.export.int8 import make_int8
from retinanet_edge.runtime.model_folder import read_card
from tests.conftest import Commands, Project

COMMAND = "benchmarks/calibration_methods.py"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_what_the_engine_build_measures(project: Project) -> None:
    commands = Commands(project.folder)
    data = project.folder / "data" / "squares"
    common = ("--model", project.model, "--data", data, "--out", "table.csv")
    said = commands.must(COMMAND, *common, "--images", "3,99,200", "--methods", "minmax,mse", "--seeds", "1,2").out
    found = rows(project.folder / "table.csv")
    # Of 32 images 99 and 200 are all, in whatever order.
    assert [(row["method"], row["images"], row["seed"]) for row in found] == [
        ("minmax", "3", "1"), ("mse", "3", "1"), ("minmax", "3", "2"), ("mse", "3", "2"), ("minmax", "32", "1"), ("mse", "32", "1"),
    ]  # fmt: skip
    assert "FP32: AP" in said
    card = make_int8(project.model, read_card(project.model), Int8Options(data, None, 3, "minmax", 2, 1.0, False, True))
    assert card.verdict is not None
    assert float(found[2]["points"]) == pytest.approx(-100 * card.verdict.ap_drop, abs=1e-4)
    assert float(found[2]["ap"]) - float(found[2]["fp32_ap"]) == pytest.approx(-card.verdict.ap_drop, abs=2e-5)
    commands.must(COMMAND, *common, "--images", "2", "--methods", "entropy", "--seeds", "0")
    assert len(rows(project.folder / "table.csv")) == 7


def test_another_method_is_refused(run: Commands) -> None:
    done = run(COMMAND, "--methods", "minmax,kl")
    assert (done.code, "must be of minmax, percentile, entropy, mse, got minmax,kl" in done.err) == (2, True)
