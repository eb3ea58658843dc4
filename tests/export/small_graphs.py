"""Networks of a few convolutions as a test wants them, with the ports of the contract, so that they run in no time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 8
IMAGES = list(np.random.default_rng(0).integers(0, 255, (2, SIDE, SIDE, 3), dtype=np.uint8))

Array = NDArray[np.float32]
LIMITS = {"low": np.array(0, np.float32), "six": np.array(6, np.float32)}  # of ReLU6
Node = tuple[str, list[str], str]  # operator, inputs, output


def network(nodes: list[Node], weights: dict[str, Array], last: str) -> onnx.ModelProto:
    """A network with the contract's ports and `nodes` between `image` [N, 3, H, W] and `last`, which the heads' convolutions read."""
    width = next(len(weights[inputs[1]]) for kind, inputs, _ in reversed(nodes) if kind == "Conv")
    head = np.random.default_rng(1).normal(size=(4, width, 1, 1)).astype(np.float32)
    limits = LIMITS if any(kind == "Clip" for kind, *_ in nodes) else {}
    constants: dict[str, NDArray[Any]] = {**weights, **limits, "head": head, "shape": np.array([0, -1, 4])}
    made = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["image"], perm=[0, 3, 1, 2]),
    ]
    for kind, inputs, output in nodes:
        attributes: dict[str, Any] = {}
        if kind == "Conv":
            kernel = weights[inputs[1]]
            attributes = {"pads": [kernel.shape[2] // 2] * 4, "group": len(kernel) if kernel.shape[1] == 1 and len(kernel) > 1 else 1}
        made.append(helper.make_node(kind, inputs, [output], output, **attributes))
    for output in ("class_logits", "box_deltas"):
        made.append(helper.make_node("Conv", [last, "head"], [f"{output}/map"], f"{output}/conv"))
        made.append(helper.make_node("Transpose", [f"{output}/map"], [f"{output}/cells"], perm=[0, 2, 3, 1]))
        made.append(helper.make_node("Reshape", [f"{output}/cells", "shape"], [output]))
    ports = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3])]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, 4]) for name in ("class_logits", "box_deltas")]
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    model = helper.make_model(
        helper.make_graph(made, "network", ports, results, tensors), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def random_weights(**shapes: tuple[int, ...]) -> dict[str, Array]:
    """Normal values, those of each output channel 2^N(0, 3) times as large."""
    generator, weights = np.random.default_rng(len(shapes)), {}
    for name, shape in shapes.items():
        spread = np.exp2(generator.normal(0, 3, (shape[0], *[1] * (len(shape) - 1))))
        weights[name] = (generator.normal(size=shape) * spread).astype(np.float32)
    return weights
