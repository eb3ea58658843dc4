"""The whole graph of an engine: what the options add, that they go together, and that boxes are those of the plain graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from retinanet_edge.export.build_machine import BuildMachine
from retinanet_edge.export.build_options import BuildOptions, NmsOverrides
from retinanet_edge.export.build_plan import make_plan
from retinanet_edge.export.engine_graph import EngineGraph, input_shape, make_engine_graph, typed_file_name, write_typed_file
from retinanet_edge.export.typed_graph import to_fp16, to_typed_int8
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.model_folder import file_sha256
from tests.export.tiny_folder import CLASSES, SIDE, tiny_folder
from tests.gpu.conftest import TinyModel


@pytest.fixture
def tiny(tmp_path: Path) -> TinyModel:
    return tiny_folder(tmp_path)


def graph_of(tiny: TinyModel, precision: Any = "fp32", typed: bool = False, **options: Any) -> EngineGraph:
    model = onnx.load(tiny.source(precision))
    if typed:
        model = to_fp16(model) if precision == "fp16" else to_typed_int8(model)
    return make_engine_graph(model, tiny.card, make_plan(tiny.folder, tiny.card, model, BuildOptions(precision, **options), BuildMachine()))


def ports(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    return {
        port.name: [size.dim_value or size.dim_param for size in port.type.tensor_type.shape.dim]
        for port in (*model.graph.input, *model.graph.output)
    }


PLUGIN_OUTPUTS = {
    "num_detections": ["N", 1], "detection_boxes": ["N", 100, 4], "detection_scores": ["N", 100], "detection_classes": ["N", 100],
}  # fmt: skip
HEADS = {"class_logits": ["N", 160, CLASSES], "box_deltas": ["N", 160, 4], "anchors": [1, 160, 4]}
OPTIONS: list[tuple[dict[str, Any], dict[str, list[int | str]]]] = [
    ({}, {"images": ["N", SIDE, SIDE, 3], **PLUGIN_OUTPUTS}),
    ({"nms": "none"}, {"images": ["N", SIDE, SIDE, 3], **HEADS}),
    ({"nms": "native"}, {"images": ["N", SIDE, SIDE, 3], "detections": ["S", 7]}),
    ({"camera_size": (100, 60)}, {"images": ["N", 60, 100, 3], **PLUGIN_OUTPUTS}),
    ({"camera_size": (100, 60), "nms": "native"}, {"images": ["N", 60, 100, 3], "detections": ["S", 7]}),
    ({"input": "fp32-nchw"}, {"images": ["N", 3, SIDE, SIDE], **PLUGIN_OUTPUTS}),
    ({"nms": "none", "nms_overrides": NmsOverrides(top_k_per_level=20)},
     {"images": ["N", SIDE, SIDE, 3], "class_logits": ["N", 40, CLASSES], "box_deltas": ["N", 40, 4], "anchors": ["N", 40, 4]}),
    ({"nms_overrides": NmsOverrides(max_detections=9, top_k_per_level=20), "camera_size": (100, 60)},
     {"images": ["N", 60, 100, 3], "num_detections": ["N", 1], "detection_boxes": ["N", 9, 4], "detection_scores": ["N", 9],
      "detection_classes": ["N", 9]}),
]  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), OPTIONS)
@pytest.mark.parametrize(("precision", "typed"), [("fp32", False), ("int8", False), ("fp16", True), ("int8", True)])
def test_options_go_together_at_every_precision_for_every_tensorrt(
    tiny: TinyModel, precision: str, typed: bool, options: dict[str, Any], expected: dict[str, list[int | str]]
) -> None:
    model = graph_of(tiny, precision, typed, **options).model
    onnx.checker.check_model(model)
    assert ports(model) == expected


def test_the_plugin_gets_the_engines_own_thresholds(tiny: TinyModel) -> None:
    node = graph_of(tiny, nms_overrides=NmsOverrides(0.25, 0.75, 9)).model.graph.node[-1]
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert (values["score_threshold"], values["iou_threshold"], values["max_output_boxes"]) == (0.25, 0.75, 9)


def heads_of(model: onnx.ModelProto, images: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return tuple(session.run(["class_logits", "box_deltas", "anchors"], {"images": images}))


def test_the_best_of_each_level_are_what_the_plain_graph_finds(tiny: TinyModel) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    nms = NmsOverrides(max_detections=10).applied_to(tiny.card.nms)
    plain = efficient_nms(*heads_of(graph_of(tiny, nms="none").model, images), nms)
    bounded = efficient_nms(*heads_of(graph_of(tiny, nms="none", nms_overrides=NmsOverrides(top_k_per_level=100)).model, images), nms)
    assert min(map(len, plain)) == 10
    for ours, theirs in zip(bounded, plain, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-5)
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy, rtol=1e-4, atol=1e-3)


def test_float_images_made_as_the_record_says_give_what_pixels_give(tiny: TinyModel) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    graph = graph_of(tiny, nms="none", input="fp32-nchw")
    scale, offsets = graph.recorded()["input_scale"], graph.recorded()["input_offsets"]
    assert (scale, offsets) == ("0.015625", "127.5;127.5;127.5")  # std 64 of every channel: 1 / 64
    planes = pixels[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)  # RGB
    floats = np.float32(scale) * (planes - np.array([float(x) for x in offsets.split(";")], np.float32)[:, None, None])
    for ours, theirs in zip(heads_of(graph.model, floats), heads_of(graph_of(tiny, nms="none").model, pixels), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_shape_of_the_input_is_that_of_a_batch(tiny: TinyModel) -> None:
    assert input_shape(graph_of(tiny, camera_size=(100, 60)).model, 5) == (5, 60, 100, 3)


@pytest.mark.parametrize(
    ("precision", "weakly_typed", "expected"),
    [("fp16", False, "model.fp16.onnx"), ("int8", False, "model.int8.typed.onnx"), ("fp32", False, None), ("fp16", True, None),
     ("int8", True, None), ("int8", None, None)],
)  # fmt: skip
def test_only_tensorrt_11_takes_typed_files(precision: Any, weakly_typed: bool | None, expected: str | None) -> None:
    assert typed_file_name(precision, weakly_typed) == expected


@pytest.mark.parametrize(("precision", "name"), [("fp16", "model.fp16.onnx"), ("int8", "model.int8.typed.onnx")])
def test_a_typed_file_is_written_once_and_again_where_it_is_another(
    tiny: TinyModel, capsys: pytest.CaptureFixture[str], precision: Any, name: str
) -> None:
    path, source = tiny.folder / name, onnx.load(tiny.source(precision))
    sha256 = write_typed_file(source, path, precision)
    assert sha256 == file_sha256(path)
    assert capsys.readouterr().out.startswith(f"wrote {path}")
    assert write_typed_file(source, path, precision) == sha256
    assert capsys.readouterr().out == ""
    path.write_bytes(b"of another model")
    assert write_typed_file(source, path, precision) == sha256 == file_sha256(path)
    assert sorted(each.name for each in tiny.folder.glob(".*")) == []
