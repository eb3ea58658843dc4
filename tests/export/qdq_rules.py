"""The rules of placement, read from a finished Q/DQ graph alone: each returns what breaks it, in words.

What a node is (a last convolution, the branch of an addition) is told from `plain`, the same graph without its pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

ACTIVATIONS = {"Relu", "Sigmoid", "HardSigmoid", "HardSwish", "Mul", "Clip", "Tanh"}


class Graph:
    """A graph and who makes and reads its tensors."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.maker = {output: node for node in self.nodes for output in node.output}
        self.outputs = {output.name for output in model.graph.output}

    def of(self, kind: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type == kind]

    def kind(self, name: str) -> str:
        made_by = self.maker.get(name)
        return made_by.op_type if made_by is not None else "constant" if name in self.constants else "input"

    def is_constant(self, name: str) -> bool:
        return self.kind(name) in ("constant", "Constant")

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def behind(self, name: str) -> str:
        """The tensor before its Q/DQ pair, itself where it has none."""
        if self.kind(name) != "DequantizeLinear":
            return name
        raw: str = self.maker[self.maker[name].input[0]].input[0]
        return raw

    def plain(self) -> Graph:
        """The graph without Q/DQ, nodes at their names."""
        copied = onnx.ModelProto.FromString(self.model.SerializeToString())
        del copied.graph.node[:]
        for node in self.nodes:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                copied.graph.node.append(node)
                for index, name in enumerate(node.input):
                    copied.graph.node[-1].input[index] = self.behind(name)
        return Graph(copied)

    def before(self, name: str) -> list[onnx.NodeProto]:
        """All nodes from which a path leads to a tensor, the nearest first."""
        found, waiting = [], [name]
        while waiting:
            node = self.maker.get(waiting.pop(0))
            if node is not None and not any(node is other for other in found):
                found.append(node)
                waiting += node.input
        return found

    def branch(self, addition: onnx.NodeProto, name: str) -> onnx.NodeProto | None:
        """The convolution that a side of an addition comes from, through activations, where nothing else reads it."""
        node = self.maker.get(name)
        if node is None:
            return None
        if node.op_type == "Conv":
            return node if self.readers(name) == [addition] else None
        if node.op_type == "Mul":  # SiLU: x * sigmoid(x)
            source, gate = sorted(node.input, key=lambda n: self.kind(n) == "Sigmoid")
            if self.kind(gate) != "Sigmoid" or self.maker[gate].input[0] != source or self.kind(source) != "Conv":
                return None
            return self.maker[source] if self.readers(name) == [addition] and len(self.readers(source)) == 2 else None
        return self.branch(node, node.input[0]) if node.op_type in ACTIVATIONS and self.readers(name) == [addition] else None


def last_convolutions(plain: Graph) -> set[str]:
    found, waiting = set(), list(plain.outputs)
    while waiting:
        node = plain.maker.get(waiting.pop())
        if node is not None and node.op_type == "Conv":
            found.add(node.name)
        elif node is not None:
            waiting += node.input
    return found


def squeezed_convolutions(plain: Graph) -> set[str]:
    """Those between a mean over the whole map and the gate that it becomes, a factor of a Mul."""
    found, waiting = set(), [node.output[0] for kind in ("ReduceMean", "GlobalAveragePool") for node in plain.of(kind)]
    while waiting:
        for node in plain.readers(waiting.pop()):
            is_swish = node.op_type == "Mul" and len({plain.maker[name].input[0] for name in node.input} & set(node.input)) == 1
            if node.op_type == "Conv":
                found.add(node.name)
            if node.op_type == "Conv" or is_swish or node.op_type in ACTIVATIONS - {"Mul"}:
                waiting.append(node.output[0])
    return found


def wrong_convolutions(graph: Graph) -> Iterator[str]:
    """INT8 input and weights, depthwise ones too, but for the last ones and those of squeeze-and-excite; float bias."""
    plain = graph.plain()
    in_float = last_convolutions(plain) | squeezed_convolutions(plain)
    for node in graph.of("Conv"):
        is_float = node.name in in_float
        for index, what in ((0, "input"), (1, "weights")):
            quantized = graph.kind(node.input[index]) == "DequantizeLinear"
            if quantized == is_float:
                yield f"{node.name}: {what} {'INT8' if quantized else 'in float'}"
        if any(not graph.is_constant(name) for name in node.input[2:]):
            yield f"{node.name}: bias is not a constant"


