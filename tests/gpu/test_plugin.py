"""EfficientNMS_TRT alone on random inputs, decision for decision against its NumPy twin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.export.compiler import BuildOptions, compile_engine
from retinanet_edge.export.level_top_k import append_level_top_k
from retinanet_edge.export.nms import append_efficient_nms
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.level_top_k import keep_best_of_levels
from retinanet_edge.runtime.model_card import NmsSpec
from retinanet_edge.runtime.tensorrt_session import TensorRTSession


def random_anchors(count: int, random: np.random.Generator) -> NDArray[np.float32]:
    return np.concatenate([random.uniform(0, 640, (1, count, 2)), random.uniform(8, 200, (1, count, 2))], -1).astype(np.float32)


def plugin_session(
    anchors: NDArray[np.float32], classes: int, nms: NmsSpec, max_batch: int, sizes: tuple[int, ...] = (), **more: int
) -> TensorRTSession:
    """A session of the plugin and nothing before it but top-K, where nms has it, of levels of `sizes`: inputs are those of the network.

    more: attributes that ours does not set.
    """
    shapes = {"class_logits": ["N", anchors.shape[1], classes], "box_deltas": ["N", anchors.shape[1], 4]}
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name]) for name in shapes]
    inputs = [helper.make_tensor_value_info(f"{name}_in", TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs.append(helper.make_tensor_value_info("anchors", TensorProto.FLOAT, anchors.shape))
    graph = helper.make_graph(nodes, "plugin", inputs, outputs, [numpy_helper.from_array(anchors, "anchors")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if nms.top_k_per_level is not None:
        model = append_level_top_k(model, sizes, nms.top_k_per_level)
    complete = append_efficient_nms(model, nms)
    complete.graph.node[-1].attribute.extend(helper.make_attribute(name, value) for name, value in more.items())
    plan = compile_engine(complete.SerializeToString(), BuildOptions("fp32", max_batch=max_batch))
    return TensorRTSession(plan, "plugin")


def run(session: TensorRTSession, logits: NDArray[np.float32], deltas: NDArray[np.float32]) -> list[Detections]:
    outputs = session.run({"class_logits_in": logits, "box_deltas_in": deltas}).outputs
    counts = outputs["num_detections"][:, 0]
    names = ("detection_boxes", "detection_scores", "detection_classes")
    rows = [[outputs[name][image, :count] for name in names] for image, count in enumerate(counts)]
    for image, count in enumerate(counts):  # what is not filled is zero
        assert all(not outputs[name][image, count:].any() for name in names)
    return [Detections(boxes, scores, classes.astype(np.int64)) for boxes, scores, classes in rows]


def assert_same(found: list[Detections], expected: list[Detections]) -> None:
    assert [len(d) for d in found] == [len(d) for d in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.classes, theirs.classes)
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4)
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy, rtol=1e-4, atol=1e-2)


CASES: list[dict[str, Any]] = [
    {"anchors": 1, "classes": 1},
    {"anchors": 50, "classes": 1, "mean": 0.0},
    {"anchors": 500, "classes": 20, "mean": -3.0},
    {"anchors": 2000, "classes": 5, "mean": -1.0, "nms": NmsSpec(0.05, 0.5, 300)},
    {"anchors": 2000, "classes": 5, "mean": 1.0, "nms": NmsSpec(0.05, 0.9, 100)},  # more than 5000 candidates
    {"anchors": 700, "classes": 3, "mean": -1.0, "nms": NmsSpec(0.01, 0.3, 1000)},  # fewer are kept than asked for
    {"anchors": 300, "classes": 80, "mean": -4.0, "nms": NmsSpec(0.5, 0.5, 10)},
]


@pytest.mark.parametrize("case", CASES)
def test_the_plugin_and_its_twin_decide_alike(case: dict[str, Any]) -> None:
    random = np.random.default_rng(11)
    anchors, nms = random_anchors(case["anchors"], random), case.get("nms", NmsSpec())
    logits = random.normal(case.get("mean", 2.0), 2, (3, case["anchors"], case["classes"])).astype(np.float32)
    deltas = random.normal(0, 0.3, (3, case["anchors"], 4)).astype(np.float32)
    expected = efficient_nms(logits, deltas, anchors, nms)
    session = plugin_session(anchors, case["classes"], nms, max_batch=3)
    try:
        assert sum(map(len, expected)) > 0
        assert_same(run(session, logits, deltas), expected)
        assert_same(run(session, logits[1:2], deltas[1:2]), expected[1:2])
    finally:
        session.close()


IMAGES_OF_A_SWEEP = 504  # 63 calls of 8
SWEEPS = [  # anchors, classes, mean of the logits, thresholds: 3528 random cases in all
    (20, 1, 0.0, NmsSpec(0.05, 0.5, 10)),
    (60, 3, -1.0, NmsSpec(0.3, 0.5, 100)),
    (60, 3, 0.5, NmsSpec(0.05, 0.1, 100)),
    (100, 5, -2.0, NmsSpec(0.02, 0.9, 300)),
    (200, 2, 0.0, NmsSpec(0.5, 0.6, 20)),
    (40, 80, -4.0, NmsSpec(0.05, 0.5, 100)),
    (30, 4, -9.0, NmsSpec(0.05, 0.5, 100)),  # most images have none
]


def are_decided(
    logits: NDArray[np.float32], deltas: NDArray[np.float32], anchors: NDArray[np.float32], nms: NmsSpec, expected: list[Detections]
) -> list[bool]:
    """Say of each image whether all that decides is clear: no equal scores, none and no IoU within rounding of its threshold."""
    others = [
        efficient_nms(logits, deltas, anchors, shifted)
        for by in (-1e-5, 1e-5)
        for shifted in [replace(nms, score_threshold=nms.score_threshold + by, iou_threshold=nms.iou_threshold + 10 * by)]
    ]
    lowest = np.log(nms.score_threshold / (1 - nms.score_threshold))
    passing = [image[image >= lowest] for image in logits]
    distinct = [len(np.unique(scores)) == len(scores) for scores in passing]
    return [
        clear and all(np.array_equal(other[i].scores, found.scores) and np.array_equal(other[i].classes, found.classes) for other in others)
        for i, (clear, found) in enumerate(zip(distinct, expected, strict=True))
    ]


@pytest.mark.parametrize(("count", "classes", "mean", "nms"), SWEEPS)
def test_thousands_of_random_images_are_decided_alike(count: int, classes: int, mean: float, nms: NmsSpec) -> None:
    random, decided = np.random.default_rng(count * classes), 0
    anchors = random_anchors(count, random)
    session = plugin_session(anchors, classes, nms, max_batch=8)
    try:
        for _ in range(IMAGES_OF_A_SWEEP // 8):
            logits = random.normal(mean, 2, (8, count, classes)).astype(np.float32)
            deltas = random.normal(0, 0.3, (8, count, 4)).astype(np.float32)
            expected = efficient_nms(logits, deltas, anchors, nms)
            clear = are_decided(logits, deltas, anchors, nms, expected)
            found = run(session, logits, deltas)
            assert_same([f for f, c in zip(found, clear, strict=True) if c], [e for e, c in zip(expected, clear, strict=True) if c])
            decided += sum(clear)
    finally:
        session.close()
    assert decided > 0.8 * IMAGES_OF_A_SWEEP, "most cases can be compared"


def test_suppression_over_classes_is_that_of_one_class() -> None:
    """class_agnostic, which came with 8.6 and which ours leaves out: every score is then an anchor's of its own, all of one class."""
    import tensorrt as trt

    if tuple(int(part) for part in trt.__version__.split(".")[:2]) < (8, 6):
        pytest.skip(f"the plugin of TensorRT {trt.__version__} has no class_agnostic")
    random, nms, classes = np.random.default_rng(13), NmsSpec(0.3, 0.5, 50), 4
    anchors = random_anchors(80, random)
    logits = random.normal(0, 2, (2, 80, classes)).astype(np.float32)
    deltas = random.normal(0, 0.3, (2, 80, 4)).astype(np.float32)
    expected = efficient_nms(logits.reshape(2, -1, 1), deltas.repeat(classes, axis=1), anchors.repeat(classes, axis=1), nms)
    session = plugin_session(anchors, classes, nms, max_batch=2, class_agnostic=1)
    try:
        found = run(session, logits, deltas)
    finally:
        session.close()
    assert_same([replace(f, classes=np.zeros_like(f.classes)) for f in found], expected)
    assert max(f.classes.max() for f in found) > 0


