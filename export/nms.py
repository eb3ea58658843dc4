"""The one file that knows the plugin: it appends EfficientNMS_TRT to the portable graph when an engine is built.

Facts are of NVIDIA/TensorRT, plugin/efficientNMSPlugin, releases 8.5 to 11. The plugin decodes boxes itself (box_coding 1: centre
and size on the anchors), takes the sigmoid of the logits and suppresses by class; runtime/efficient_nms.py is its twin in NumPy.
The path without the plugin is native_nms.py.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import NmsSpec
from retinanet_edge.runtime.tensorrt_library import has_plugin

PLUGIN, PLUGIN_VERSION, PLUGIN_NAMESPACE = "EfficientNMS_TRT", "1", ""
COUNT_OUTPUT = "num_detections"
NODE = "efficient_nms"  # which TensorRT keeps as the layer's name
OUTPUTS = (COUNT_OUTPUT, "detection_boxes", "detection_scores", "detection_classes")
# TensorRT finds the plugin by operator name, whatever the domain; ONNX's checker skips domains that it does not know.
_DOMAIN = "TRT"
# Four int32 and two float32 buffers (EfficientNMSWorkspaceSize of efficientNMSInference.cu); its counters and sort add next to nothing.
_BYTES_PER_SCORE = 4 * 4 + 2 * 4
_LOGITS, _DELTAS, _ANCHORS = "class_logits", "box_deltas", "anchors"


def append_efficient_nms(model: onnx.ModelProto, nms: NmsSpec) -> onnx.ModelProto:
    """Return a copy of the portable graph that ends in the plugin.

    model: outputs class_logits [N, A, K], box_deltas [N, A, 4] and anchors [1, A, 4], after top-K [N, A, 4], all FP32. The copy's
    outputs are num_detections int32 [N, 1], detection_boxes [N, M, 4] (xyxy, input pixels), detection_scores [N, M] and detection_classes
    int32 [N, M], with M = nms.max_detections. Raises EngineError for a graph with other outputs.
    """
    batch = checked_batch(model.graph)
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    complete.graph.node.append(
        helper.make_node(
            PLUGIN, [_DELTAS, _LOGITS, _ANCHORS], OUTPUTS, name=NODE, domain=_DOMAIN, **plugin_attributes(nms)
        )
    )
    del complete.graph.output[:]
    complete.graph.output.extend(_output_types(batch, nms.max_detections))
    complete.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    onnx.checker.check_model(complete)
    return complete


def plugin_attributes(nms: NmsSpec) -> dict[str, float | int | str]:
    """Return the attributes of the node. The plugin crashes where one is missing or of another type."""
    return {
        "score_threshold": float(nms.score_threshold),
        "iou_threshold": float(nms.iou_threshold),
        "max_output_boxes": int(nms.max_detections),
        "background_class": -1,  # none: focal loss has a sigmoid for each class
        "score_activation": 1,  # sigmoid inside
        "box_coding": 1,  # centre and size
        "plugin_version": PLUGIN_VERSION,
        "plugin_namespace": PLUGIN_NAMESPACE,
    }


def plugin_workspace_bytes(anchors: int, classes: int, batch: int) -> int:
    """Return about how much GPU memory the plugin takes besides its inputs and outputs, FP32.

    anchors: those that enter it, after top-K. There is room for every score of every image, whether or not it passes the threshold.
    """
    return _BYTES_PER_SCORE * batch * anchors * classes


def has_nms_plugin() -> bool:
    """Say whether the registry of the TensorRT that is here has the plugin. Needs no GPU."""
    return has_plugin(PLUGIN, PLUGIN_VERSION)


def checked_batch(graph: onnx.GraphProto) -> int | str:
    """Return the batch, a number or a name. Raises EngineError where the outputs are not those of the portable graph."""
    found = {output.name: _describe(output) for output in graph.output}
    shapes = {name: shape for name, (kind, shape) in found.items() if kind == "FLOAT"}
    logits, deltas, anchors = (shapes.get(name, []) for name in (_LOGITS, _DELTAS, _ANCHORS))
    known = len(shapes) == len(found) == len(logits) == 3 and all(isinstance(size, int) for size in logits[1:])
    if not known or deltas != [*logits[:2], 4] or anchors not in ([1, *deltas[1:]], deltas):
        raise EngineError(
            f"the graph must have the FLOAT outputs {_LOGITS} [N, A, K], {_DELTAS} [N, A, 4] and {_ANCHORS} [1 or N, A, 4], "
            f"got {found}: run python export/export_onnx.py"
        )
    return logits[0]


def _describe(output: onnx.ValueInfoProto) -> tuple[str, list[int | str]]:
    """Return element type and shape; a dimension without a number is its name, "" where it has none."""
    tensor = output.type.tensor_type
    sizes = [size.dim_value if size.HasField("dim_value") else size.dim_param for size in tensor.shape.dim]
    return TensorProto.DataType.Name(tensor.elem_type), sizes


def _output_types(batch: int | str, kept: int) -> list[onnx.ValueInfoProto]:
    shapes: list[list[int | str]] = [[batch, 1], [batch, kept, 4], [batch, kept], [batch, kept]]
    kinds = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    return [helper.make_tensor_value_info(*parts) for parts in zip(OUTPUTS, kinds, shapes, strict=True)]
