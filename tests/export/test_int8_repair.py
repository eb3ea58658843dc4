"""benchmarks/int8_sensitivity.py and int8_repair.py: their lines, and that what they change leaves FP32 as it is."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from retinanet_edge.export.placement import find_placement, quantizable_layers
from retinanet_edge.export.quantize import insert_qdq
from tests import squares
from tests.conftest import ROOT, Project
from tests.export.small_graphs import IMAGES, Node, network, random_weights

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def logits(model: onnx.ModelProto) -> NDArray[np.float32]:
    found: NDArray[np.float32] = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": IMAGE[None]})[0]
    return found


def leave_layers(path: Path, count: int) -> tuple[str, ...]:
    """Make all layers but the first ones such as cannot be INT8, their weights being computed, and return those: each takes its time."""
    model = onnx.load(path)
    layers = quantizable_layers(model.graph)
    names = {node.input[1] for node in model.graph.node if node.name in layers[count:]}
    for node in model.graph.node:
        node.input[:] = [f"{name}/computed" if name in names else name for name in node.input]
    for name in sorted(names):
        model.graph.node.insert(0, onnx.helper.make_node("Identity", [name], [f"{name}/computed"]))
    onnx.save(model, path)
    assert quantizable_layers(model.graph) == layers[:count]
    return layers[:count]


@pytest.fixture
def typed(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs the command of a script in this process on a few images and returns the table that it writes."""

    def run(module: ModuleType, *arguments: object) -> Path:
        squares.write_dataset(project.folder / "few", train=4, val=4)
        options = ("--model", project.model, "--data", project.folder / "few", "--out", project.folder / "table.csv", *arguments)
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, options)])
        module.main()
        return project.folder / "table.csv"

    return run


def test_the_sensitivity_table_has_every_layer(
    project: Project, typed: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sensitivity = script("int8_sensitivity")
    layers = leave_layers(project.model / "model.onnx", 8)
    found = rows(typed(sensitivity, "--bits", 3))
    assert tuple(row["layer"] for row in found) == layers
    proxies, lost = ([float(row[name]) for row in found] for name in ("proxy", "points_lost"))
    assert max(lost) > 0.5  # of 3 bits AP does take notice
    correlation = sensitivity.rank_correlation(proxies, lost)
    assert correlation == pytest.approx(float(found[0]["rank_correlation"]), abs=0.02)  # rounded values may share a rank
    assert f"over {len(layers)} layers: " in capsys.readouterr().out


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


def test_the_repair_table_has_every_repair_and_equalizing_undoes_a_spread(
    typed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repair = script("int8_repair")
    assert repair.REPAIRS == ("none", "bias", "equalized", "equalized, bias")
    monkeypatch.setattr(repair, "REPAIRS", ("none", "equalized"))  # biases take a session for each layer
    found = {row["repair"]: row for row in rows(typed(repair, "--images", 4, "--seeds", 1, "--spread", 4))}
    assert list(found) == ["none", "equalized"]
    assert float(found["equalized"]["proxy"]) < 0.7 * float(found["none"]["proxy"])
    for row in found.values():
        assert float(row["points"]) == pytest.approx(100 * (float(row["ap"]) - float(row["fp32_ap"])), abs=1e-2)
    assert "FP32: AP" in capsys.readouterr().out


def test_scaling_channels_apart_leaves_fp32_as_it_is(project: Project) -> None:
    model = onnx.load(project.model / "model.onnx")
    spread = script("int8_repair").spread_channels(model, 2.0)
    assert spread != model
    np.testing.assert_allclose(logits(spread), logits(model), atol=1e-3)


def test_bias_correction_brings_means_back() -> None:
    repair, nodes = script("int8_repair"), list[Node]()
    for name, source in (("a", "image"), ("b", "a/relu"), ("c", "b/relu")):
        nodes += [("Conv", [source, f"w{name}", f"b{name}"], name), ("Relu", [name], f"{name}/relu")]
    model = network(nodes, random_weights(wa=(6, 3, 3, 3), ba=(6,), wb=(6, 6, 1, 1), bb=(6,), wc=(6, 6, 1, 1), bc=(6,)), "c/relu")
    placement = find_placement(model.graph)
    ranges = dict.fromkeys(placement.tensors, 3.0)  # cuts off a lot
    expected = repair.channel_means(model, ["a", "b", "c"], IMAGES)
    corrected = repair.bias_corrected(model, lambda plain: insert_qdq(plain, placement, ranges), IMAGES)
    errors = []
    for made in (model, corrected):
        means = repair.channel_means(insert_qdq(made, placement, ranges), ["a", "b", "c"], IMAGES)
        errors.append(max(float(np.abs(means[name] - expected[name]).max()) for name in expected))
    assert errors[1] < 1e-3 * errors[0]  # not 0: what is fused, and so the last digits, depends on what is read out
