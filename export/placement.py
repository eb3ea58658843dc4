"""Where Q/DQ is to stand in a graph, so that TensorRT fuses best and little accuracy is lost.

INT8 are the inputs and weights of convolutions, depthwise ones too, and what joins them:

- An addition that joins branches takes the output of its convolution (behind an activation, if it has one) as it is, so that the
  two fuse, and the other side, the skip or what comes from a coarser level, as INT8. Where both sides are such convolutions the
  deeper branch's fuses. Where none is, as between the blocks of a transformer, or where others read the convolution too, the addition
  stays in float.
- A concatenation that is read as INT8 has one pair, behind it, which compilers move in front of it; so what is concatenated, where others
  read it as INT8, too, has the same scale.

Float stay: outputs of convolutions (who reads them quantizes), biases, activations, normalisations, matrix products (attention), what
a Resize reads, the convolutions of squeeze-and-excite (on one cell, where they cost nothing and decide much), the last convolution
of each head and all behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx

# Operators on one value at a time: activations, and what they are made of.
_ELEMENTWISE = frozenset({
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Softplus", "Clip",
    "Mul", "Div",
})  # fmt: skip
_GLOBAL_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"})


@dataclass(frozen=True)
class Placement:
    """The places, by position in `graph.node`.

    reads: (node, input) pairs that take an activation through Q/DQ. convolutions: nodes whose weights go through Q/DQ.
    tensors: the activations of `reads`, each once, in the order of the graph. groups: those of them that share one scale.
    """

    reads: tuple[tuple[int, int], ...]
    convolutions: tuple[int, ...]
    tensors: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]

    def share_ranges(self, ranges: dict[str, float]) -> dict[str, float]:
        """Return the ranges with the largest of each group for all of it, so that none is cut off more than its own."""
        return ranges | {name: max(ranges[member] for member in group) for group in self.groups for name in group}


def find_placement(graph: onnx.GraphProto, kept: Collection[str] = ()) -> Placement:
    """Return where Q/DQ goes in a sorted FP32 graph; convolutions named in `kept` stay in float."""
    return _Finder(graph).place(kept)


def quantizable_layers(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Return the names of the convolutions that are INT8 where none is kept, in the order of the graph."""
    return tuple(graph.node[index].name for index in find_placement(graph).convolutions)


