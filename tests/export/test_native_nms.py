"""NonMaxSuppression at the end of the portable graph, on ONNX Runtime, against the twin of the plugin."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.export.level_top_k import append_level_top_k
from retinanet_edge.export.native_nms import MOST_ROWS, OUTPUT, append_native_nms
from retinanet_edge.export.nms import append_efficient_nms
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import NmsSpec
from retinanet_edge.runtime.model_folder import read_card
from retinanet_edge.runtime.native_rows import group_rows
from tests.conftest import Project
from tests.export.front_graphs import pixel_model, run

F = np.float32


def heads(anchors: np.ndarray, classes: int) -> onnx.ModelProto:
    """A graph with the outputs of the contract, of which logits and deltas are its inputs."""
    count = anchors.shape[1]
    shapes = {"class_logits": ["N", count, classes], "box_deltas": ["N", count, 4]}
    inputs = [helper.make_tensor_value_info(f"{name}_in", TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs.append(helper.make_tensor_value_info("anchors", TensorProto.FLOAT, list(anchors.shape)))
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name], name) for name in shapes]
    graph = helper.make_graph(nodes, "heads", inputs, outputs, [numpy_helper.from_array(anchors, "anchors")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def random_case(seed: int, images: int, count: int, classes: int, crowding: float = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct logits from -6 to 3, and boxes crowded enough to overlap: class_logits, box_deltas, anchors [1, A, 4]."""
    rng = np.random.default_rng(seed)
    size = images * count * classes
    logits = (rng.permutation(size) * (9 / size) - 6).astype(F).reshape(images, count, classes)
    anchors = np.concatenate([rng.uniform(0, crowding, (1, count, 2)), rng.uniform(5, 30, (1, count, 2))], axis=2).astype(F)
    return logits, rng.normal(0, 0.3, (images, count, 4)).astype(F), anchors


def found_by(model: onnx.ModelProto, logits: np.ndarray, deltas: np.ndarray, nms: NmsSpec) -> list[Detections]:
    (rows,) = run(append_native_nms(model, nms), class_logits_in=logits, box_deltas_in=deltas)
    assert (rows.dtype, rows.shape[1:]) == (F, (7,))
    return group_rows(rows, len(logits), nms.max_detections)


def assert_same(found: list[Detections], expected: list[Detections]) -> None:
    assert [len(d) for d in found] == [len(d) for d in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.classes, theirs.classes)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("images", "count", "classes"), [(1, 200, 3), (3, 120, 5), (2, 300, 1), (1, 1, 80)])
def test_finds_what_the_plugins_twin_finds(images: int, count: int, classes: int, seed: int) -> None:
    logits, deltas, anchors = random_case(seed, images, count, classes)
    nms = NmsSpec(score_threshold=0.3, iou_threshold=0.45, max_detections=40)
    expected = efficient_nms(logits, deltas, anchors, nms)
    assert_same(found_by(heads(anchors, classes), logits, deltas, nms), expected)
    if count > 1:
        passing = (logits > np.log(0.3 / 0.7)).sum()
        assert len(logits) < sum(map(len, expected)) < passing  # suppression does something, and not all


def test_more_are_found_than_are_kept_over_all_classes() -> None:
    logits, deltas, anchors = random_case(0, 2, 400, 6, crowding=1000)
    nms = NmsSpec(0.05, 0.5, 25)
    (rows,) = run(append_native_nms(heads(anchors, 6), nms), class_logits_in=logits, box_deltas_in=deltas)
    assert len(rows) == 2 * 6 * 25  # of each class
    assert_same(group_rows(rows, 2, 25), efficient_nms(logits, deltas, anchors, nms))


def test_nothing_passes_the_threshold() -> None:
    logits, deltas, anchors = random_case(0, 2, 50, 3)
    assert [len(d) for d in found_by(heads(anchors, 3), logits - 20, deltas, NmsSpec())] == [0, 0]


def test_one_image_of_a_batch_finds_nothing() -> None:
    logits, deltas, anchors = random_case(0, 3, 50, 3)
    logits[1] -= 20
    found, expected = found_by(heads(anchors, 3), logits, deltas, NmsSpec()), efficient_nms(logits, deltas, anchors, NmsSpec())
    assert len(found[1]) == 0
    assert_same(found, expected)


@pytest.mark.parametrize(("overlap", "kept"), [(0.5, 1), (0.51, 2)])
def test_a_box_that_overlaps_by_the_threshold_itself_is_suppressed(overlap: float, kept: int) -> None:
    # 3 x 1 boxes at 0 and at 1: 2 shared of 3 + 3 - 2 = 4, an IoU of exactly 0.5.
    anchors = np.array([[[1.5, 0.5, 3, 1], [2.5, 0.5, 3, 1]]], F)
    logits = np.array([[[2.0], [1.0]]], F)
    nms = NmsSpec(0.05, overlap, 10)
    expected = efficient_nms(logits, np.zeros((1, 2, 4), F), anchors, nms)
    assert len(expected[0]) == kept
    assert_same(found_by(heads(anchors, 1), logits, np.zeros((1, 2, 4), F), nms), expected)


