"""A network of one convolution that keeps the ONNX contract, and a model folder around it.

Test files load it with runpy: they are no package.
"""

import dataclasses

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from retinanet_edge.runtime.model_card import (
    AnchorSpec,
    Calibration,
    InputSpec,
    Int8Record,
    ModelCard,
    NetworkSpec,
    NmsSpec,
    OnnxRecord,
    Verdict,
)
from retinanet_edge.runtime.model_folder import INT8_FILE, ONNX_FILE, file_sha256, write_card

HEIGHT, WIDTH, STRIDE, CLASSES = 16, 24, 4, ("round", "square", "star")
COUNT = (HEIGHT // STRIDE) * (WIDTH // STRIDE)


def card(**changes):
    whole = ModelCard(
        CLASSES, InputSpec(HEIGHT, WIDTH, (0.0,) * 3, (1.0,) * 3), AnchorSpec((STRIDE,), (8.0,), (1.0,), (1.0,)),
        NetworkSpec("tiny", 8, 8, 0, "none"), NmsSpec(0.3, 0.4, 10),
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def tiny_network(height=HEIGHT, width=WIDTH, classes=3, image_type=TensorProto.UINT8, names=None, seed=7):
    """One convolution of stride 4 over RGB / 255 gives logits and deltas of one anchor a cell."""
    names = names or {"class_logits": "class_logits", "box_deltas": "box_deltas", "anchors": "anchors"}
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : height // STRIDE, 0 : width // STRIDE].reshape(2, -1)
    sides = np.full(len(rows), 8)
    anchors = np.stack([columns * STRIDE + 2, rows * STRIDE + 2, sides, sides], axis=1)[None]
    constants = {
        "scale": np.float32(1 / 255), "anchors": anchors.astype(np.float32), "split": np.array([classes, 4]),
        "kernel": rng.normal(0, 0.5, (classes + 4, 3, STRIDE, STRIDE)).astype(np.float32), "flat": np.array([0, -1, classes + 4]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["cells"], strides=[STRIDE, STRIDE]),
        helper.make_node("Transpose", ["cells"], ["cells_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["cells_last", "flat"], ["both"]),
        helper.make_node("Split", ["both", "split"], [names["class_logits"], names["box_deltas"]], axis=2),
    ]
    # Constants may be outputs in themselves, as the anchors are.
    initializers = [numpy_helper.from_array(np.asarray(value), names.get(name, name)) for name, value in constants.items()]
    outputs = [
        helper.make_tensor_value_info(names["class_logits"], TensorProto.FLOAT, ["N", len(rows), classes]),
        helper.make_tensor_value_info(names["box_deltas"], TensorProto.FLOAT, ["N", len(rows), 4]),
        helper.make_tensor_value_info(names["anchors"], TensorProto.FLOAT, [1, len(rows), 4]),
    ]
    images = helper.make_tensor_value_info("images", image_type, ["N", height, width, 3])
    graph = helper.make_graph(nodes, "tiny", [images], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_model(folder, int8=True, passed=True, forced=False):
    """Make a model folder with model.onnx and, unless told otherwise, a model.int8.onnx (of other weights, not quantized)."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(tiny_network(), folder / ONNX_FILE)
    sha256 = file_sha256(folder / ONNX_FILE)
    changes = {"onnx": OnnxRecord(sha256, "0" * 64, 17, 0.0)}
    if int8:
        onnx.save(tiny_network(seed=8), folder / INT8_FILE)
        int8_sha256 = file_sha256(folder / INT8_FILE)
        changes["int8"] = Int8Record(int8_sha256, sha256, Calibration("minmax", 1, "0" * 64, 0))
        changes["verdict"] = Verdict(passed, 0.001 if passed else 0.1, 0.005, sha256, forced)
    write_card(folder, card(**changes))
    return folder
