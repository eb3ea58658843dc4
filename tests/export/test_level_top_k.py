"""Top-K per level inside the graph: on ONNX Runtime against the selection in NumPy, and a model folder that has it against PyTorch."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.export.build import Int8Options
from retinanet_edge.export.int8 import make_int8
from retinanet_edge.export.level_top_k import append_level_top_k
from retinanet_edge.export.nms import OUTPUTS, append_efficient_nms
from retinanet_edge.runtime.boxes import iou
from retinanet_edge.runtime.dataset import read_dataset, read_image
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.engine import open_engine
from retinanet_edge.runtime.errors import EngineError, ModelFolderError
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.level_top_k import keep_best_of_levels
from retinanet_edge.runtime.model_card import ModelCard, NmsSpec
from retinanet_edge.runtime.model_folder import read_card, write_card
from tests.conftest import Project

CLASSES = 3
SIZES = (50, 20, 6, 1)
K = 10
KEPT = 10 + 10 + 6 + 1  # of SIZES


def heads(sizes: Sequence[int], batch: int | str = "N", seed: int = 0) -> onnx.ModelProto:
    """A graph with the outputs of the contract, which are its inputs, and no network before them."""
    count = sum(sizes)
    shapes = {"class_logits": [batch, count, CLASSES], "box_deltas": [batch, count, 4]}
    inputs = [helper.make_tensor_value_info(f"{name}_in", TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs.append(helper.make_tensor_value_info("anchors", TensorProto.FLOAT, [1, count, 4]))
    anchors = np.random.default_rng(seed).normal(size=(1, count, 4)).astype(np.float32)
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name], name) for name in shapes]
    graph = helper.make_graph(nodes, "heads", inputs, outputs, [numpy_helper.from_array(anchors, "anchors")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, **inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(["class_logits", "box_deltas", "anchors"], inputs)
    return outputs


def shapes_of(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    return {o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("sizes", [SIZES, (50,), (30, 12), (4, 40, 4, 11)])
@pytest.mark.parametrize("ties", [False, True])
def test_selects_what_numpy_selects(sizes: tuple[int, ...], batch: int, ties: bool) -> None:
    random, count = np.random.default_rng(batch), sum(sizes)
    logits = random.normal(size=(batch, count, CLASSES)).astype(np.float32)
    logits = np.round(logits) if ties else logits
    deltas = random.normal(size=(batch, count, 4)).astype(np.float32)
    model = heads(sizes)
    anchors = numpy_helper.to_array(model.graph.initializer[0])
    found = run(append_level_top_k(model, sizes, K), class_logits_in=logits, box_deltas_in=deltas)
    for ours, expected in zip(found, keep_best_of_levels(logits, deltas, anchors, sizes, K), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert found[0].shape[1] < count


def test_names_and_order_stay_and_shapes_are_known() -> None:
    model = append_level_top_k(heads(SIZES), SIZES, K)
    assert shapes_of(model) == {"class_logits": ["N", KEPT, CLASSES], "box_deltas": ["N", KEPT, 4], "anchors": ["N", KEPT, 4]}
    assert list(shapes_of(model)) == ["class_logits", "box_deltas", "anchors"]
    assert list(shapes_of(append_level_top_k(heads(SIZES, batch=2), SIZES, K)).values())[2] == [2, KEPT, 4]


def test_every_node_has_a_name_of_its_own() -> None:
    names = [node.name for node in append_level_top_k(heads(SIZES), SIZES, K).graph.node]  # by which the quantizer excludes them
    assert all(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("k", [50, 51, 3840])
def test_where_no_level_is_larger_the_model_stays_as_it_was(k: int) -> None:
    model = heads(SIZES)
    assert append_level_top_k(model, SIZES, k).SerializeToString() == model.SerializeToString()


def test_the_given_model_is_not_changed() -> None:
    model = heads(SIZES)
    before = model.SerializeToString()
    assert append_level_top_k(model, SIZES, K).SerializeToString() != before
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (heads(SIZES), (50, 20, 6)),  # levels of another card
        (append_level_top_k(heads(SIZES), SIZES, K), SIZES),  # has it already
        (append_efficient_nms(heads(SIZES), NmsSpec()), SIZES),
    ],
)
def test_another_graph_is_refused_with_the_command_to_run(model: onnx.ModelProto, sizes: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=r"anchors \[1, 7[67], 4\].*run python export/export_onnx\.py") as caught:
        append_level_top_k(model, sizes, K)
    assert "\n" not in str(caught.value)


def test_the_plugin_takes_it_and_gives_the_same_shapes() -> None:
    whole, bounded = (append_efficient_nms(model, NmsSpec()) for model in (heads(SIZES), append_level_top_k(heads(SIZES), SIZES, K)))
    assert shapes_of(bounded) == shapes_of(whole)
    assert list(shapes_of(bounded)) == list(OUTPUTS)
    assert shapes_of(bounded)["detection_boxes"] == ["N", 100, 4]
    assert list(bounded.graph.node[-1].input) == ["box_deltas", "class_logits", "anchors"]


@pytest.mark.parametrize(("k", "said"), [(0, "at least 1"), (3841, "at most 3840"), (5000, "at most 3840, which is TensorRT's limit")])
def test_numbers_that_no_engine_takes_are_refused_where_they_are_set(k: int, said: str) -> None:
    with pytest.raises(ModelFolderError, match=said):
        NmsSpec(top_k_per_level=k)


# A model folder: cells of 64x64 pixels at strides 8 to 128, one anchor each.
FOLDER_SIZES = (64, 16, 4, 1, 1)
FOLDER_K = 5


def bounded_card(project: Project) -> ModelCard:
    """Give the project's model top-K and a low threshold, which lets more than a few candidates through; export it; return its card."""
    pytest.importorskip("torch")
    from retinanet_edge.export.portable import export_portable

    card = read_card(project.model)
    write_card(project.model, dataclasses.replace(card, nms=NmsSpec(0.01, 0.5, 100, FOLDER_K)))
    _, difference = export_portable(project.model, project.folder / "data" / "squares")
    assert difference < 1e-4  # of the network, before the selection
    return read_card(project.model)