def wrong_tails(graph: Graph) -> Iterator[str]:
    """Behind the last convolutions nothing is quantized: logits, deltas, decode, top-K and NMS."""
    waiting = list(graph.outputs)
    while waiting:
        node = graph.maker.get(waiting.pop())
        if node is not None and node.op_type != "Conv":
            waiting += node.input
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                yield f"{node.name}: behind the last convolutions"


def wrong_additions(graph: Graph) -> Iterator[str]:
    """The convolution's side as it is and the other one INT8; where neither is a convolution's, both in float."""
    plain = graph.plain()
    additions = {node.name: node for node in plain.of("Add")}
    for node in graph.of("Add"):
        if any(graph.is_constant(name) for name in node.input):
            if "DequantizeLinear" in map(graph.kind, node.input):
                yield f"{node.name}: a constant is added to INT8"
            continue
        convolutions = [plain.branch(additions[node.name], name) for name in additions[node.name].input]
        quantized = [graph.kind(name) == "DequantizeLinear" for name in node.input]
        if not any(convolutions):
            if any(quantized):
                yield f"{node.name}: INT8 and no convolution to fuse with"
        elif sorted(quantized) != [False, True]:
            yield f"{node.name}: {sum(quantized)} sides INT8, not one"
        elif convolutions[quantized.index(False)] is None:
            yield f"{node.name}: the convolution's side is INT8"


def shallow_fusions(graph: Graph) -> Iterator[str]:
    """Of two convolutions that are added, the one of the longer branch fuses."""
    for node in graph.of("Add"):
        sides = [graph.behind(name) for name in node.input]
        if [graph.kind(name) for name in sides] == ["Conv", "Conv"]:
            lengths = [len([n for n in graph.before(name) if n.op_type == "Conv"]) for name in sides]
            raw = [graph.kind(name) for name in node.input].index("Conv")
            if lengths[raw] < max(lengths):
                yield f"{node.name}: the shorter branch fuses"


def wrong_concats(graph: Graph) -> Iterator[str]:
    """What a quantized concatenation joins is quantized with its scale, wherever else it is."""
    for node in graph.of("Concat"):
        scales = {float(graph.constants[maker.input[1]]) for maker in graph.readers(node.output[0]) if maker.op_type == "QuantizeLinear"}
        waiting = list(node.input) if scales else []
        while waiting:
            name = waiting.pop()
            scales |= {float(graph.constants[maker.input[1]]) for maker in graph.readers(name) if maker.op_type == "QuantizeLinear"}
            if graph.kind(name) == "Concat":
                waiting += graph.maker[name].input
        if len(scales) > 1:
            yield f"{node.name}: {len(scales)} scales"


def wrong_readers(graph: Graph) -> Iterator[str]:
    """INT8 is read by convolutions and additions alone: not by Resize, concatenation, attention, normalisation or activation."""
    for node in graph.of("DequantizeLinear"):
        for reader in graph.readers(node.output[0]):
            if reader.op_type not in ("Conv", "Add"):
                yield f"{reader.name}: {reader.op_type} reads INT8"


def wrong_forms(graph: Graph) -> Iterator[str]:
    """Pairs as TensorRT 8.5 reads them: three inputs, FP32 scales, INT8 zeros; one scale, for weights one each output channel."""
    if [(entry.domain, entry.version) for entry in graph.model.opset_import] != [("", 17)]:
        yield "not opset 17"
    for node in graph.of("BatchNormalization"):
        yield f"{node.name}: not folded"
    for node in (*graph.of("QuantizeLinear"), *graph.of("DequantizeLinear")):
        scales, zeros = (graph.constants.get(name) for name in (*node.input, "", "")[1:3])
        if scales is None or zeros is None:
            yield f"{node.name}: without scale or zero point"
            continue
        if scales.dtype != np.float32 or zeros.dtype != np.int8 or zeros.any() or zeros.shape != scales.shape or (scales <= 0).any():
            yield f"{node.name}: not symmetric INT8 with FP32 scales"
        before = node.input[0] if node.op_type == "QuantizeLinear" else graph.maker[node.input[0]].input[0]
        weights = graph.constants.get(before)
        axis = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
        if weights is None and scales.shape != ():
            yield f"{node.name}: several scales of an activation"
        if weights is not None and (axis != [0] or scales.shape != weights.shape[:1] or weights.dtype != np.float32):
            yield f"{node.name}: not one scale for each output channel of FP32 weights"


RULES = (
    wrong_convolutions, wrong_tails, wrong_additions, shallow_fusions, wrong_concats, wrong_readers, wrong_forms,
)  # fmt: skip


def broken_rules(model: onnx.ModelProto) -> list[str]:
    """Return everything that breaks a rule."""
    graph = Graph(model)
    return [complaint for rule in RULES for complaint in rule(graph)]
