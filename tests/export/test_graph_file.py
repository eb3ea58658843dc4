"""Files that stand in a model folder as its ONNX, the card vouching for their hash: ours is read, any other is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.export.build import build, print_plan
from retinanet_edge.export.build_options import BuildOptions
from retinanet_edge.export.engine_graph import write_typed_file
from retinanet_edge.export.graph_file import load_graph
from retinanet_edge.export.level_top_k import append_level_top_k
from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import OnnxRecord
from retinanet_edge.runtime.model_folder import ONNX_FILE, TYPED_INT8_FILE, file_sha256, write_card
from tests.export.tiny_folder import ANCHORS, CLASSES, LEVELS, SIDE, tiny_folder
from tests.gpu.conftest import TinyModel


@pytest.fixture
def tiny(tmp_path: Path) -> TinyModel:
    return tiny_folder(tmp_path / "model")


def replace_graph(tiny: TinyModel, data: bytes) -> None:
    """Put a file in the place of model.onnx, and its hash into the card."""
    path = tiny.folder / ONNX_FILE
    path.write_bytes(data)
    tiny.card = replace(tiny.card, onnx=OnnxRecord(file_sha256(path), "0" * 64, 17, 0.0))
    write_card(tiny.folder, tiny.card)


def test_our_files_are_read_with_and_without_top_k_typed_or_not(tiny: TinyModel) -> None:
    for name in ("model.onnx", "model.int8.onnx"):
        assert load_graph(tiny.folder / name, tiny.card).graph.input[0].name == "images"
    write_typed_file(load_graph(tiny.folder / "model.int8.onnx", tiny.card), tiny.folder / TYPED_INT8_FILE, "int8")
    assert load_graph(tiny.folder / TYPED_INT8_FILE, tiny.card).opset_import[0].version == 19
    bounded = append_level_top_k(load_graph(tiny.folder / ONNX_FILE, tiny.card), LEVELS, 20)
    replace_graph(tiny, bounded.SerializeToString())
    anchors = load_graph(tiny.folder / ONNX_FILE, tiny.card).graph.output[2].type.tensor_type.shape
    assert [size.dim_value for size in anchors.dim] == [0, 40, 4]


def other_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 13


def other_operators(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def with_a_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("ours", "Twice", ["x"], ["y"], [node], [helper.make_opsetid("", 17)]))


def of_input(place: int, size: int | str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        dimension = model.graph.input[0].type.tensor_type.shape.dim[place]
        dimension.Clear()
        if isinstance(size, int):
            dimension.dim_value = size
        else:
            dimension.dim_param = size

    return change


def float_images(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def planes_first(model: onnx.ModelProto) -> None:
    for place, size in ((1, 3), (2, SIDE), (3, SIDE)):
        of_input(place, size)(model)


def another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]))


def without_deltas(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def open_anchors(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "A"


def other_counts(model: onnx.ModelProto) -> None:
    model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = ANCHORS - 1


def outside_weights(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 100)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../elsewhere")
    tensor.ClearField("raw_data")


OURS = f"images uint8 [N, {SIDE}, {SIDE}, 3]; class_logits float32 [N, {ANCHORS}, {CLASSES}]; box_deltas float32 [N, {ANCHORS}, 4]; anchors"
REFUSED: list[tuple[Callable[[onnx.ModelProto], None], str, str]] = [
    (other_opset, "must have opset 17 and standard operators alone", "got opset 13:"),
    (other_operators, "must have opset 17", "got opset 17, com.microsoft 1:"),
    (with_a_function, "must have opset 17", "got opset 17 and 1 functions:"),
    (of_input(1, "height"), OURS, f"got images uint8 [N, open, {SIDE}, 3]"),
    (of_input(2, "width"), OURS, f"got images uint8 [N, {SIDE}, open, 3]"),
    (of_input(2, 96), OURS, f"got images uint8 [N, {SIDE}, 96, 3]"),
    (of_input(0, 1), OURS, f"got images uint8 [1, {SIDE}, {SIDE}, 3]"),
    (float_images, OURS, f"got images float32 [N, {SIDE}, {SIDE}, 3]"),
    (planes_first, OURS, f"got images uint8 [N, 3, {SIDE}, {SIDE}]"),
    (another_input, OURS, f"got images uint8 [N, {SIDE}, {SIDE}, 3]; scale float32 [1]"),
    (without_deltas, OURS, f"class_logits float32 [N, {ANCHORS}, {CLASSES}]; anchors float32"),
    (open_anchors, f"class_logits float32 [N, A, {CLASSES}]", f"class_logits float32 [N, open, {CLASSES}]"),
    (other_counts, OURS, f"box_deltas float32 [N, {ANCHORS - 1}, 4]"),
    (outside_weights, "must be a whole ONNX file", "got one whose weights are in another file"),
]


@pytest.mark.parametrize(("change", "expected", "found"), REFUSED)
def test_a_graph_that_is_not_the_cards_is_one_line_though_the_card_has_its_hash(
    change: Callable[[onnx.ModelProto], None], expected: str, found: str, tiny: TinyModel
) -> None:
    model = onnx.load(tiny.folder / ONNX_FILE)
    change(model)
    replace_graph(tiny, model.SerializeToString())
    before = sorted(path.name for path in tiny.folder.iterdir())
    for make in (print_plan, build):
        with pytest.raises(ModelFolderError) as caught:
            make(tiny.folder, BuildOptions("fp16"), None)
        message = str(caught.value)
        assert expected in message
        assert found in message
        assert message.endswith("run python export/export_onnx.py")
        assert "\n" not in message
    assert sorted(path.name for path in tiny.folder.iterdir() if path.name != ".lock") == before


def somebody_elses() -> bytes:
    """A classifier, as any hub has it."""
    weights = numpy_helper.from_array(np.zeros((3, 10), np.float32), "w")
    ports: list[Any] = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 3), ("y", 10))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "classifier", ports[:1], ports[1:], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


@pytest.mark.parametrize(
    ("data", "expected"),
    [(somebody_elses(), "got x float32 [N, 3]; y float32 [N, 10]"), (b"no protobuf", "whole ONNX file, got something else"),
     (b"", "standard operators alone, got none")],
)  # fmt: skip
def test_a_file_of_another_kind_is_one_line(data: bytes, expected: str, tiny: TinyModel) -> None:
    replace_graph(tiny, data)
    with pytest.raises(ModelFolderError) as caught:
        print_plan(tiny.folder, BuildOptions("fp32"), None)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
