"""Which nodes of a contract graph compute in FP16 and which stay in FP32, and the Casts where they meet.

FP32 stay: all before the first convolution; all behind the last ones, so that top-K, decode and NMS see FP32; the operators that
lose in FP16, by name; and a node with a constant that FP16 does not hold. All else runs in FP16, the last convolutions too: they are a
sixth of a RetinaNet-R50's arithmetic at 80 classes, which a GPU does two (TF32) to sixteen times as fast in FP16, and FP32 there gains
nothing that counts: on 100 scenes, rounded node by node, the demo's model has AP 0.73836 with them in FP16, 0.73838 in FP32, of 0.73841.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.export.graph_editing import drop_unread

_MATRIX_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum")
# Sums over many values stand still in FP16 (squeeze-and-excite, means of normalisations, and softmax, which is one too); powers and
# exponentials leave its range, from |x| = 256 and x = 11 on. LayerNormalization is not here: the standard has it take its statistics
# in FP32 (stash_type), whatever the type of its input. Of InstanceNormalization, which a group norm becomes, it says nothing.
_KEPT_IN_FP32 = frozenset({
    "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "CumSum",
    "GlobalAveragePool", "GlobalLpPool", "InstanceNormalization", "GroupNormalization", "BatchNormalization", "LpNormalization",
    "Softmax", "LogSoftmax", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Softplus", "Mish",
    "Cast",  # says its type itself
})  # fmt: skip
_ALWAYS_FLOAT = {"Resize": (1, 2)}  # operator -> inputs that the standard types as FLOAT whatever the data: region and scales
_LARGEST, _SMALLEST_NORMAL = float(np.finfo(np.float16).max), float(np.finfo(np.float16).smallest_normal)


def largest_value(values: NDArray[np.float32]) -> float:
    """Return the largest magnitude of a constant, infinities aside, which are as infinite in FP16."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def is_subnormal(values: NDArray[np.float32]) -> bool:
    """Say whether no value of a constant is normal in FP16, and not all are 0.

    Otherwise rounding moves no value by more than 2^-11 of the largest.
    """
    return 0 < largest_value(values) < _SMALLEST_NORMAL


def to_half_precision(model: onnx.ModelProto) -> list[str]:
    """Rewrite the graph of a valid FP32 model in place; ports keep their types. Return the constants that stay FP32 for their values."""
    graph = model.graph
    floats = _float_tensors(model)
    constants = {name: tensor for name, tensor in _constants(graph).items() if name in floats}
    values = {name: numpy_helper.to_array(tensor) for name, tensor in constants.items()}
    too_large = {name for name, value in values.items() if largest_value(value) > _LARGEST}
    too_small = {name for name, value in values.items() if is_subnormal(value)}
    kept = _kept_nodes(graph, floats, too_large, too_small)
    _Rewriting(graph, floats, constants, kept).run()
    del graph.value_info[:]  # of the former types
    read = {name for node in graph.node if node.output[0] in kept for name in _typed_inputs(node)}
    return sorted((too_large | too_small) & read)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    names = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Return the initializers, and what Constant nodes hold as tensors, by name."""
    nodes = (node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value")
    return {tensor.name: tensor for tensor in graph.initializer} | {node.output[0]: node.attribute[0].t for node in nodes}


def _typed_inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Return the inputs whose type is that of the node's arithmetic; those that are not there have no name."""
    always_float = _ALWAYS_FLOAT.get(node.op_type, ())
    return (name for index, name in enumerate(node.input) if name and index not in always_float)


def _kept_nodes(graph: onnx.GraphProto, floats: set[str], too_large: set[str], too_small: set[str]) -> set[str]:
    """Return the nodes that stay FP32, each by its first output."""
    kept = _before_first_convolutions(graph) | _behind_last_convolutions(graph)
    constants = _constants(graph)
    for node in graph.node:
        typed = set(_typed_inputs(node))
        unfit = typed & too_large or (typed - _addends(node)) & too_small
        ratio = node.op_type == "Div" and node.input[1] not in constants  # of two tensors, as in a norm; a GELU's by a constant is none
        if node.op_type in _KEPT_IN_FP32 or unfit or ratio or not typed & floats:  # the last make floats of none
            kept.add(node.output[0])
    return kept | _between(graph, kept, too_small)


