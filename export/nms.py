"""The one file that knows the plugin: it appends EfficientNMS_TRT to the portable graph when an engine is built.

Facts are of NVIDIA/TensorRT, plugin/efficientNMSPlugin, releases 8.5 to 11. The plugin decodes boxes itself (box_coding 1: centre
and size on the anchors), takes the sigmoid of the logits and suppresses by class; runtime/efficient_nms.py is its twin in NumPy.
A path without the plugin would be another function of this signature, with the same four outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import NmsSpec

PLUGIN, PLUGIN_VERSION, PLUGIN_NAMESPACE = "EfficientNMS_TRT", "1", ""
COUNT_OUTPUT = "num_detections"
OUTPUTS = (COUNT_OUTPUT, "detection_boxes", "detection_scores", "detection_classes")
# Below it the plugin takes a dense path, slow, in which boxes below the threshold can come out.
LEAST_SCORE_THRESHOLD = 0.01
# TensorRT finds the plugin by operator name, whatever the domain; ONNX's checker skips domains that it does not know.
_DOMAIN = "TRT"
_LOGITS, _DELTAS, _ANCHORS = "class_logits", "box_deltas", "anchors"


def append_efficient_nms(model: onnx.ModelProto, nms: NmsSpec) -> onnx.ModelProto:
    """Return a copy of the portable graph that ends in the plugin.

    model: outputs class_logits [N, A, K], box_deltas [N, A, 4], anchors [1, A, 4], all FP32. The copy's outputs are num_detections
    int32 [N, 1], detection_boxes [N, M, 4] (xyxy, input pixels), detection_scores [N, M] and detection_classes int32 [N, M], with
    M = nms.max_detections. Raises EngineError for a graph with other outputs and for a score threshold the plugin is not fit for.
    """
    if nms.score_threshold < LEAST_SCORE_THRESHOLD:
        raise EngineError(
            f"the score threshold of an engine must be at least {LEAST_SCORE_THRESHOLD}, got {nms.score_threshold}: "
            "raise nms.score_threshold in card.json"
        )
    batch = _check_outputs(model.graph)
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    complete.graph.node.append(
        helper.make_node(
            PLUGIN, [_DELTAS, _LOGITS, _ANCHORS], OUTPUTS, name="efficient_nms", domain=_DOMAIN, **plugin_attributes(nms)
        )
    )
    del complete.graph.output[:]
    complete.graph.output.extend(_output_types(batch, nms.max_detections))
    complete.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    onnx.checker.check_model(complete)
    return complete


def plugin_attributes(nms: NmsSpec) -> dict[str, float | int | str]:
    """Return the attributes of the node. The plugin crashes on a missing one and refuses a float for an integer, or the reverse."""
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


def _check_outputs(graph: onnx.GraphProto) -> str | int:
    """Return the batch dimension, name or number. Raises EngineError where the outputs are not those of the portable graph."""
    found = {output.name: _describe(output) for output in graph.output}
    _, anchors, classes = found.get(_LOGITS, ("", 0, 0))[-1] if False else _dimensions(graph, _LOGITS)
    batch = _dimensions(graph, _LOGITS)[0]
    return batch
