"""The file by which training and export know the same quantization: round trip, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.quantization_plan import Addition, Convolution, QuantizationPlan, SharedRange, read_plan, write_plan

PLAN = QuantizationPlan(
    "ab" * 32, 0.5, (Convolution("first", "x"), Convolution("squeeze", None), Convolution("last", "both")), (Addition(2, 0, 1, "skip"),),
    (SharedRange(("x",), 0.1), SharedRange(("both", "skip"), 1e-30)),
)  # fmt: skip


def test_a_plan_survives_the_file_to_the_last_bit(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", PLAN)
    assert read_plan(tmp_path / "plan.json", "make it") == PLAN
    assert PLAN.reaches == {"x": 0.1, "both": 1e-30, "skip": 1e-30}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[:40], r"must be a whole quantization plan \(.*\): make it"),
        (lambda text: text.replace('"side": 1', '"side": "1"'), r"additions\[0\].side must be int, got '1'"),
        (lambda text: text.replace('"reach": 0.1', '"reach": NaN'), r"ranges\[0\].reach must be finite"),
        (lambda text: text.replace('"reach": 0.1', '"reach": 0.0'), "ranges must reach beyond 0"),
        (lambda text: json.dumps({**json.loads(text), "ranges": []}), "each INT8 tensor needs one range"),
        (lambda text: text.replace('"fp32_ap": 0.5,', ""), r"lacks \['fp32_ap'\]"),
    ],
)
def test_a_broken_file_is_one_line_with_the_remedy(tmp_path: Path, change: object, expected: str) -> None:
    path = tmp_path / "plan.json"
    write_plan(path, PLAN)
    path.write_text(change(path.read_text()))
    with pytest.raises(ModelFolderError, match=expected) as raised:
        read_plan(path, "make it")
    assert str(raised.value).endswith("make it")
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"plan\.json does not exist: make it"):
        read_plan(tmp_path / "plan.json", "make it")


def test_a_tensor_with_two_ranges_is_refused() -> None:
    with pytest.raises(ModelFolderError, match="twice"):
        dataclasses.replace(PLAN, ranges=(*PLAN.ranges, SharedRange(("x",), 2.0)))
