"""The typed files: read type by type from the graphs of one backbone of each family, and run, rounded as FP16 rounds."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from retinanet_edge.export.level_top_k import append_level_top_k
from retinanet_edge.export.nms import append_efficient_nms
from retinanet_edge.export.quantize import quantize
from retinanet_edge.export.typed_graph import kept_in_fp32, to_fp16, to_typed_int8
from retinanet_edge.runtime.boxes import iou
from retinanet_edge.runtime.dataset import read_dataset, read_image
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.level_top_k import level_sizes
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, NetworkSpec, NmsSpec
from retinanet_edge.runtime.model_folder import INT8_FILE, ONNX_FILE, read_card
from tests.conftest import Project
from tests.export.node_by_node import run_node_by_node, tensor_types

SPEC = InputSpec(64, 64, (120.0,) * 3, (60.0,) * 3)
LEVEL_STRIDES = (8, 16, 32, 64, 128)
ANCHORS = AnchorSpec(LEVEL_STRIDES, tuple(4.0 * s for s in LEVEL_STRIDES), (1.0,), (1.0,))
FLOAT, FLOAT16, INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8
PORTS = ("images", "class_logits", "box_deltas", "anchors")
TOP_K = 8

NETWORKS = {
    "resnet": NetworkSpec("test_resnet", 16, 16, 1, "batch"),
    "group norm": NetworkSpec("test_resnet", 16, 64, 1, "group"),
    "top-k": NetworkSpec("test_resnet", 16, 16, 1, "none", "C5", tensorflow_padding=True),
    "silu, squeeze-excite": NetworkSpec("test_efficientnet", 16, 16, 1, "batch"),
    "hard-swish": NetworkSpec("mobilenetv3_small_050", 16, 16, 1, "batch"),
    "layer norm": NetworkSpec("test_convnext", 16, 16, 1, "batch"),
    "concat": NetworkSpec("densenet121", 16, 16, 1, "batch"),
    "cross-stage": NetworkSpec("cs3darknet_s", 16, 16, 1, "batch"),
    "yolo": NetworkSpec("yolo_v8_xs_backbone", 16, 16, 1, "batch"),
    "attention": NetworkSpec("pvt_v2_b0", 16, 16, 1, "batch"),
}
# What may compute in FP32 in them: in front of the backbone, behind the last convolutions, and what sums or divides.
IN_FP32 = {
    "Cast", "Gather", "Sub", "Mul", "Transpose", "Reshape", "Concat",
    "Pad", "ReduceMax", "Slice", "GatherND", "TopK", "Squeeze", "ReduceMean", "InstanceNormalization", "Softmax", "Sqrt", "Div",
}  # fmt: skip


@dataclass(frozen=True)
class Graphs:
    """The two files of one network, and the typed ones."""

    fp32: onnx.ModelProto
    int8: onnx.ModelProto
    fp16: onnx.ModelProto
    typed_int8: onnx.ModelProto


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=NETWORKS)
def graphs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    torch = pytest.importorskip("torch")
    from retinanet_edge.export.torch_graph import to_onnx
    from retinanet_edge.training.model import build_network

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracers
        network = build_network(NETWORKS[request.param], SPEC, ANCHORS, 3)
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    torch.nn.init.ones_(module.weight)
            network.train()(torch.from_numpy(images(4)))
        fp32 = to_onnx(network, SPEC)
    if request.param == "top-k":
        fp32 = append_level_top_k(fp32, level_sizes(ANCHORS, SPEC), TOP_K)
    folder = tmp_path_factory.mktemp("typed")
    onnx.save(fp32, folder / "fp32.onnx")
    quantize(folder / "fp32.onnx", folder / "int8.onnx", list(images(2)), "minmax")
    int8 = onnx.load(folder / "int8.onnx")
    return Graphs(fp32, int8, to_fp16(fp32), to_typed_int8(int8))


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    nodes = (node for node in model.graph.node if node.op_type == "Constant")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer} | {node.output[0]: node.attribute[0].t for node in nodes}
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}


def run(model: onnx.ModelProto, batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Its own fusions of Q/DQ are for FP32 scales: they make a QLinearConcat that it then refuses, and quantize biases in FP16.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(list(PORTS[1:]), {"images": batch})
    return found


def skip_where_fp16_is_cut_off() -> None:
    """Before 1.30 ONNX Runtime cuts digits off where it quantizes FP16, in place of rounding."""
    pytest.importorskip("onnxruntime", minversion="1.30")


def typed(graphs: Graphs) -> Iterator[tuple[onnx.ModelProto, onnx.ModelProto]]:
    yield graphs.fp16, graphs.fp32
    yield graphs.typed_int8, graphs.int8


def test_the_ports_are_those_of_the_contract(graphs: Graphs) -> None:
    for model, source in typed(graphs):
        assert list(model.graph.input) == list(source.graph.input)
        assert list(model.graph.output) == list(source.graph.output)
        assert [node.op_type for node in model.graph.node if "images" in node.input] == ["Cast"]
    assert [(e.domain, e.version) for e in graphs.fp16.opset_import] == [("", 17)]
    assert [(e.domain, e.version) for e in graphs.typed_int8.opset_import] == [("", 19)]


def test_every_matrix_product_is_fp16(graphs: Graphs) -> None:
    for model, _ in typed(graphs):
        types = tensor_types(model)
        products = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul")]
        assert len(products) >= 40
        for node in products:
            assert {types[name] for name in (*node.input, *node.output)} == {FLOAT16}


def test_fp32_is_only_where_it_must_be(graphs: Graphs) -> None:
    for model, _ in typed(graphs):
        types, excused = tensor_types(model), set(kept_in_fp32(model))
        kept_for_constants = {name for node in model.graph.node if excused & set(node.input) for name in (*node.input, *node.output)}
        for node in model.graph.node:
            if types[node.output[0]] == FLOAT and node.op_type != "Constant" and not kept_for_constants & set(node.output):
                assert node.op_type in IN_FP32 or kept_for_constants & set(node.input)
        for name, values in constants(model).items():
            if values.dtype == np.float32 and "anchors" not in name and name not in excused:
                readers = {node.op_type for node in model.graph.node if name in node.input}
                assert readers <= {"Sub", "Mul", "Pad", "Div", "Squeeze", "Resize", "InstanceNormalization"}
                assert values.size <= 64  # no weights


def test_heads_end_in_fp32(graphs: Graphs) -> None:
    for model, _ in typed(graphs):
        types = tensor_types(model)
        makers = {name: node for node in model.graph.node for name in node.output}
        waiting, casts = ["class_logits", "box_deltas"], 0
        while waiting:
            node = makers.get(waiting.pop())
            if node is None or node.op_type == "Constant":
                continue
            if node.op_type == "Cast":
                casts += 1
                assert makers[node.input[0]].op_type == "Conv"  # nothing of the end runs in FP16 but the convolution
                continue
            assert types[node.output[0]] in (FLOAT, TensorProto.INT64)
            waiting += node.input
        assert casts >= 10  # class and box convolution at each of five levels


def test_q_dq_are_typed(graphs: Graphs) -> None:
    types, values = tensor_types(graphs.typed_int8), constants(graphs.typed_int8)
    excused = kept_in_fp32(graphs.typed_int8)
    pairs = [node for node in graphs.typed_int8.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) >= 60
    for node in pairs:
        kind = FLOAT if node.input[1] in excused else FLOAT16
        real = node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]
        assert (types[node.input[1]], types[real]) == (kind, kind)
        assert types[node.input[2]] == INT8
        assert not values[node.input[2]].any()
        assert (values[node.input[1]] > 0).all()


def test_weights_are_the_integers_of_the_source(graphs: Graphs) -> None:
    source, values = constants(graphs.int8), constants(graphs.typed_int8)
    weights = [node for node in graphs.int8.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in source]
    assert len(weights) >= 20
    for node in weights:
        scales = source[node.input[1]]
        expected = np.rint(source[node.input[0]] / scales.reshape(-1, 1, 1, 1)).astype(np.int8)
        exact = scales >= 2.0**-14  # below, FP16's are too coarse for the same integers
        assert values[node.output[0]].dtype == np.int8
        np.testing.assert_array_equal(values[node.output[0]][exact], expected[exact])
        assert exact.mean() > 0.9


def test_operators_are_those_of_the_source(graphs: Graphs) -> None:
    for model, source in typed(graphs):
        of_source = [node.op_type for node in source.graph.node if node.op_type not in ("Constant", "QuantizeLinear", "Cast")]
        assert [node.op_type for node in model.graph.node if node.op_type not in ("Constant", "QuantizeLinear", "Cast")] == of_source


def test_fp16_stays_near_fp32(graphs: Graphs) -> None:
    batch = images(2, seed=1)
    expected, whole, rounded = run(graphs.fp32, batch), run(graphs.fp16, batch), run_node_by_node(graphs.fp16, batch)
    assert all(np.isfinite(value).all() for value in rounded.values() if value.dtype == np.float16)
    for found in (whole, [rounded[name] for name in PORTS[1:]]):
        assert [values.dtype for values in found] == [np.float32] * 3
        if expected[2].shape[0] == 1:  # else top-K took others of almost equals
            np.testing.assert_allclose(found[0], expected[0], atol=0.01)  # logits are near -4.6, where FP16's steps are 0.004
            np.testing.assert_allclose(found[1], expected[1], atol=0.001)
            np.testing.assert_array_equal(found[2], expected[2])
        else:
            np.testing.assert_allclose(np.sort(found[0].max(2)), np.sort(expected[0].max(2)), atol=0.01)


def test_typed_int8_is_as_near_to_fp32_as_int8(graphs: Graphs) -> None:
    skip_where_fp16_is_cut_off()
    batch = images(2, seed=1)
    expected, source, whole = run(graphs.fp32, batch), run(graphs.int8, batch), run(graphs.typed_int8, batch)
    rounded = run_node_by_node(graphs.typed_int8, batch)
    assert all(np.isfinite(value).all() for value in rounded.values() if value.dtype == np.float16)
    for name, reference, quantized, of_runtime in zip(PORTS[1:3], expected, source, whole, strict=False):
        allowed = 1.2 * np.abs(quantized - reference).mean() + 0.002  # half a step of FP16
        for found in (of_runtime, rounded[name]):
            assert np.abs(found - reference).mean() < allowed


def test_the_same_file_comes_out_each_time(graphs: Graphs) -> None:
    before = graphs.int8.SerializeToString(deterministic=True)
    again = to_typed_int8(graphs.int8).SerializeToString(deterministic=True)
    assert again == graphs.typed_int8.SerializeToString(deterministic=True)
    assert graphs.int8.SerializeToString(deterministic=True) == before


def test_the_plugin_sees_fp32(graphs: Graphs) -> None:
    for model, _ in typed(graphs):
        complete = append_efficient_nms(model, NmsSpec())
        types = tensor_types(model)
        assert [types[name] for name in complete.graph.node[-1].input] == [FLOAT] * 3


def same_detections(found: Detections, expected: Detections) -> float:
    """Return the share of `expected` that has a partner: same class, IoU above 0.9, score within 0.02."""
    if not len(expected):
        return 1.0
    near = np.abs(expected.scores[:, None] - found.scores) <= 0.02
    partners = near & (iou(expected.xyxy, found.xyxy) > 0.9) & (expected.classes[:, None] == found.classes)
    return float(partners.any(axis=1).mean())


def shares(folder: Path, data: Path, threshold: float) -> Iterator[tuple[float, int]]:
    """Return for both typed files, on ONNX Runtime and node by node, which share of their source's detections they have, of how many."""
    skip_where_fp16_is_cut_off()
    card, nms = read_card(folder), NmsSpec(score_threshold=threshold)
    size = (card.input.height, card.input.width)
    frames = [read_image(sample) for sample in read_dataset(data).val[:8]]
    batch = np.stack([Letterbox(*frame.shape[:2], *size).apply(frame) for frame in frames])
    for file, convert in ((ONNX_FILE, to_fp16), (INT8_FILE, to_typed_int8)):
        source = onnx.load(folder / file)
        model = convert(source)
        expected, rounded = efficient_nms(*run(source, batch), nms), run_node_by_node(model, batch)
        for found in (run(model, batch), [rounded[name] for name in PORTS[1:]]):
            pairs = zip(efficient_nms(*found, nms), expected, strict=True)
            yield float(np.mean([same_detections(*pair) for pair in pairs])), sum(map(len, expected))


