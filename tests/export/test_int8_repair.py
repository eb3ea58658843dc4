"""benchmarks/int8_sensitivity.py and int8_repair.py: their lines, and that what they change leaves FP32 as it is."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from retinanet_edge.export.placement import find_placement, quantizable_layers
from retinanet_edge.export.quantize import insert_qdq
from tests.conftest import ROOT, Commands, Project

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def logits(model: onnx.ModelProto) -> NDArray[np.float32]:
    found: NDArray[np.float32] = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": IMAGE[None]})[0]
    return found


def test_the_sensitivity_table_has_every_layer(project: Project) -> None:
    data = project.folder / "data" / "squares"
    said = Commands(project.folder).must(
        "benchmarks/int8_sensitivity.py", "--model", project.model, "--data", data, "--bits", 3, "--out", "table.csv"
    ).out
    found = rows(project.folder / "table.csv")
    layers = quantizable_layers(onnx.load(project.model / "model.onnx").graph)
    assert tuple(row["layer"] for row in found) == layers
    proxies, lost = ([float(row[name]) for row in found] for name in ("proxy", "points_lost"))
    assert max(lost) > 0.5  # of 3 bits AP does take notice
    correlation = script("int8_sensitivity").rank_correlation(proxies, lost)
    assert correlation == pytest.approx(float(found[0]["rank_correlation"]), abs=0.02)  # rounded values may share a rank
    assert f"over {len(layers)} layers: " in said


def test_rank_correlation_by_hand() -> None:
    correlation = script("int8_sensitivity").rank_correlation
    assert correlation([1, 2, 30], [5, 6, 7]) == pytest.approx(1)
    assert correlation([1, 2, 30], [7, 6, 5]) == pytest.approx(-1)
    # Ranks 0, 1.5, 1.5, 3 and 0, 1, 2, 3: covariance 1.125, variances 1.125 and 1.25.
    assert correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(1.125 / np.sqrt(1.125 * 1.25))


def test_fewer_bits_make_coarser_steps_of_the_same_reach(project: Project) -> None:
    model = onnx.load(project.model / "model.onnx")
    placement = find_placement(model.graph)
    quantized = insert_qdq(model, placement, dict.fromkeys(placement.tensors, 1.27))
    script("int8_sensitivity").coarsen(quantized, 4)
    scales = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    assert scales[f"{placement.tensors[0]}/scale"] == pytest.approx(1.27 / 7)  # 4 bits: -7 to 7


def test_the_repair_table_has_every_repair_and_equalizing_undoes_a_spread(project: Project) -> None:
    data = project.folder / "data" / "squares"
    arguments = ("--model", project.model, "--data", data, "--images", 4, "--seeds", 1, "--spread", 4, "--out", "table.csv")
    said = Commands(project.folder).must("benchmarks/int8_repair.py", *arguments).out
    found = {row["repair"]: row for row in rows(project.folder / "table.csv")}
    assert list(found) == ["none", "bias", "equalized", "equalized, bias"]
    assert float(found["equalized"]["proxy"]) < 0.7 * float(found["none"]["proxy"])
    for row in found.values():
        assert float(row["points"]) == pytest.approx(100 * (float(row["ap"]) - float(row["fp32_ap"])), abs=1e-2)
    assert "FP32: AP" in said


def test_scaling_channels_leaves_fp32_as_it_is_and_bias_correction_brings_means_back(project: Project) -> None:
    repair, model = script("int8_repair"), onnx.load(project.model / "model.onnx")
    spread = repair.spread_channels(model, 2.0)
    assert spread != model
    np.testing.assert_allclose(logits(spread), logits(model), atol=1e-3)
    placement = find_placement(spread.graph)
    ranges = dict.fromkeys(placement.tensors, 3.0)  # cuts off a lot
    names = [node.output[0] for node in spread.graph.node if node.name in set(quantizable_layers(spread.graph))]
    expected = repair.channel_means(spread, names, [IMAGE])
    corrected = repair.bias_corrected(spread, lambda plain: insert_qdq(plain, placement, ranges), [IMAGE])
    errors = []
    for made in (spread, corrected):
        means = repair.channel_means(insert_qdq(made, placement, ranges), names, [IMAGE])
        errors.append(max(float(np.abs(means[name] - expected[name]).max()) for name in names))
    assert errors[1] < 0.1 * errors[0]  # not 0: what is fused, and so the last digits, depends on what is read out
