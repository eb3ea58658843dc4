"""EfficientNMS_TRT at the end of the portable graph, and against the plugin registry of a real TensorRT where there is one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from retinanet_edge.export.nms import OUTPUTS, PLUGIN, append_efficient_nms, plugin_attributes, plugin_workspace_bytes
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import NmsSpec

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def portable(shapes: dict[str, list[int | str]] | None = None, kind: int = FLOAT) -> onnx.ModelProto:
    """A graph with the outputs of the contract for 6 anchors and 3 classes, and no network before them."""
    shapes = shapes or {"class_logits": ["N", 6, 3], "box_deltas": ["N", 6, 4], "anchors": [1, 6, 4]}
    dynamic = [name for name in shapes if name != "anchors"]
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name]) for name in dynamic]
    inputs = [helper.make_tensor_value_info(f"{name}_in", kind, shapes[name]) for name in dynamic]
    outputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    constants = []
    if "anchors" in shapes:
        sizes = [size if isinstance(size, int) else 1 for size in shapes["anchors"]]
        constants = [numpy_helper.from_array(np.ones(sizes, np.float32 if kind == FLOAT else np.float16), "anchors")]
    graph = helper.make_graph(nodes, "portable", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_the_plugin_takes_deltas_logits_anchors_and_gives_the_only_outputs() -> None:
    model = append_efficient_nms(portable(), NmsSpec(max_detections=7))
    node = model.graph.node[-1]
    assert (node.op_type, list(node.input)) == (PLUGIN, ["box_deltas", "class_logits", "anchors"])
    assert list(node.output) == list(OUTPUTS) == [output.name for output in model.graph.output]
    assert [shape_of(output) for output in model.graph.output] == [["N", 1], ["N", 7, 4], ["N", 7], ["N", 7]]
    kinds = [output.type.tensor_type.elem_type for output in model.graph.output]
    assert kinds == [TensorProto.INT32, FLOAT, FLOAT, TensorProto.INT32]
    assert sum(node.op_type == PLUGIN for node in model.graph.node) == 1
    assert not model.functions  # a function of that name would win over the plugin in TensorRT 9.0 to 10.6


def test_every_attribute_has_exactly_the_type_that_the_plugin_reads() -> None:
    node = append_efficient_nms(portable(), NmsSpec(0.25, 0.6, 50)).graph.node[-1]
    found = {a.name: (a.type, helper.get_attribute_value(a)) for a in node.attribute}
    expected = {
        "score_threshold": (AttributeProto.FLOAT, np.float32(0.25)),
        "iou_threshold": (AttributeProto.FLOAT, np.float32(0.6)),
        "max_output_boxes": (AttributeProto.INT, 50),
        "background_class": (AttributeProto.INT, -1),
        "score_activation": (AttributeProto.INT, 1),
        "box_coding": (AttributeProto.INT, 1),
        "plugin_version": (AttributeProto.STRING, b"1"),
        "plugin_namespace": (AttributeProto.STRING, b""),
    }
    assert found == expected


def test_a_threshold_given_as_an_integer_stays_a_float() -> None:
    node = append_efficient_nms(portable(), NmsSpec(iou_threshold=1)).graph.node[-1]
    assert {a.name: a.type for a in node.attribute}["iou_threshold"] == AttributeProto.FLOAT


def test_the_given_model_stays_as_it_was_and_the_new_one_is_sound() -> None:
    model = portable()
    before = model.SerializeToString()
    complete = append_efficient_nms(model, NmsSpec())
    assert model.SerializeToString() == before
    onnx.checker.check_model(complete)
    assert {entry.domain: entry.version for entry in complete.opset_import} == {"": 17, complete.graph.node[-1].domain: 1}


def test_a_fixed_batch_stays_fixed() -> None:
    shapes = {"class_logits": [2, 6, 3], "box_deltas": [2, 6, 4], "anchors": [1, 6, 4]}
    model = append_efficient_nms(portable(shapes), NmsSpec())
    assert [shape_of(output)[0] for output in model.graph.output] == [2, 2, 2, 2]


@pytest.mark.parametrize("batch", ["N", 2])
def test_anchors_of_each_image_are_taken_as_top_k_leaves_them(batch: int | str) -> None:
    shapes = {"class_logits": [batch, 6, 3], "box_deltas": [batch, 6, 4], "anchors": [batch, 6, 4]}
    model = append_efficient_nms(portable(shapes), NmsSpec())
    assert [shape_of(output)[0] for output in model.graph.output] == [batch] * 4


@pytest.mark.parametrize(
    "shapes",
    [
        {"class_logits": ["N", 6, 3], "box_deltas": ["N", 6, 5], "anchors": [1, 6, 4]},  # five values a box
        {"class_logits": ["N", 6, 3], "box_deltas": ["N", 5, 4], "anchors": [1, 6, 4]},  # another A
        {"class_logits": ["N", 6, 3], "box_deltas": ["N", 6, 4], "anchors": [1, 5, 4]},
        {"class_logits": ["N", 6, 3], "box_deltas": ["N", 6, 4], "anchors": [2, 6, 4]},  # anchors of two images
        {"class_logits": ["N", 6, 3], "box_deltas": ["B", 6, 4], "anchors": [1, 6, 4]},  # two kinds of batch
        {"class_logits": ["N", "A", 3], "box_deltas": ["N", "A", 4], "anchors": [1, 6, 4]},  # A unknown
        {"class_logits": ["N", 18], "box_deltas": ["N", 6, 4], "anchors": [1, 6, 4]},  # flat
        {"class_logits": ["N", 6, 3], "box_deltas": ["N", 6, 4]},  # no anchors
        {"class_logits": ["N", 6, 3], "box_deltas": ["N", 6, 4], "anchors": [1, 6, 4], "features": ["N", 8]},  # one too many
        {"scores": ["N", 6, 3], "box_deltas": ["N", 6, 4], "anchors": [1, 6, 4]},  # another name
    ],
)
def test_a_graph_with_other_outputs_is_refused_with_the_command_to_run(shapes: dict[str, list[int | str]]) -> None:
    with pytest.raises(EngineError, match=r"run python export/export_onnx\.py") as caught:
        append_efficient_nms(portable(shapes), NmsSpec())
    assert "\n" not in str(caught.value)


def test_half_outputs_are_refused() -> None:
    with pytest.raises(EngineError, match="FLOAT16"):
        append_efficient_nms(portable(kind=HALF), NmsSpec())


def test_a_graph_that_has_the_plugin_is_refused() -> None:
    with pytest.raises(EngineError, match="num_detections"):
        append_efficient_nms(append_efficient_nms(portable(), NmsSpec()), NmsSpec())


@pytest.fixture(scope="module")
def creator():
    """The plugin's creator in the registry of the TensorRT that is here; no GPU is needed for it."""
    trt = pytest.importorskip("tensorrt", reason="no TensorRT in this environment", exc_type=ImportError)
    from retinanet_edge.runtime.tensorrt_library import tensorrt_logger

    trt.init_libnvinfer_plugins(tensorrt_logger(), "")
    registry = trt.get_plugin_registry()
    # TensorRT 11 has all_creators only
    creators = registry.plugin_creator_list if hasattr(registry, "plugin_creator_list") else registry.all_creators
    found = [creator for creator in creators if creator.name == PLUGIN]
    assert len(found) == 1, "the plugin library knows it once"
    return found[0]