def choosable_tensors(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Return the activations that go through Q/DQ with some choice of kept layers.

    Which side of an addition does depends on which of its two convolutions are INT8. Both choices occur where one layer alone is.
    """
    finder, layers = _Finder(graph), set(quantizable_layers(graph))
    choices = (finder.place(kept) for kept in (set(), *(layers - {layer} for layer in sorted(layers))))
    return tuple(dict.fromkeys(name for choice in choices for name in choice.tensors))


class _Finder:
    """A graph with what the rules ask of it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.weights = {tensor.name for tensor in graph.initializer}
        self.constants = self.weights | {name for node in self.nodes if node.op_type == "Constant" for name in node.output}
        self.outputs = [output.name for output in graph.output]
        self.maker = {name: index for index, node in enumerate(self.nodes) for name in node.output}
        self.readers: dict[str, set[int]] = defaultdict(set)
        for index, node in enumerate(self.nodes):
            for name in node.input:
                self.readers[name].add(index)
        self.depths = self._depths()

    def place(self, kept: Collection[str]) -> Placement:
        convolutions = self._convolutions(kept)
        reads = tuple(sorted({(index, 0) for index in convolutions} | self._skips(convolutions)))
        tensors = tuple(dict.fromkeys(self._input(read) for read in reads))
        return Placement(reads, tuple(convolutions), tensors, self._groups(tensors))

    def _input(self, read: tuple[int, int]) -> str:
        name: str = self.nodes[read[0]].input[read[1]]
        return name

    def _computed(self, index: int) -> list[int]:
        """Return which inputs of a node are no constants."""
        return [place for place, name in enumerate(self.nodes[index].input) if name and name not in self.constants]

    def _convolutions(self, kept: Collection[str]) -> list[int]:
        last = self._last_convolutions()
        return [
            index for index, node in enumerate(self.nodes)
            if node.op_type == "Conv" and node.input[1] in self.weights and index not in last and node.name not in kept
            and not self._is_of_one_cell(node.input[0])
        ]  # fmt: skip

    def _last_convolutions(self) -> set[int]:
        """Return the convolutions from which a path leads to an output without another one."""
        found, seen, waiting = set[int](), set[int](), list(self.outputs)
        while waiting:
            index = self.maker.get(waiting.pop())
            if index is None or index in seen:
                continue
            seen.add(index)
            if self.nodes[index].op_type == "Conv":
                found.add(index)
            else:
                waiting += self.nodes[index].input
        return found

    def _is_elementwise(self, index: int) -> bool:
        kind = self.nodes[index].op_type
        return kind in _ELEMENTWISE or (kind in ("Add", "Sub") and len(self._computed(index)) == 1)

    def _is_of_one_cell(self, name: str) -> bool:
        """Whether a tensor comes from global pools through activations and convolutions alone."""
        waiting, seen = [name], set[int]()
        while waiting:
            index = self.maker.get(waiting.pop())
            if index is None:
                return False
            if index in seen or self.nodes[index].op_type in _GLOBAL_POOLS:
                continue
            if self.nodes[index].op_type != "Conv" and not self._is_elementwise(index):
                return False
            seen.add(index)
            waiting += [self.nodes[index].input[place] for place in self._computed(index)]
        return True

    def _skips(self, convolutions: Iterable[int]) -> set[tuple[int, int]]:
        """Return the inputs of additions that are to be INT8."""
        quantized, found = set(convolutions), set[tuple[int, int]]()
        for index, node in enumerate(self.nodes):
            if node.op_type != "Add" or len(self._computed(index)) != 2:
                continue
            fusing = [place for place in (0, 1) if self._ends_in(index, node.input[place], quantized)]
            if fusing:
                deepest = max(fusing, key=lambda place: self.depths[node.input[place]])
                found.add((index, 1 - deepest))
        return found

    def _ends_in(self, reader: int, name: str, convolutions: set[int]) -> bool:
        """Whether a tensor is a convolution's, perhaps behind an activation, on ways that lead to `reader` alone."""
        chain, waiting = {reader}, {self.maker.get(name, -1)}
        while waiting:
            index = max(waiting)  # the graph is sorted: whatever of the chain reads this one has been seen
            waiting.remove(index)
            if index < 0 or not all(self.readers[output] <= chain for output in self.nodes[index].output):
                continue
            if index in convolutions:
                return True
            if self._is_elementwise(index):
                chain.add(index)
                waiting |= {self.maker.get(self.nodes[index].input[place], -1) for place in self._computed(index)}
        return False

    def _groups(self, tensors: Collection[str]) -> tuple[tuple[str, ...], ...]:
        """Return which of the tensors enter or leave concatenations that are read as INT8, those of connected ones together."""
        one_scale, groups = set(tensors), list[set[str]]()
        for index in reversed(range(len(self.nodes))):
            node = self.nodes[index]
            if node.op_type != "Concat" or node.output[0] not in one_scale:
                continue
            members = {node.output[0], *node.input}
            one_scale |= members  # also for a concatenation right before this one
            connected = [group for group in groups if group & members]
            groups = [group for group in groups if group not in connected] + [members.union(*connected)]
        shared = (tuple(name for name in tensors if name in group) for group in groups)
        return tuple(sorted(group for group in shared if len(group) > 1))

    def _depths(self) -> dict[str, int]:
        """Return the longest path from the input to each tensor, in nodes. ONNX graphs are sorted, so one pass does it."""
        depths: dict[str, int] = {}
        for node in self.nodes:
            depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
            depths.update(dict.fromkeys(node.output, depth))
        return depths