def test_a_score_of_the_threshold_itself_is_kept() -> None:
    anchors = np.array([[[5, 5, 4, 4], [50, 50, 4, 4]]], F)
    logits = np.array([[[0.0], [-1e-3]]], F)  # sigmoid(0) = 0.5
    (found,) = found_by(heads(anchors, 1), logits, np.zeros((1, 2, 4), F), NmsSpec(0.5, 0.5, 10))
    assert found.scores.tolist() == [0.5]
    assert found.xyxy.tolist() == [[3, 3, 7, 7]]


def test_boxes_are_decoded_on_their_anchors() -> None:
    # centre 10 + 0.5 * 8 = 14, 20 - 0.25 * 4 = 19; size 8 * 2 = 16, 4 * 0.5 = 2
    deltas = np.array([[[0.5, -0.25, np.log(2), np.log(0.5)]]], F)
    (found,) = found_by(heads(np.array([[[10, 20, 8, 4]]], F), 1), np.array([[[3.0]]], F), deltas, NmsSpec())
    np.testing.assert_allclose(found.xyxy, [[14 - 8, 19 - 1, 14 + 8, 19 + 1]], rtol=1e-6)


def test_anchors_of_each_image_as_top_k_leaves_them() -> None:
    logits, deltas, anchors = random_case(1, 2, 60, 3)
    nms = NmsSpec(0.1, 0.5, 30)
    bounded = append_level_top_k(heads(anchors, 3), (45, 15), 10)
    best = [np.concatenate([np.argsort(-of[:45].max(1))[:10], 45 + np.argsort(-of[45:].max(1))[:10]]) for of in logits]
    selected = [np.stack([values[rows] for values, rows in zip(each, best, strict=True)]) for each in (logits, deltas)]
    expected = efficient_nms(*selected, np.stack([anchors[0, rows] for rows in best]), nms)
    assert_same(found_by(bounded, logits, deltas, nms), expected)


def test_of_more_anchors_than_topk_takes_the_best_of_each_image_go_on() -> None:
    count = MOST_ROWS + 300
    logits, deltas, anchors = random_case(2, 2, count, 2, crowding=3000)
    nms = NmsSpec(0.01, 0.5, 8000)  # lets nearly all through, so that those left out are missed
    model = append_native_nms(heads(anchors, 2), nms)
    assert [node.op_type for node in model.graph.node].count("TopK") == 1
    (rows,) = run(model, class_logits_in=logits, box_deltas_in=deltas)
    best = np.argsort(-logits.max(axis=2), axis=1)[:, :MOST_ROWS, None]
    of_best = np.take_along_axis(logits, best, 1), np.take_along_axis(deltas, best, 1), anchors[0][best[..., 0]]
    # Class by class, since the twin stops at 5000 of an image.
    expected = [efficient_nms(of_best[0][..., [kind]], *of_best[1:], nms) for kind in (0, 1)]
    found = group_rows(rows, 2, len(rows))
    for image in (0, 1):
        ours, theirs = found[image], [of_class[image] for of_class in expected]
        assert len(ours) == sum(map(len, theirs)) > 5000
        for kind in (0, 1):
            of_kind = ours[ours.classes == kind]
            np.testing.assert_allclose(of_kind.scores, theirs[kind].scores, atol=1e-6)
            np.testing.assert_allclose(of_kind.xyxy, theirs[kind].xyxy, atol=1e-2)


def test_fewer_anchors_need_no_topk() -> None:
    _, _, anchors = random_case(0, 1, MOST_ROWS, 1)
    assert "TopK" not in [node.op_type for node in append_native_nms(heads(anchors, 1), NmsSpec()).graph.node]


def test_the_output_is_one_and_the_given_model_stays_as_it_was() -> None:
    model = pixel_model()
    before = model.SerializeToString()
    complete = append_native_nms(model, NmsSpec())
    assert model.SerializeToString() == before
    (output,) = complete.graph.output
    assert output.name == OUTPUT
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["S", 7]
    assert {entry.domain: entry.version for entry in complete.opset_import} == {"": 17}
    names = [node.name for node in complete.graph.node if node.name]
    assert len(set(names)) == len(names)


def test_a_graph_that_has_its_nms_is_refused() -> None:
    for complete in (append_efficient_nms(pixel_model(), NmsSpec()), append_native_nms(pixel_model(), NmsSpec())):
        with pytest.raises(EngineError, match=r"run python export/export_onnx\.py") as caught:
            append_native_nms(complete, NmsSpec())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_a_finished_model_finds_what_it_finds_with_the_twin(finished_project: Project, file: str) -> None:
    model, card = onnx.load(finished_project.model / file), read_card(finished_project.model)
    images = np.random.default_rng(0).integers(0, 256, (2, card.input.height, card.input.width, 3), dtype=np.uint8)
    logits, deltas, anchors = run(model, images=images)
    threshold = float(1 / (1 + np.exp(-np.sort(logits.ravel())[-40:].mean())))  # some 20 pass, however little it has learned
    nms = NmsSpec(max(threshold, 0.01), 0.5, 10)
    expected = efficient_nms(logits, deltas, anchors, nms)
    (rows,) = run(append_native_nms(model, nms), images=images)
    assert sum(map(len, expected)) > 2
    assert_same(group_rows(rows, 2, 10), expected)
