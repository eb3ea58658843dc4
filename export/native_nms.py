"""The path without the plugin: ONNX's own NonMaxSuppression, with decode and sigmoid as plain operators, for the day the plugin goes.

Its result is as long as what is found: one output `detections` float32 [S, 7], rows (image, x1, y1, x2, y2, score, class), which
runtime/native_rows.py sorts and cuts. TensorRT 8.5 and newer read it as INMSLayer; an engine of it takes an output allocator and no CUDA
graph. It finds what the plugin finds but where more than MOST_ROWS anchors, or 5000 scores, of an image would count.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from retinanet_edge.export.graph_editing import add_constant, add_maximum, add_node, copy_of
from retinanet_edge.export.nms import checked_batch
from retinanet_edge.runtime.model_card import NmsSpec

OUTPUT = "detections"
MOST_ROWS = 3840  # anchors of an image that go into suppression; TensorRT's TopK layer takes no more
_LOGITS, _DELTAS, _ANCHORS = "class_logits", "box_deltas", "anchors"
_PREFIX = "native_nms"


def append_native_nms(model: onnx.ModelProto, nms: NmsSpec) -> onnx.ModelProto:
    """Return a copy of the portable graph that ends in NonMaxSuppression.

    model: outputs class_logits [N, A, K], box_deltas [N, A, 4] and anchors [1, A, 4], after top-K [N, A, 4], all FP32. The copy's
    only output is `detections` float32 [S, 7], S <= N * K * nms.max_detections: max_detections of each class are kept, of which the host
    takes the best of all. Boxes are in the pixels of the anchors. Raises EngineError for a graph with other outputs.
    """
    checked_batch(model.graph)
    count = next(port for port in model.graph.output if port.name == _LOGITS).type.tensor_type.shape.dim[1].dim_value
    complete = copy_of(model)
    graph = complete.graph
    boxes, logits = _decode(graph), _LOGITS
    if count > MOST_ROWS:
        boxes, logits = _best_rows(complete, boxes, logits)
    scores = add_node(graph, "Sigmoid", f"{_PREFIX}/scores", [logits])
    by_class = add_node(graph, "Transpose", f"{_PREFIX}/by_class", [scores], perm=[0, 2, 1])  # [N, K, A]
    _add_rows(graph, boxes, by_class, _suppress(graph, boxes, by_class, nms))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["S", 7]))
    onnx.checker.check_model(complete, full_check=True)
    return complete


def _decode(graph: onnx.GraphProto) -> str:
    """Add what makes xyxy boxes [N, A, 4] of deltas and anchors, in the order of runtime/boxes.py's decode_center_size."""
    halves = add_constant(graph, f"{_PREFIX}/halves", np.array([2, 2]))
    parts = {}
    for name in (_DELTAS, _ANCHORS):  # [..., 2] each: centre and size
        parts[name] = [f"{_PREFIX}/{name}/centre", f"{_PREFIX}/{name}/size"]
        graph.node.append(helper.make_node("Split", [name, halves], parts[name], f"{_PREFIX}/{name}", axis=2))
    (shift, growth), (centre, size) = parts[_DELTAS], parts[_ANCHORS]
    moved = add_node(graph, "Mul", f"{_PREFIX}/shift", [shift, size])
    centres = add_node(graph, "Add", f"{_PREFIX}/centres", [moved, centre])
    grown = add_node(graph, "Mul", f"{_PREFIX}/sizes", [size, add_node(graph, "Exp", f"{_PREFIX}/growth", [growth])])
    half = add_node(graph, "Mul", f"{_PREFIX}/half", [grown, add_constant(graph, f"{_PREFIX}/one_half", np.array(0.5, np.float32))])
    corners = [add_node(graph, kind, f"{_PREFIX}/{kind.lower()}", [centres, half]) for kind in ("Sub", "Add")]
    return add_node(graph, "Concat", f"{_PREFIX}/boxes", corners, axis=2)


def _best_rows(model: onnx.ModelProto, boxes: str, logits: str) -> tuple[str, str]:
    """Add the selection of each image's MOST_ROWS anchors with the best class; return their boxes and logits."""
    graph, best = model.graph, add_maximum(model, f"{_PREFIX}/best", logits, axis=2)
    name, count = f"{_PREFIX}/top_k", add_constant(graph, f"{_PREFIX}/most_rows", np.array([MOST_ROWS]))
    graph.node.append(helper.make_node("TopK", [best, count], [f"{name}/values", f"{name}/rows"], name, axis=1, largest=1, sorted=1))
    last = add_constant(graph, f"{_PREFIX}/last_axis", np.array([2]))
    rows = add_node(graph, "Unsqueeze", f"{_PREFIX}/rows", [f"{name}/rows", last])  # [N, MOST_ROWS, 1]
    taken = [add_node(graph, "GatherND", f"{_PREFIX}/best_{what}", [values, rows], batch_dims=1)
             for what, values in (("boxes", boxes), ("logits", logits))]  # fmt: skip
    return taken[0], taken[1]


def _suppress(graph: onnx.GraphProto, boxes: str, by_class: str, nms: NmsSpec) -> str:
    """Add NonMaxSuppression; return int64 [S, 3], rows (image, class, anchor)."""
    # ONNX names corners (y1, x1, y2, x2), but any two opposite ones will do, and in an exchange of the axes IoU stays the same.
    # It keeps scores above, and suppresses boxes that overlap by more than, its threshold; the plugin those that equal it, too.
    just_below = {
        name: np.array([np.nextafter(np.float32(threshold), np.float32(0))], np.float32)
        for name, threshold in (("iou_threshold", nms.iou_threshold), ("score_threshold", nms.score_threshold))
    }
    limits = {"max_detections": np.array([nms.max_detections]), **just_below}
    constants = [add_constant(graph, f"{_PREFIX}/{name}", value) for name, value in limits.items()]
    return add_node(graph, "NonMaxSuppression", f"{_PREFIX}/selected", [boxes, by_class, *constants])


def _add_rows(graph: onnx.GraphProto, boxes: str, by_class: str, selected: str) -> None:
    """Add the output: what NonMaxSuppression selected, as rows (image, x1, y1, x2, y2, score, class)."""
    image, kind, image_and_anchor = (
        add_node(graph, "Gather", f"{_PREFIX}/{name}", [selected, add_constant(graph, f"{_PREFIX}/{name}/columns", columns)], axis=1)
        for name, columns in (("image", np.array([0])), ("class", np.array([1])), ("image_and_anchor", np.array([0, 2])))
    )
    scores = add_node(graph, "GatherND", f"{_PREFIX}/row_scores", [by_class, selected])  # [S]
    parts = [
        add_node(graph, "Cast", f"{_PREFIX}/float_image", [image], to=TensorProto.FLOAT),
        add_node(graph, "GatherND", f"{_PREFIX}/row_boxes", [boxes, image_and_anchor]),
        add_node(graph, "Unsqueeze", f"{_PREFIX}/score", [scores, add_constant(graph, f"{_PREFIX}/score_axis", np.array([1]))]),
        add_node(graph, "Cast", f"{_PREFIX}/float_class", [kind], to=TensorProto.FLOAT),
    ]
    add_node(graph, "Concat", f"{_PREFIX}/detections", parts, output=OUTPUT, axis=1)