def assert_same(found: list[Detections], expected: list[Detections]) -> None:
    assert [len(d) for d in found] == [len(d) for d in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.classes, theirs.classes)
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-3)
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-2)


def test_a_model_folder_with_top_k_finds_on_every_backend_what_training_found(project: Project) -> None:
    pytest.importorskip("torch")
    from retinanet_edge.export.torch_graph import check_contract
    from retinanet_edge.training.checkpoint import load_network
    from retinanet_edge.training.predict import detect_samples

    card = bounded_card(project)
    graph = onnx.load(project.model / "model.onnx")
    check_contract(graph)
    assert shapes_of(graph) == {"class_logits": ["N", 16, 2], "box_deltas": ["N", 16, 4], "anchors": ["N", 16, 4]}  # 5 + 5 + 4 + 1 + 1
    samples, network = read_dataset(project.folder / "data" / "squares").val, load_network(project.model, card)
    expected = detect_samples(network, samples, card.input, card.nms, 4, lambda: None)
    whole = detect_samples(network, samples, card.input, dataclasses.replace(card.nms, top_k_per_level=None), 4, lambda: None)
    assert sum(map(len, whole)) > sum(map(len, expected)) > len(samples)  # it does cut, and not all
    boxes = [Letterbox(s.height, s.width, card.input.height, card.input.width) for s in samples]
    images = np.stack([box.apply(read_image(sample)) for box, sample in zip(boxes, samples, strict=True)])
    for batch in (1, 3):
        with open_engine(project.model, card, "fp32", max_batch=batch) as engine:
            found = [d for start in range(0, len(images), batch) for d in engine.infer(images[start : start + batch]).detections]
        assert_same([box.detections_to_frame(d) for box, d in zip(boxes, found, strict=True)], expected)


def test_int8_is_placed_as_without_top_k_and_runs_alike_on_both_runtimes(project: Project) -> None:
    pytest.importorskip("torch")
    from retinanet_edge.export.torch_graph import check_contract

    before = onnx.load(project.model / "model.int8.onnx").graph
    card = bounded_card(project)
    options = Int8Options(None, None, 8, "minmax", 0, max_ap_drop=1, force=False, recalibrate=True)
    card = make_int8(project.model, card, options)
    model = onnx.load(project.model / "model.int8.onnx")
    check_contract(model)
    quantized = Counter(node.op_type for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Conv"))
    assert quantized == Counter(node.op_type for node in before.node if node.op_type in quantized)
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    added = [node for node in model.graph.node if node.name.startswith("level_top_k/")]
    assert {"ReduceMax", "TopK", "GatherND", "Gather", "Slice", "Add"} <= {node.op_type for node in added}
    assert "DequantizeLinear" not in {made_by.get(name) for node in added for name in node.input}
    images = np.stack([read_image(sample) for sample in read_dataset(project.folder / "data" / "squares").val[:2]])
    found = run(model, images=images)
    assert [values.shape for values in found] == [(2, 16, 2), (2, 16, 4), (2, 16, 4)]
    assert card.verdict is not None
    assert card.verdict.passed
    with open_engine(project.model, card, "int8", max_batch=2) as engine:
        for ours, theirs in zip(engine.infer(images).detections, efficient_nms(*found, card.nms), strict=True):
            clear = theirs.scores > 0.1  # INT8 is rounded otherwise by each, by which near equals change places
            alike = (ours.classes[:, None] == theirs.classes) & (abs(ours.scores[:, None] - theirs.scores) < 0.02)
            assert clear.sum() >= 2
            assert ((iou(ours.xyxy, theirs.xyxy) > 0.9) & alike).any(axis=0)[clear].all()


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_a_whole_file_can_be_bounded_later(finished_project: Project, file: str) -> None:
    model = onnx.load(finished_project.model / file)
    bounded = append_level_top_k(model, FOLDER_SIZES, FOLDER_K)
    onnx.checker.check_model(bounded, full_check=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    expected = keep_best_of_levels(*run(model, images=images), FOLDER_SIZES, FOLDER_K)
    for ours, theirs in zip(run(bounded, images=images), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_card_whose_top_k_is_not_the_files_is_one_line(project: Project) -> None:
    card = bounded_card(project)
    other = dataclasses.replace(card, nms=NmsSpec(top_k_per_level=FOLDER_K + 1))
    with pytest.raises(ModelFolderError, match=r"\[1,18,2\] to fit its card, got f32 \[1,16,2\]: run python export/exp") as caught:
        open_engine(project.model, other, "fp32")
    assert "\n" not in str(caught.value)
    whole = dataclasses.replace(card, nms=NmsSpec())
    with pytest.raises(ModelFolderError, match=r"class_logits f32 \[1,86,2\]"):
        open_engine(project.model, whole, "fp32")