def test_tensorrt_knows_the_plugin_by_our_version_and_namespace(creator) -> None:
    attributes = plugin_attributes(NmsSpec())
    assert creator.plugin_version == attributes["plugin_version"]
    assert creator.plugin_namespace == attributes["plugin_namespace"]


def test_the_plugins_fields_are_our_attributes_by_name_and_type(creator) -> None:
    import tensorrt as trt

    kinds = {float: trt.PluginFieldType.FLOAT32, int: trt.PluginFieldType.INT32}
    ours = {n: kinds[type(v)] for n, v in plugin_attributes(NmsSpec()).items() if not n.startswith("plugin_")}
    theirs = {field.name: field.type for field in creator.field_names if field.name != "class_agnostic"}  # optional, from 8.6
    assert ours == theirs


def test_the_creator_makes_a_plugin_of_our_attributes(creator) -> None:
    import tensorrt as trt

    kinds = {float: (np.float32, trt.PluginFieldType.FLOAT32), int: (np.int32, trt.PluginFieldType.INT32)}
    fields = []
    for name, value in plugin_attributes(NmsSpec()).items():
        if not name.startswith("plugin_"):
            dtype, kind = kinds[type(value)]
            fields.append(trt.PluginField(name, np.array([value], dtype), kind))
    plugin = creator.create_plugin("efficient_nms", trt.PluginFieldCollection(fields))
    assert (plugin.plugin_type, plugin.plugin_version, plugin.num_outputs) == (PLUGIN, "1", len(OUTPUTS))


@pytest.mark.parametrize(
    ("anchors", "classes", "batch", "megabytes"),
    [
        (76725, 80, 1, 147.3),  # nine anchors at 640: 9 * (80^2 + 40^2 + 20^2 + 10^2 + 5^2) = 76725; * 80 classes * 24 bytes
        (76725, 80, 8, 1178.5),
        (3840, 80, 8, 59.0),
    ],
)
def test_the_plugins_memory_is_24_bytes_for_every_score(anchors: int, classes: int, batch: int, megabytes: float) -> None:
    assert plugin_workspace_bytes(anchors, classes, batch) / 1e6 == pytest.approx(megabytes, abs=0.05)