def test_a_trained_model_finds_the_same(finished_project: Project) -> None:
    data = finished_project.folder / "data" / "squares"
    for share, count in shares(finished_project.model, data, threshold=0.3):
        assert count >= 16  # two squares on each image
        assert share == 1
    for share, _ in shares(finished_project.model, data, threshold=0.05):
        assert share > 0.95  # of two poor boxes that nearly tie, suppression may keep the other


def test_a_trained_model_finds_the_same_on_photographs(finished_project: Project, real_data: Path) -> None:
    for share, count in shares(finished_project.model, real_data / "bccd", threshold=0.02):
        assert count >= 16
        assert share > 0.8  # it knows squares: its candidates here score about 0.1, and many nearly tie


def test_other_graphs_are_refused(graphs: Graphs) -> None:
    with pytest.raises(EngineError, match=r"with Q/DQ, as model\.int8\.onnx is.*build_engine\.py --int8"):
        to_typed_int8(graphs.fp32)
    with pytest.raises(EngineError, match=r"without Q/DQ, as model\.onnx is.*export_onnx\.py"):
        to_fp16(graphs.int8)
    with pytest.raises(EngineError, match="typed as FP16 already"):
        to_fp16(graphs.fp16)
    with pytest.raises(EngineError, match=r"opset 17, got .*19"):
        to_typed_int8(graphs.typed_int8)
    with pytest.raises(EngineError, match=r"must have the types and dimensions .*'num_detections'"):
        to_fp16(append_efficient_nms(graphs.fp32, NmsSpec()))
    with pytest.raises(EngineError, match="must have the types and dimensions"):
        to_fp16(onnx.ModelProto())


def test_it_needs_neither_torch_nor_onnxruntime() -> None:
    lines = "import retinanet_edge.export.typed_graph, sys; print({'torch', 'onnxruntime'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.strip() == "set()"