def _addends(node: onnx.NodeProto) -> set[str]:
    """Return the inputs that are added to others of FP16's precision: near 0 they change nothing, and cost nothing where they are lost."""
    if node.op_type in ("Add", "Sub"):
        return set(node.input)
    return set(node.input[2:]) if node.op_type in (*_MATRIX_PRODUCTS, "LayerNormalization") else set()


def _before_first_convolutions(graph: onnx.GraphProto) -> set[str]:
    """Return the preprocessing: FP16 takes over behind it.

    There values are small. A normalised pixel is within about 3 of 0, where FP16's steps are an eighth of those between pixel values.
    """
    done = {*(port.name for port in graph.input), *(tensor.name for tensor in graph.initializer), ""}
    nodes = set()
    for node in graph.node:  # ONNX graphs are sorted
        if set(node.input) <= done and node.op_type not in (*_MATRIX_PRODUCTS, "QuantizeLinear", "DequantizeLinear"):
            done.update(node.output)
            nodes.add(node.output[0])
    return nodes


def _behind_last_convolutions(graph: onnx.GraphProto) -> set[str]:
    producers = {name: node for node in graph.node for name in node.output}
    nodes: set[str] = set()
    waiting = [port.name for port in graph.output]
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.op_type not in _MATRIX_PRODUCTS and node.output[0] not in nodes:
            nodes.add(node.output[0])
            waiting += node.input
    return nodes


def _between(graph: onnx.GraphProto, kept: set[str], too_small: set[str]) -> set[str]:
    """Return what stands in FP32 in front of nodes in FP32 only, as a variance and its epsilon in front of a root does."""
    fp32 = {name for node in graph.node if node.output[0] in kept for name in node.output} | too_small  # and what depends on it
    readers: dict[str, set[str]] = {port.name: {""} for port in graph.output}
    for node in graph.node:
        if node.op_type not in _MATRIX_PRODUCTS and fp32 & set(node.input):
            fp32.update(node.output)
        for name in node.input:
            readers.setdefault(name, set()).add(node.output[0])
    between: set[str] = set()
    for node in reversed(graph.node):
        to = set().union(*(readers.get(name, set()) for name in node.output))
        if set(node.output) <= fp32 and to <= kept | between:
            between.add(node.output[0])
    return between


class _Rewriting:
    """One pass over a graph: every node gets its inputs in the type that it computes in."""

    def __init__(self, graph: onnx.GraphProto, floats: set[str], constants: dict[str, TensorProto], kept: set[str]) -> None:
        self.graph, self.floats, self.constants, self.kept = graph, floats, constants, kept
        self.halves: set[str] = set()  # tensors that became FP16
        self.casts: dict[str, str] = {}  # what there is in the other type, too -> its name there

    def run(self) -> None:
        nodes = list(self.graph.node)
        del self.graph.node[:]
        for node in nodes:
            half = node.output[0] not in self.kept
            always_float = _ALWAYS_FLOAT.get(node.op_type, ())
            for index, name in enumerate(node.input):
                if name in self.floats:
                    node.input[index] = self._in_type(name, half and index not in always_float)
            self.graph.node.append(node)
            if half:
                self.halves.update(name for name in node.output if name in self.floats)
        drop_unread(self.graph)

    def _in_type(self, name: str, half: bool) -> str:
        """Return the name of a tensor's FP16 or FP32 form, after adding it where it is not there."""
        if half == (name in self.halves):
            return name
        if name not in self.casts:
            self.casts[name] = f"{name}/{'fp16' if half else 'fp32'}"
            if name in self.constants:
                with np.errstate(under="ignore"):
                    values = numpy_helper.to_array(self.constants[name]).astype(np.float16)
                self.graph.initializer.append(numpy_helper.from_array(values, self.casts[name]))
            else:
                kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                self.graph.node.append(helper.make_node("Cast", [name], [self.casts[name]], self.casts[name], to=kind))
        return self.casts[name]
