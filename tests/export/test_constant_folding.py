import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.export.constant_folding import fold_constants


def padding_model() -> onnx.ModelProto:
    """x [N, 2] -> padded by what is computed of constants, beside the sum of two initializers, of which one is used elsewhere, too."""
    nodes = [
        helper.make_node("Constant", [], ["twice"], value=numpy_helper.from_array(np.array([2], np.int64))),
        helper.make_node("Mul", ["one", "twice"], ["two"]),
        helper.make_node("Concat", ["zeros", "one", "two"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads", ""], ["padded"]),
        helper.make_node("Concat", ["zeros", "one"], ["unread"], axis=0),
        helper.make_node("Cast", ["one"], ["one_float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["padded", "one_float"], ["y"]),
    ]
    constants = {"one": np.array([1], np.int64), "zeros": np.array([0, 0], np.int64)}
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def test_what_depends_on_constants_alone_becomes_one() -> None:
    model = padding_model()
    x = np.array([[5, 6], [7, 8]], np.float32)
    # pads (0, 0) before and (1, 2) after the rows and columns; then 1 everywhere
    expected = np.array([[6, 7, 1, 1], [8, 9, 1, 1], [1, 1, 1, 1]], np.float32)
    np.testing.assert_array_equal(run(model, x), expected)
    fold_constants(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Pad", "Add"]
    assert {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer} == {
        "pads": [0, 0, 1, 2], "one_float": [1.0],
    }  # fmt: skip
    np.testing.assert_array_equal(run(model, x), expected)


def test_a_graph_with_nothing_to_fold_stays_as_it_is() -> None:
    model = padding_model()
    fold_constants(model)
    before = model.SerializeToString()
    fold_constants(model)
    assert model.SerializeToString() == before
