from dataclasses import replace

import numpy as np
import pytest

from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.engine_outputs import describe, detections_of, expected_tensors, form_of, frame_size_of, nms_of
from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import AnchorSpec, EngineRecord, InputSpec, ModelCard, NetworkSpec, NmsSpec
from retinanet_edge.runtime.tensor_lane import TensorSpec

CARD = ModelCard(
    ("a", "b"), InputSpec(64, 96, (0.0,) * 3, (1.0,) * 3), AnchorSpec((8,), (32.0,), (1.0,), (1.0,)), NetworkSpec("none", 8, 8, 1, "none"),
    nms=NmsSpec(max_detections=7),
)  # fmt: skip
RECORD = EngineRecord(
    file="x.engine", sha256="0" * 64, precision="fp32", onnx_sha256="1" * 64, tensorrt="1", gpu="A", compute_capability="1.0",
    plugin_version="1", max_batch=1, built="2024-01-01T00:00:00+00:00", options={},
)  # fmt: skip


def spec(dtype, *shape):
    return TensorSpec(np.dtype(dtype), shape, shape)


PLUGIN = {
    "num_detections": spec("int32", -1, 1), "detection_boxes": spec("float32", -1, 7, 4), "detection_scores": spec("float32", -1, 7),
    "detection_classes": spec("int32", -1, 7),
}  # fmt: skip
ROWS = {"detections": spec("float32", -1, 7)}
HEADS = {
    "class_logits": spec("float32", -1, 30, 2), "box_deltas": spec("float32", -1, 30, 4), "anchors": spec("float32", 1, 30, 4),
}  # fmt: skip
IMAGES = spec("uint8", -1, 64, 96, 3)


def fits(outputs, images=IMAGES, **options):
    found = {name: describe(tensor) for name, tensor in {"images": images, **outputs}.items()}
    return found == expected_tensors(replace(RECORD, options=options), CARD, outputs)


@pytest.mark.parametrize(("outputs", "form"), [(PLUGIN, "plugin"), (ROWS, "rows"), (HEADS, "heads"), ({}, "plugin")])
def test_the_form_is_known_by_the_names(outputs, form):
    assert form_of(outputs) == form
    assert fits(outputs) == bool(outputs)


def test_a_static_batch_and_selected_anchors_fit_too():
    assert fits({name: replace(tensor, shape=(1, *tensor.shape[1:])) for name, tensor in PLUGIN.items()}, spec("uint8", 1, 64, 96, 3))
    assert fits({**HEADS, "anchors": spec("float32", -1, 30, 4)})


@pytest.mark.parametrize(
    "outputs",
    [
        {**PLUGIN, "num_detections": spec("int64", -1, 1)},
        {**PLUGIN, "more": spec("float32", -1, 7)},
        {name: PLUGIN[name] for name in ("num_detections", "detection_boxes")},
        {"detections": spec("float32", -1, 6)},
        {**HEADS, "class_logits": spec("float32", -1, 30, 3)},
        {**HEADS, "box_deltas": spec("float32", -1, 29, 4)},
        {**HEADS, "class_logits": spec("float16", -1, 30, 2)},
        {**HEADS, "class_logits": spec("float32")},
    ],
)
def test_other_tensors_do_not_fit(outputs):
    assert not fits(outputs)


def test_the_engines_own_nms_comes_before_the_cards():
    assert nms_of(RECORD, CARD) == CARD.nms
    built = replace(RECORD, options={"nms_score_threshold": "0.2", "nms_iou_threshold": "0.6", "nms_max_detections": "9"})
    assert nms_of(built, CARD) == NmsSpec(0.2, 0.6, 9)
    assert not fits(PLUGIN, nms_max_detections="9")
    with pytest.raises(ModelFolderError, match=r"options of x\.engine must be numbers"):
        nms_of(replace(RECORD, options={"nms_max_detections": "many"}), CARD)


def test_a_camera_baked_in_is_the_size_of_the_input():
    assert frame_size_of(RECORD) is None
    assert frame_size_of(replace(RECORD, options={"camera_size": "None"})) is None
    assert frame_size_of(replace(RECORD, options={"camera_size": "1920x1080"})) == (1080, 1920)
    assert fits(PLUGIN, spec("uint8", -1, 1080, 1920, 3), camera_size="1920x1080")
    assert not fits(PLUGIN, camera_size="1920x1080")
    with pytest.raises(ModelFolderError, match="must be WIDTHxHEIGHT, got 0x5"):
        frame_size_of(replace(RECORD, options={"camera_size": "0x5"}))


def test_the_plugins_outputs_are_cut_to_their_counts():
    outputs = {
        "num_detections": np.array([[2], [0]], np.int32),
        "detection_boxes": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "detection_scores": np.array([[0.9, 0.8, 0], [0, 0, 0]], np.float32),
        "detection_classes": np.array([[1, 0, 0], [0, 0, 0]], np.int32),
    }
    first, second = detections_of(outputs, 2, CARD.nms)
    assert first.xyxy.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (first.classes.tolist(), first.classes.dtype) == ([1, 0], np.int64)
    assert len(second) == 0


def test_rows_are_grouped_by_image_best_first_and_cut():
    rows = np.array([[1, 0, 0, 1, 1, 0.5, 0], [0, 2, 2, 3, 3, 0.6, 1], [1, 4, 4, 5, 5, 0.7, 1], [2, 0, 0, 1, 1, 0.9, 0]], np.float32)
    one, other = detections_of({"detections": rows}, 2, NmsSpec(max_detections=1))
    assert (one.xyxy.tolist(), one.classes.tolist()) == ([[2, 2, 3, 3]], [1])
    assert other.xyxy.tolist() == [[4, 4, 5, 5]]


def test_raw_heads_pass_the_twin():
    random = np.random.default_rng(0)
    outputs = {
        "class_logits": random.normal(0, 2, (2, 30, 2)).astype(np.float32),
        "box_deltas": random.normal(0, 0.2, (2, 30, 4)).astype(np.float32),
        "anchors": random.uniform(10, 50, (1, 30, 4)).astype(np.float32),
    }
    nms = NmsSpec(0.4, 0.5, 5)
    expected = efficient_nms(*outputs.values(), nms)
    assert min(map(len, expected)) > 0
    for found, wanted in zip(detections_of(outputs, 2, nms), expected, strict=True):
        np.testing.assert_array_equal(found.xyxy, wanted.xyxy)
