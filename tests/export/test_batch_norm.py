import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.export.batch_norm import replace_batch_norm


def graph_of(gamma: list[float], beta: list[float], mean: list[float], variance: list[float], epsilon: float) -> onnx.ModelProto:
    """x [N, C, 2, 2] -> BatchNormalization -> Relu -> y."""
    shape = ["N", len(gamma), 2, 2]
    values = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    graph = helper.make_graph(
        [helper.make_node("BatchNormalization", ["x", *values], ["normed"], epsilon=epsilon), helper.make_node("Relu", ["normed"], ["y"])],
        "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(numbers, np.float32), name) for name, numbers in values.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def test_numbers_by_hand() -> None:
    model = graph_of([3.0], [1.0], [2.0], [3.5], epsilon=0.5)
    replace_batch_norm(model.graph)
    x = np.full((1, 1, 2, 2), 6.0, np.float32)
    np.testing.assert_allclose(run(model, x), np.full((1, 1, 2, 2), 7.0))  # 3 * (6 - 2) / sqrt(3.5 + 0.5) + 1


def test_the_graph_says_the_same_without_the_norm_and_its_statistics() -> None:
    model = graph_of([1.0, -2.0], [0.5, 0.0], [0.1, -3.0], [0.01, 4.0], epsilon=1e-3)
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 2)).astype(np.float32)
    expected = run(model, x)
    replace_batch_norm(model.graph)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Mul", "Add", "Relu"]
    assert {tensor.name for tensor in model.graph.initializer} == {"normed/scale", "normed/shift"}
    np.testing.assert_allclose(run(model, x), expected, atol=1e-5)


def test_a_graph_without_norms_stays_as_it_is() -> None:
    model = graph_of([1.0], [0.0], [0.0], [1.0], epsilon=1e-5)
    del model.graph.node[0], model.graph.initializer[:]
    model.graph.node[0].input[0] = "x"
    before = model.SerializeToString()
    replace_batch_norm(model.graph)
    assert model.SerializeToString() == before