def test_images_without_detections_are_empty_beside_others_that_have_some() -> None:
    random = np.random.default_rng(5)
    anchors, nms = random_anchors(100, random), NmsSpec()
    logits = random.normal(0, 2, (2, 100, 4)).astype(np.float32)
    logits[0] = -20
    deltas = random.normal(0, 0.3, (2, 100, 4)).astype(np.float32)
    session = plugin_session(anchors, 4, nms, max_batch=2)
    try:
        found = run(session, logits, deltas)
    finally:
        session.close()
    assert len(found[0]) == 0
    assert_same(found, efficient_nms(logits, deltas, anchors, nms))


def test_top_k_before_the_plugin_gives_each_image_anchors_of_its_own() -> None:
    random, sizes = np.random.default_rng(7), (600, 150, 40)
    anchors, nms = random_anchors(sum(sizes), random), NmsSpec(top_k_per_level=50)
    logits = random.normal(0, 2, (4, sum(sizes), 5)).astype(np.float32)
    deltas = random.normal(0, 0.3, (4, sum(sizes), 4)).astype(np.float32)
    expected = efficient_nms(*keep_best_of_levels(logits, deltas, anchors, sizes, 50), nms)
    session = plugin_session(anchors, 5, nms, max_batch=4, sizes=sizes)
    try:
        assert min(map(len, expected)) > 0
        for images in (slice(0, 1), slice(0, 4), slice(2, 4), slice(3, 4)):  # 1 image first: its anchors are not those of all
            assert_same(run(session, logits[images], deltas[images]), expected[images])
    finally:
        session.close()


