"""Top-K per pyramid level in the portable graph: of each level only the K anchors with the best class go on to suppression.

Plain onnx, since build_engine.py runs where there is no torch; runtime/level_top_k.py is the same selection in NumPy. All that is added
TensorRT 8.5 reads at opset 17: TopK with an initializer for K, GatherND with batch_dims (GatherElements would need an index for every
class), sums of indexes, which are INT32 there. Of equal logits NumPy and ONNX Runtime take the first, OpenVINO and TensorRT any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper

from retinanet_edge.export.graph_editing import add_constant, add_maximum, add_node
from retinanet_edge.runtime.errors import EngineError

_LOGITS, _DELTAS, _ANCHORS = "class_logits", "box_deltas", "anchors"
_PREFIX = "level_top_k"  # of what is added: the quantizer tells nodes apart by their names


def append_level_top_k(model: onnx.ModelProto, sizes: Sequence[int], k: int) -> onnx.ModelProto:
    """Return a copy of the portable graph whose outputs hold at most k anchors of each level: those with the highest logit, best first.

    model: outputs class_logits [N, A, K], box_deltas [N, A, 4] and anchors [1, A, 4]. sizes: anchors of each level,
    together A. k: 1 to 3840, as NmsSpec has it. The copy has the same outputs with A' anchors, the sum of min(size, k), and anchors are
    [N, A', 4]; smaller levels stay as they are, and so does all where no level is larger. Raises EngineError for another graph.
    """
    bounded = onnx.ModelProto()
    bounded.CopyFrom(model)
    graph = bounded.graph
    _check_outputs(graph, sum(sizes))
    if max(sizes) <= k:
        return bounded
    logits, deltas, anchors = (_take_over(graph, name) for name in (_LOGITS, _DELTAS, _ANCHORS))
    rows = _rows(graph, add_maximum(bounded, f"{_PREFIX}/best", logits, axis=2), sizes, k)
    indexes = _node(graph, "Unsqueeze", "indexes", [rows, _constant(graph, "indexes/axis", [2])])  # [N, A', 1]
    _node(graph, "GatherND", _LOGITS, [logits, indexes], output=_LOGITS, batch_dims=1)
    _node(graph, "GatherND", _DELTAS, [deltas, indexes], output=_DELTAS, batch_dims=1)
    table = _node(graph, "Squeeze", "table", [anchors, _constant(graph, "table/axis", [0])])  # [A, 4]
    _node(graph, "Gather", _ANCHORS, [table, rows], output=_ANCHORS, axis=0)
    _state_shapes(graph, sum(min(size, k) for size in sizes))
    onnx.checker.check_model(bounded, full_check=True)
    return bounded


def _rows(graph: onnx.GraphProto, best: str, sizes: Sequence[int], k: int) -> str:
    """Add what finds the rows to keep, int64 [N, A'], by the best logit of each anchor [N, A]."""
    starts = [sum(sizes[:level]) for level in range(len(sizes))]
    of_levels = [
        _rows_of_level(graph, best, f"level{level}", start, size, k) if size > k else ""
        for level, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    zeros = _zeros(graph, next(filter(None, of_levels)))
    for level, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if size <= k:
            every = _constant(graph, f"level{level}/every_row", np.arange(start, start + size)[None])
            of_levels[level] = _node(graph, "Add", f"level{level}/rows", [every, zeros])
    return _node(graph, "Concat", "rows", of_levels, axis=1)


def _rows_of_level(graph: onnx.GraphProto, best: str, level: str, start: int, size: int, k: int) -> str:
    of_level = _slice(graph, f"{level}/best", best, start, start + size)
    name, count = f"{_PREFIX}/{level}/top_k", _constant(graph, f"{level}/k", [k])
    top_k = helper.make_node("TopK", [of_level, count], [f"{name}/values", f"{name}/places"], name, axis=1, largest=1, sorted=1)
    graph.node.append(top_k)
    return _node(graph, "Add", f"{level}/rows", [top_k.output[1], _constant(graph, f"{level}/start", [start])])


def _zeros(graph: onnx.GraphProto, rows: str) -> str:
    """Add int64 [N, 1], zeros: constants take the batch from them, so that the graph needs no Shape."""
    first = _slice(graph, "first_row", rows, 0, 1)
    return _node(graph, "Sub", "zeros", [first, first])


def _slice(graph: onnx.GraphProto, name: str, values: str, start: int, end: int) -> str:
    """Add the columns from `start` to before `end` of [N, ...]."""
    bounds = (_constant(graph, f"{name}/{what}", [value]) for what, value in (("start", start), ("end", end), ("axis", 1)))
    return _node(graph, "Slice", name, [values, *bounds])


def _node(graph: onnx.GraphProto, kind: str, name: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
    """Add a node of one output and return the output's name, by default the node's own."""
    return add_node(graph, kind, f"{_PREFIX}/{name}", inputs, output, **attributes)


def _constant(graph: onnx.GraphProto, name: str, values: ArrayLike) -> str:
    return add_constant(graph, f"{_PREFIX}/{name}", np.asarray(values, np.int64))


def _take_over(graph: onnx.GraphProto, output: str) -> str:
    """Give the tensor that was an output another name, and return it."""
    name = f"{_PREFIX}/all_{output}"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [name if each == output else each for each in names]
    for tensor in graph.initializer:
        tensor.name = name if tensor.name == output else tensor.name
    return name


def _check_outputs(graph: onnx.GraphProto, count: int) -> None:
    """Raise EngineError unless the outputs are those of the portable graph, of `count` anchors."""
    found = {output.name: [size.dim_value for size in output.type.tensor_type.shape.dim] for output in graph.output}  # 0: open
    logits = found.get(_LOGITS, [])
    if len(logits) != 3 or found != {_LOGITS: logits, _DELTAS: [logits[0], count, 4], _ANCHORS: [1, count, 4]} or logits[1] != count:
        raise EngineError(
            f"the graph must have {_LOGITS} [N, {count}, K], {_DELTAS} [N, {count}, 4] and {_ANCHORS} [1, {count}, 4], as the levels "
            f"of its card have, got {found}: run python export/export_onnx.py"
        )


def _state_shapes(graph: onnx.GraphProto, count: int) -> None:
    shapes = {output.name: output.type.tensor_type.shape for output in graph.output}
    for shape in shapes.values():
        shape.dim[1].dim_value = count
    shapes[_ANCHORS].dim[0].CopyFrom(shapes[_LOGITS].dim[0])
