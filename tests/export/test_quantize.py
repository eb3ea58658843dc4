"""Where Q/DQ stands: read from the graph of a small trained-shape network, and its outputs against FP32 in ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from retinanet_edge.export.placement import Placement
from retinanet_edge.export.quantize import insert_qdq, quantize
from retinanet_edge.runtime.model_card import AnchorSpec, CalibrationMethod, InputSpec, NetworkSpec

SPEC = InputSpec(64, 64, (120.0,) * 3, (60.0,) * 3)
LEVEL_STRIDES = (8, 16, 32, 64, 128)
ANCHORS = AnchorSpec(LEVEL_STRIDES, tuple(4.0 * s for s in LEVEL_STRIDES), (1.0,), (1.0,))


def images(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture(scope="module", params=["batch", "none"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the FP32 and the INT8 file of one network."""
    torch = pytest.importorskip("torch")
    from retinanet_edge.export.torch_graph import to_onnx
    from retinanet_edge.training.model import build_network

    torch.manual_seed(0)
    network = build_network(NetworkSpec("test_resnet", 16, 16, 2, request.param), SPEC, ANCHORS, 3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.ones_(module.weight)
        for _ in range(5):
            network.train()(torch.from_numpy(np.stack(images(8))))
    folder = tmp_path_factory.mktemp("quantize")
    onnx.save(to_onnx(network, SPEC), folder / "fp32.onnx")
    quantize(folder / "fp32.onnx", folder / "int8.onnx", images(8), "minmax")
    return folder / "fp32.onnx", folder / "int8.onnx"


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in graph.node for output in node.output}


def operator(graph: onnx.GraphProto, name: str) -> str:
    node = producers(graph).get(name)
    return node.op_type if node else "constant"


def test_every_convolution_but_the_last_ones_takes_int8(models: tuple[Path, Path]) -> None:
    graph = onnx.load(models[1]).graph
    plain = [n for n in graph.node if n.op_type == "Conv" and operator(graph, n.input[0]) != "DequantizeLinear"]
    assert len(plain) == 2 * 5  # the last class and box convolution at each of five levels
    for node in plain:
        assert operator(graph, node.input[1]) == "constant"
    for node in graph.node:
        if node.op_type == "Conv" and node not in plain:
            assert operator(graph, node.input[1]) == "DequantizeLinear"
            assert operator(graph, node.input[2]) == "constant"  # biases stay FP32


def test_additions_keep_their_convolution_side_and_quantize_the_other(models: tuple[Path, Path]) -> None:
    graph = onnx.load(models[1]).graph
    additions = [sorted(operator(graph, name) for name in node.input) for node in graph.node if node.op_type == "Add"]
    assert additions == [["Conv", "DequantizeLinear"]] * len(additions)
    assert len(additions) == 6  # four residual blocks and two steps of the pyramid


def test_the_deeper_branch_is_the_one_that_fuses(models: tuple[Path, Path]) -> None:
    graph = onnx.load(models[1]).graph
    made_by = producers(graph)
    for node in graph.node:
        if node.op_type == "Add" and "layer" in node.name:
            raw = next(name for name in node.input if made_by[name].op_type == "Conv")
            assert "downsample" not in made_by[raw].name


def test_nothing_is_quantized_in_front_of_a_resize(models: tuple[Path, Path]) -> None:
    graph = onnx.load(models[1]).graph
    sources = [operator(graph, node.input[0]) for node in graph.node if node.op_type == "Resize"]
    assert len(sources) == 2
    assert "DequantizeLinear" not in sources


def test_scales_are_symmetric_and_weights_per_output_channel(models: tuple[Path, Path]) -> None:
    graph = onnx.load(models[1]).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        assert len(node.input) == 3  # TensorRT 8.5 wants the zero point written out
        scale, zero_point = constants[node.input[1]], constants[node.input[2]]
        assert scale.dtype == np.float32
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
        if node.op_type == "QuantizeLinear" and node.input[0] in constants:
            weights = constants[node.input[0]]
            assert weights.dtype == np.float32
            np.testing.assert_allclose(scale, np.abs(weights).max(axis=(1, 2, 3)) / 127, rtol=1e-5)
        elif node.op_type == "QuantizeLinear":
            assert scale.shape == ()


def test_the_contract_is_kept(models: tuple[Path, Path]) -> None:
    fp32, int8 = (onnx.load(path) for path in models)
    assert [(e.domain, e.version) for e in int8.opset_import] == [("", 17)]
    assert [o.name for o in int8.graph.output] == [o.name for o in fp32.graph.output]
    read = {name for node in int8.graph.node for name in node.input} | {o.name for o in int8.graph.output}
    assert {output for node in int8.graph.node for output in node.output} <= read  # no orphans
    assert {tensor.name for tensor in int8.graph.initializer} <= read


def test_outputs_stay_near_fp32(models: tuple[Path, Path]) -> None:
    batch = np.stack(images(3))
    fp32, int8 = (onnxruntime.InferenceSession(path).run(None, {"images": batch}) for path in models)
    for expected, found in zip(fp32[:2], int8[:2], strict=True):
        error = np.abs(found - expected).mean() / expected.std()
        assert 0 < error < 0.1  # not FP32 in disguise, and not far from it
    np.testing.assert_array_equal(fp32[2], int8[2])


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_each_method_gives_the_same_file_again(method: CalibrationMethod, models: tuple[Path, Path], tmp_path: Path) -> None:
    made = []
    for name in ("a.onnx", "b.onnx"):
        quantize(models[0], tmp_path / name, images(4), method)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    quantize(models[0], tmp_path / "other.onnx", images(3), method)
    assert (tmp_path / "other.onnx").read_bytes() != made[0]


def test_kept_convolutions_have_float_weights(models: tuple[Path, Path], tmp_path: Path) -> None:
    kept = next(node.name for node in onnx.load(models[0]).graph.node if node.op_type == "Conv")
    quantize(models[0], tmp_path / "kept.onnx", images(2), "minmax", kept=(kept,))
    graph = onnx.load(tmp_path / "kept.onnx").graph
    in_float = [n.name for n in graph.node if n.op_type == "Conv" and operator(graph, n.input[1]) == "constant"]
    assert in_float[0] == kept
    assert len(in_float) == 1 + 2 * 5


def test_channels_without_weights_and_the_smallest_reach_have_scales_above_zero() -> None:
    weights = np.zeros((2, 1, 1, 1), np.float32)
    weights[1] = 254
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    ports = [[onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", depth, 1, 1])] for name, depth in (("x", 1), ("y", 2))]
    graph = onnx.helper.make_graph(nodes, "test", *ports, [numpy_helper.from_array(weights, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    made = insert_qdq(model, Placement(((0, 0),), (0,), ("x",), ()), {"x": 1e-44})
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer if tensor.name.endswith("scale")}
    np.testing.assert_array_equal(scales["w/scale"], [1, 2])  # 254 / 127
    assert scales["x/scale"] == np.finfo(np.float32).tiny
    assert len(model.graph.node) == 1  # what was given stays as it was