def test_other_inputs_than_the_sessions_are_refused() -> None:
    session = plugin_session(random_anchors(10, np.random.default_rng(0)), 2, NmsSpec(), max_batch=1)
    logits, deltas = np.zeros((1, 10, 2), np.float32), np.zeros((1, 10, 4), np.float32)
    with pytest.raises(ValueError, match="inputs must be"):
        session.run({"class_logits_in": logits})
    with pytest.raises(ValueError, match="class_logits_in must be float32"):
        session.run({"class_logits_in": logits.astype(np.float64), "box_deltas_in": deltas})
    session.close()
    with pytest.raises(ValueError, match="plugin is closed"):
        session.run({"class_logits_in": logits, "box_deltas_in": deltas})


def test_the_timing_cache_is_written_read_again_and_replaced_when_broken(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    anchors = numpy_helper.from_array(random_anchors(10, np.random.default_rng(0)), "anchors")
    values = {"class_logits": ["N", 10, 2], "box_deltas": ["N", 10, 4], "anchors": [1, 10, 4]}
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()}
    inputs = [helper.make_tensor_value_info(f"{n}_in", TensorProto.FLOAT, values[n]) for n in ("class_logits", "box_deltas")]
    nodes = [helper.make_node("Relu", [value.name], [value.name[:-3]]) for value in inputs]
    graph = helper.make_graph(nodes, "relu", inputs, list(infos.values()), [anchors])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    complete, options = append_efficient_nms(model, NmsSpec()).SerializeToString(), BuildOptions("fp32", timing_cache=cache)
    for content in (None, "its own", b"\x00broken" * 9):
        if isinstance(content, bytes):
            cache.write_bytes(content)
        compile_engine(complete, options)
        assert len(cache.read_bytes()) > 16
        assert not cache.read_bytes().startswith(b"\x00broken")
    assert [path.name for path in tmp_path.iterdir()] == ["timing.cache"]
