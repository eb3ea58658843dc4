"""Fake quantization in PyTorch against the Q/DQ graph on ONNX Runtime, for every family of backbones; learned ranges in a graph."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from retinanet_edge.export.learned_ranges import against_original, learned_plan, plan_of, quantize_as_learned
from retinanet_edge.export.placement import find_placement
from retinanet_edge.export.quantize import insert_qdq, quantize
from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import ModelCard, NetworkSpec, Verdict
from retinanet_edge.runtime.model_folder import read_card
from retinanet_edge.runtime.quantization_plan import QuantizationPlan, SharedRange, read_plan, write_plan
from tests.export.qdq_rules import broken_rules
from tests.export.test_placement import ANCHORS, FAMILIES, RIGHT, SMALL_VITDET, SPEC

IMAGES = [np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(2)]


def dequantized(file: Path, images: NDArray[np.uint8]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]], list[float]]:
    """Each activation behind its pair, in the order in which they are first read, the graph's outputs, and the steps of INT8."""
    model = onnx.load(file)
    weights = {tensor.name for tensor in model.graph.initializer}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in weights]
    names = [n.input[0] + "/dequantized" for n in pairs]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # each node by itself, in float
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    heads = session.run(["class_logits", "box_deltas"], {"images": images})
    return session.run(names, {"images": images}), heads, [float(constants[n.input[1]]) for n in pairs]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_computes_as_its_quantized_graph(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from retinanet_edge.export.torch_graph import to_onnx
    from retinanet_edge.training import backbones, fake_quantization
    from retinanet_edge.training.model import build_network
    from retinanet_edge.training.vitdet import ViTDet

    torch.manual_seed(0)
    monkeypatch.setattr(backbones, "ViTDet", partial(ViTDet, **SMALL_VITDET))
    norm, channels = {"test_resnet": ("group", 64), "resnet10t": ("batch", 16)}.get(name, ("none", 16))
    network = build_network(NetworkSpec(name, channels, channels, 2, norm), SPEC, ANCHORS, 3).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # to be folded, so of all but 1
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    source, quantized = tmp_path / "model.onnx", tmp_path / "model.int8.onnx"
    onnx.save(to_onnx(network, SPEC), source)
    quantize(source, quantized, IMAGES, "percentile")
    network.quantization = fake_quantization.FakeQuantization(plan_of(source, quantized, (), "", None))
    expected, heads, scales = dequantized(quantized, np.stack(IMAGES))
    waiting, original = list(zip(expected, scales, strict=True)), fake_quantization.fake_quantize

    def compared(x: object, reach: object) -> object:
        """Go on with the graph's own values: one that rounds the other way in the last digit is not to grow from layer to layer."""
        values, scale = waiting.pop(0)
        steps = np.abs(original(x, reach).numpy() - values) / scale
        assert steps.max() < 1.01
        assert (steps > 0.01).mean() < 1e-3
        return torch.from_numpy(values)

    monkeypatch.setattr(fake_quantization, "fake_quantize", compared)
    with torch.no_grad():
        found = network(torch.from_numpy(np.stack(IMAGES)))
    assert waiting == []
    for ours, theirs in zip(found, heads, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture
def concat(tmp_path: Path) -> tuple[Path, QuantizationPlan]:
    """A graph with a concatenation, an addition and a branch, and the plan of its quantization."""
    source, quantized = tmp_path / "model.onnx", tmp_path / "model.int8.onnx"
    model = onnx.ModelProto.FromString(RIGHT["concatenation"][0].SerializeToString())
    model.graph.input[0].name = "images"
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = "images" if name == "x" else name
    onnx.save(model, source)
    onnx.save(insert_qdq(model, find_placement(model.graph), {"both": 2.5, "a": 3.0, "d": 1.0}), quantized)
    return source, plan_of(source, quantized, (), "of the weights", 0.5)


def test_the_plan_is_that_of_the_graph(concat: tuple[Path, QuantizationPlan]) -> None:
    _, plan = concat
    assert [(site.name, site.input) for site in plan.convolutions] == [("c", "both"), ("d", "a"), ("y", None)]
    assert [dataclasses.astuple(site) for site in plan.additions] == [(2, 0, 1, "d")]  # behind c and d
    assert [shared.tensors for shared in plan.ranges] == [("both", "a"), ("d",)]
    assert [shared.reach for shared in plan.ranges] == pytest.approx([3.0, 1.0])  # the largest of the group


def test_learned_ranges_are_the_scales_of_the_graph(concat: tuple[Path, QuantizationPlan], tmp_path: Path) -> None:
    source, plan = concat
    learned = dataclasses.replace(plan, ranges=(SharedRange(("both", "a"), 12.7), SharedRange(("d",), 1.27)))
    assert quantize_as_learned(source, tmp_path / "learned.onnx", learned) == ()
    model = onnx.load(tmp_path / "learned.onnx")
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name.endswith("/scale")}
    assert scales["both/scale"] == scales["a/scale"] == np.float32(0.1)
    assert scales["d/scale"] == np.float32(0.01)
    assert broken_rules(model) == []
    assert plan_of(source, tmp_path / "learned.onnx", (), plan.weights_sha256, 0.5).reaches == pytest.approx(learned.reaches)


def test_a_plan_fits_the_same_graph_with_other_names(concat: tuple[Path, QuantizationPlan], tmp_path: Path) -> None:
    source, plan = concat
    quantize_as_learned(source, tmp_path / "same.onnx", plan)
    text = json.dumps(dataclasses.asdict(plan))
    for name in ("both", "a", "d", "c", "y"):
        text = text.replace(f'"{name}"', f'"/renamed/{name}"')
    (tmp_path / "plan.json").write_text(text)
    quantize_as_learned(source, tmp_path / "renamed.onnx", read_plan(tmp_path / "plan.json", ""))
    assert (tmp_path / "renamed.onnx").read_bytes() == (tmp_path / "same.onnx").read_bytes()


def test_layers_kept_out_of_int8_stay_out_of_it(concat: tuple[Path, QuantizationPlan], tmp_path: Path) -> None:
    source, plan = concat
    kept = dataclasses.replace(
        plan, convolutions=(plan.convolutions[0], dataclasses.replace(plan.convolutions[1], input=None), plan.convolutions[2]),
        additions=(dataclasses.replace(plan.additions[0], side=1),), ranges=(SharedRange(("both",), 1.0), SharedRange(("d",), 1.0)),
    )  # fmt: skip
    assert quantize_as_learned(source, tmp_path / "kept.onnx", kept) == ("d",)


def test_ranges_of_another_graph_are_refused(concat: tuple[Path, QuantizationPlan], tmp_path: Path) -> None:
    source, plan = concat
    first, second, last = plan.convolutions
    others = [
        {"convolutions": (first, second)},
        {"convolutions": (first, second, last, last)},
        {"convolutions": (first, dataclasses.replace(second, input="d"), last), "ranges": (SharedRange(("both", "d"), 1.0),)},
        {"additions": (dataclasses.replace(plan.additions[0], side=0),)},
    ]
    for other in others:
        with pytest.raises(ModelFolderError, match=r"must be of the graph in model\.onnx"):
            quantize_as_learned(source, tmp_path / "other.onnx", dataclasses.replace(plan, **other))
        assert not (tmp_path / "other.onnx").exists()


def test_learned_ranges_of_other_weights_are_refused(concat: tuple[Path, QuantizationPlan], model: Path) -> None:
    card: ModelCard = read_card(model)
    assert learned_plan(model, card) is None
    write_plan(model / "learned_ranges.json", concat[1])
    with pytest.raises(ModelFolderError, match=r"must be of the weights in model\.onnx, got one of others: fine-tune again"):
        learned_plan(model, card)


def test_int8_is_judged_against_the_model_before_fine_tuning() -> None:
    verdict = Verdict(True, -0.3, 0.005, "hash", forced=False)  # FP32 0.50 after fine-tuning, INT8 0.80
    judged = against_original(verdict, 0.5, 0.82)  # FP32 was 0.82: INT8 lost 0.02
    assert not judged.passed
    assert judged.ap_drop == pytest.approx(0.02)
    assert against_original(verdict, 0.5, 0.8).passed
