"""Where Q/DQ stands, by the rules of qdq_rules.py: on hand-made graphs, also wrong ones, and on every family of backbones."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.export.placement import Placement, find_placement
from retinanet_edge.export.quantize import insert_qdq, quantize
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, ModelCard, NetworkSpec
from retinanet_edge.runtime.openvino_engine import OpenVINOEngine
from tests.export.qdq_rules import Graph, broken_rules

SPEC = InputSpec(64, 64, (120.0,) * 3, (60.0,) * 3)
LEVEL_STRIDES = (8, 16, 32, 64, 128)
ANCHORS = AnchorSpec(LEVEL_STRIDES, tuple(4.0 * s for s in LEVEL_STRIDES), (1.0,), (1.0,))


def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    """A node named as its output, [1, 4, 8, 8] all of them; a convolution "x w" has weights w and a bias."""
    names = [*inputs.split(), *(["bias"] if kind == "Conv" else [])]
    return helper.make_node(kind, names, [output], output, **attributes)


def model(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A graph from `x` through the nodes to a last convolution of "end"."""
    generator = np.random.default_rng(0)
    values = {"bias": np.zeros(4), "one": np.ones(()), "region": np.zeros(0), "sizes": np.array([1.0, 1, 1, 1])}
    values |= {name: generator.normal(size=(4, 4, 1, 1)) for name in ("w", "v", "u", "last", "s1", "s2")}
    values |= {"wide": generator.normal(size=(4, 8, 1, 1)), "deep": generator.normal(size=(4, 1, 1, 1)), "widest": np.ones((4, 16, 1, 1))}
    all_nodes = [*nodes, node("Conv", "end last", "y")]
    read = {name for n in all_nodes for name in n.input}
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items() if name in read]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8])] for name in ("x", "y")]
    graph = helper.make_graph(all_nodes, "test", *ports, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def placed(plain: onnx.ModelProto, kept: tuple[str, ...] = ()) -> set[str]:
    """The places, as "reader<-tensor"."""
    placement = find_placement(plain.graph, kept)
    return {f"{plain.graph.node[i].name}<-{plain.graph.node[i].input[j]}" for i, j in placement.reads}


def with_qdq(plain: onnx.ModelProto, *places: str, weights: tuple[str, ...] | None = None) -> onnx.ModelProto:
    """The graph with Q/DQ where told ("reader<-tensor", ranges 1), be it right or wrong; weights of all INT8 convolutions, or of these."""
    pairs = {tuple(place.split("<-")) for place in places}
    names = {n.name: i for i, n in enumerate(plain.graph.node)}
    reads = tuple(sorted((names[reader], list(plain.graph.node[names[reader]].input).index(tensor)) for reader, tensor in pairs))
    convolutions = tuple(i for i, j in reads if plain.graph.node[i].op_type == "Conv" and j == 0)
    if weights is not None:
        convolutions = tuple(names[name] for name in weights)
    tensors = tuple(dict.fromkeys(plain.graph.node[i].input[j] for i, j in reads))
    return insert_qdq(plain, Placement(reads, convolutions, tensors, ()), dict.fromkeys(tensors, 1.0))


RESIDUAL = model(
    node("Relu", "x", "r"), node("Conv", "r w", "a"), node("Relu", "a", "b"), node("Conv", "b v", "c"), node("Add", "c r", "d"),
    node("Relu", "d", "end"),
)  # fmt: skip
SILU = model(
    node("Relu", "x", "r"), node("Conv", "r w", "a"), node("Sigmoid", "a", "g"), node("Mul", "a g", "b"), node("Add", "r b", "end"),
)  # fmt: skip
DOWNSAMPLE = model(
    node("Relu", "x", "r"), node("Conv", "r w", "a"), node("Relu", "a", "b"), node("Conv", "b v", "c"), node("Conv", "r u", "short"),
    node("Add", "short c", "d"), node("Relu", "d", "end"),
)  # fmt: skip
FLOAT_ADD = model(node("MatMul", "x x", "m"), node("Add", "m x", "d"), node("Conv", "d w", "e"), node("Relu", "e", "end"))
SHARED_CONV = model(node("Conv", "x w", "a"), node("Neg", "a", "n"), node("Add", "n a", "d"), node("Relu", "d", "end"))
PYRAMID = model(
    node("Relu", "x", "coarse"), node("Resize", "coarse region sizes", "up", mode="nearest"), node("Conv", "x w", "lateral"),
    node("Add", "lateral up", "sum"), node("Conv", "sum v", "p"), node("Conv", "coarse u", "q"), node("Add", "p q", "s"),
    node("Relu", "s", "end"),
)  # fmt: skip
CONCAT = model(
    node("Relu", "x", "a"), node("Neg", "x", "b"), node("Concat", "a b", "both", axis=1), node("Conv", "both wide", "c"),
    node("Conv", "a w", "d"), node("Add", "c d", "s"), node("Relu", "s", "end"),
)  # fmt: skip
FLOAT_CONCAT = model(
    node("Relu", "x", "a"), node("Neg", "x", "b"), node("Concat", "a b", "both", axis=1), node("Relu", "both", "r"),
    node("Conv", "r wide", "c"), node("Relu", "c", "end"),
)  # fmt: skip
SQUEEZE = model(
    node("Conv", "x deep", "a", group=4), node("HardSwish", "a", "b"), node("ReduceMean", "b", "m", axes=[2, 3]), node("Conv", "m s1", "f"),
    node("Relu", "f", "g"), node("Conv", "g s2", "h"), node("HardSigmoid", "h", "i"), node("Mul", "b i", "j"), node("Conv", "j w", "k"),
    node("HardSwish", "k", "end"),
)  # fmt: skip
NORM = model(
    node("Conv", "x w", "a"), node("Mul", "a one", "n"), node("Add", "n one", "o"), node("Relu", "o", "r"), node("Conv", "r v", "b"),
    node("Relu", "b", "end"),
)  # fmt: skip

RIGHT = {
    "residual": (RESIDUAL, {"a<-r", "c<-b", "d<-r"}),
    "SiLU": (SILU, {"a<-r", "end<-r"}),
    "downsample": (DOWNSAMPLE, {"a<-r", "c<-b", "short<-r", "d<-short"}),
    "addition without convolution": (FLOAT_ADD, {"e<-d"}),
    "convolution with other readers": (SHARED_CONV, {"a<-x"}),
    "pyramid": (PYRAMID, {"lateral<-x", "sum<-up", "p<-sum", "q<-coarse", "s<-q"}),
    "concatenation": (CONCAT, {"c<-both", "d<-a", "s<-d"}),
    "concatenation in float": (FLOAT_CONCAT, {"c<-r"}),
    "squeeze-and-excite": (SQUEEZE, {"a<-x", "k<-j"}),
    "scale and shift": (NORM, {"a<-x", "b<-r"}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_places_are_those_of_the_rules(name: str) -> None:
    plain, expected = RIGHT[name]
    assert placed(plain) == expected
    ranges = dict.fromkeys(find_placement(plain.graph).tensors, 1.0)
    assert broken_rules(insert_qdq(plain, find_placement(plain.graph), ranges)) == []


WRONG = [
    ("residual", {"d<-c"}, set(), "d: 2 sides INT8, not one"),
    ("residual", {"d<-c"}, {"d<-r"}, "d: the convolution's side is INT8"),
    ("residual", set(), {"d<-r"}, "d: 0 sides INT8, not one"),
    ("residual", set(), {"c<-b"}, "c: input in float"),
    ("residual", {"y<-end"}, set(), "y: input INT8"),
    ("residual", {"b<-a"}, set(), "b: Relu reads INT8"),
    ("SiLU", {"end<-b"}, {"end<-r"}, "end: the convolution's side is INT8"),
    ("SiLU", {"g<-a"}, set(), "g: Sigmoid reads INT8"),
    ("downsample", {"d<-c"}, {"d<-short"}, "d: the shorter branch fuses"),
    ("addition without convolution", {"d<-x"}, set(), "d: INT8 and no convolution to fuse with"),
    ("addition without convolution", {"m<-x"}, set(), "m: MatMul reads INT8"),
    ("convolution with other readers", {"d<-n"}, set(), "d: INT8 and no convolution to fuse with"),
    ("pyramid", {"up<-coarse"}, set(), "up: Resize reads INT8"),
    ("concatenation", {"both<-b"}, set(), "both: Concat reads INT8"),
    ("squeeze-and-excite", {"f<-m"}, set(), "f: input INT8"),
    ("squeeze-and-excite", set(), {"a<-x"}, "a: input in float"),
    ("scale and shift", {"o<-n"}, set(), "o: a constant is added to INT8"),
]


@pytest.mark.parametrize(("name", "more", "less", "complaint"), WRONG, ids=[complaint for *_, complaint in WRONG])
def test_another_place_breaks_a_rule(name: str, more: set[str], less: set[str], complaint: str) -> None:
    plain, right = RIGHT[name]
    assert complaint in broken_rules(with_qdq(plain, *(right | more) - less))


def test_other_forms_break_a_rule() -> None:
    right = with_qdq(RESIDUAL, *RIGHT["residual"][1])
    assert broken_rules(right) == []
    two_inputs, per_tensor, with_zero_point, behind = (onnx.ModelProto.FromString(right.SerializeToString()) for _ in range(4))
    next(n for n in two_inputs.graph.node if n.op_type == "QuantizeLinear").input.pop()
    assert any("without scale or zero point" in text for text in broken_rules(two_inputs))
    for tensor in per_tensor.graph.initializer:
        if tensor.name == "w/scale":
            tensor.CopyFrom(numpy_helper.from_array(np.float32(0.1), "w/scale"))
    assert any("not one scale for each output channel" in text for text in broken_rules(per_tensor))
    for tensor in with_zero_point.graph.initializer:
        if tensor.name == "r/zero_point":
            tensor.CopyFrom(numpy_helper.from_array(np.int8(3), "r/zero_point"))
    assert any("not symmetric" in text for text in broken_rules(with_zero_point))
    behind.graph.node.append(helper.make_node("QuantizeLinear", ["y", "r/scale", "r/zero_point"], ["q"], "late"))
    behind.graph.output[0].name = "q"
    assert "late: behind the last convolutions" in broken_rules(behind)


def test_weights_alone_in_float_break_a_rule() -> None:
    assert "a: weights in float" in broken_rules(with_qdq(RESIDUAL, *RIGHT["residual"][1], weights=("c",)))


def test_two_scales_of_a_concatenation_break_a_rule_and_ranges_are_shared() -> None:
    placement = find_placement(CONCAT.graph)
    ranges = {"both": 2.5, "a": 3.0, "d": 1.0}
    assert set(ranges) == {*placement.tensors}
    assert placement.groups == (("both", "a"),)
    assert placement.share_ranges(ranges) == {"both": 3.0, "a": 3.0, "d": 1.0}
    assert broken_rules(insert_qdq(CONCAT, placement, ranges)) == []
    alone = Placement(placement.reads, placement.convolutions, placement.tensors, ())
    assert broken_rules(insert_qdq(CONCAT, alone, ranges)) == ["both: 2 scales"]


NESTED = model(
    node("Relu", "x", "a"), node("Neg", "x", "n"), node("Conv", "n w", "b"), node("Concat", "a b", "inner", axis=1),
    node("MaxPool", "inner", "m", kernel_shape=[1, 1]),
    node("Concat", "m inner", "outer", axis=1), node("Conv", "a v", "c"), node("Conv", "b u", "d"), node("Conv", "outer widest", "e"),
    node("Add", "c d", "f"), node("Add", "f e", "g"), node("Relu", "g", "end"),
)  # fmt: skip


def test_concatenations_of_concatenations_share_one_scale() -> None:
    placement = find_placement(NESTED.graph)
    assert placed(NESTED) == {"b<-n", "c<-a", "d<-b", "e<-outer", "f<-c", "g<-f"}
    assert placement.groups == (("a", "b", "outer"),)  # the inner one and what is pooled have no pair of their own
    ranges = {name: float(index) for index, name in enumerate(placement.tensors, 1)}
    assert broken_rules(insert_qdq(NESTED, placement, ranges)) == []
    alone = Placement(placement.reads, placement.convolutions, placement.tensors, ())
    assert broken_rules(insert_qdq(NESTED, alone, ranges)) == ["outer: 3 scales"]


def test_concatenations_with_a_part_in_common_share_one_scale() -> None:
    common = model(
        node("Relu", "x", "a"), node("Neg", "x", "b"), node("Concat", "a b", "first", axis=1), node("Concat", "b a", "second", axis=1),
        node("Conv", "first wide", "c"), node("Conv", "second wide", "d"), node("Add", "c d", "e"), node("Relu", "e", "end"),
    )  # fmt: skip
    assert find_placement(common.graph).groups == (("first", "second"),)
    assert find_placement(FLOAT_CONCAT.graph).groups == ()


def test_convolutions_that_are_kept_stay_in_float_with_what_they_would_fuse() -> None:
    assert placed(RESIDUAL, kept=("c",)) == {"a<-r"}
    assert placed(RESIDUAL, kept=("a",)) == {"c<-b", "d<-r"}


FAMILIES = {  # family -> how often each operator that a rule is about has to be there
    "test_resnet": {"InstanceNormalization": 20, "AveragePool": 3},
    "resnet10t": {"Add": 6},
    "resnetv2_18": {"Add": 18},
    "mobilenetv3_small_050": {"HardSwish": 18, "HardSigmoid": 9, "ReduceMean": 9},
    "test_efficientnet": {"Sigmoid": 12, "ReduceMean": 2},
    "densenet121": {"Concat": 64},
    "cs3darknet_s": {"Split": 4, "Concat": 6, "Sigmoid": 32},
    "yolo_v8_xs_backbone": {"Split": 4, "Concat": 7, "MaxPool": 3},
    "test_convnext": {"LayerNormalization": 13, "MatMul": 18},
    "vitdet_base": {"Softmax": 2, "ConvTranspose": 1},
}
SMALL_VITDET = {"embed_dim": 48, "depth": 2, "num_heads": 2, "window_size": 3, "global_attn_indexes": (1,), "img_size": 128}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, onnx.ModelProto]:
    """A network of each family with random weights; group normalisation in the heads of one, batch normalisation in those of another."""
    torch = pytest.importorskip("torch")
    from retinanet_edge.export.torch_graph import to_onnx
    from retinanet_edge.training import backbones
    from retinanet_edge.training.model import build_network
    from retinanet_edge.training.vitdet import ViTDet

    torch.manual_seed(0)
    monkeypatch.setattr(backbones, "ViTDet", partial(ViTDet, **SMALL_VITDET))
    norms = {"test_resnet": ("group", 64), "resnet10t": ("batch", 16)}
    norm, channels = norms.get(request.param, ("none", 16))
    network = build_network(NetworkSpec(request.param, channels, channels, 2, norm), SPEC, ANCHORS, 3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.ones_(module.weight)  # timm begins some branches with 0
    return request.param, to_onnx(network, SPEC)


def test_each_family_keeps_every_rule_and_runs(family: tuple[str, onnx.ModelProto], tmp_path: Path) -> None:
    name, plain = family
    counts = {kind: len(Graph(plain).of(kind)) for kind in FAMILIES[name]}
    assert counts == FAMILIES[name]
    onnx.save(plain, tmp_path / "model.onnx")
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(3)]
    quantize(tmp_path / "model.onnx", tmp_path / "model.int8.onnx", images, "minmax")
    quantized = onnx.load(tmp_path / "model.int8.onnx")
    assert broken_rules(quantized) == []
    batch = np.stack(images)
    fp32, reference = (
        onnxruntime.InferenceSession(tmp_path / file).run(None, {"images": batch}) for file in ("model.onnx", "model.int8.onnx")
    )
    card = ModelCard(("a", "b", "c"), SPEC, ANCHORS, NetworkSpec(name, 16, 16, 2, "none"))
    with OpenVINOEngine(tmp_path / "model.int8.onnx", card, "int8", batch=3) as engine:
        for plain_values, expected, found in zip(fp32[:2], reference[:2], engine.heads(batch)[:2], strict=True):
            spread = plain_values.std()
            assert 0 < np.abs(expected - plain_values).mean() / spread < 0.15  # INT8 it is, and not far from FP32
            assert np.abs(found - expected).mean() / spread < 0.1  # rounded elsewhere, and no more than that
