"""The camera's whole frame as the graph's input: the letterbox of runtime/letterbox.py inside the engine, boxes in frame pixels.

So that a Jetson's CPU touches no pixel. One difference remains: cv2.INTER_LINEAR computes in fixed point and gives whole grey values,
the graph keeps the fraction. They are less than one grey value apart, mostly by half of one at most. Plain onnx at opset 17, which
TensorRT 8.5 reads.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from retinanet_edge.export.graph_editing import add_constant, add_node, find_constant
from retinanet_edge.export.graph_front import BGR_TO_RGB, INPUT, mean_and_inverse_std, set_input, without_front
from retinanet_edge.export.nms import checked_batch
from retinanet_edge.runtime.errors import EngineError, UserInputError
from retinanet_edge.runtime.letterbox import FILL, Letterbox
from retinanet_edge.runtime.model_card import InputSpec

LONGEST_SIDE = 16384  # pixels; more than any camera has, and little enough for every size in bytes to fit 32 bits
_ANCHORS = "anchors"
_PREFIX = "camera"


def bake_camera(model: onnx.ModelProto, input_spec: InputSpec, camera_width: int, camera_height: int) -> onnx.ModelProto:
    """Return a copy of the portable graph that takes `images` uint8 [N, camera_height, camera_width, 3] BGR, whole frames.

    model: FP32 or with Q/DQ, with or without top-K per level, before NMS is appended. The copy's boxes are in frame pixels, not
    clipped to the frame: anchors are scaled instead, per axis, which moves no IoU. Raises UserInputError for a camera without pixels
    or larger than any, EngineError for a graph that is not of the contract.
    """
    if not (1 <= camera_width <= LONGEST_SIDE and 1 <= camera_height <= LONGEST_SIDE):
        raise UserInputError(f"--camera-size must be 1x1 to {LONGEST_SIDE}x{LONGEST_SIDE} pixels, got {camera_width}x{camera_height}")
    checked_batch(model.graph)
    boxing = Letterbox(camera_height, camera_width, input_spec.height, input_spec.width)
    baked, normalised = without_front(model, input_spec)
    graph = baked.graph
    set_input(graph, TensorProto.UINT8, (camera_height, camera_width, 3))
    network = list(graph.node)
    del graph.node[:]
    _add_front(graph, boxing, input_spec, normalised)
    graph.node.extend(network)
    _scale_anchors(graph, boxing)
    onnx.checker.check_model(baked, full_check=True)
    return baked


def _add_front(graph: onnx.GraphProto, boxing: Letterbox, spec: InputSpec, normalised: str) -> None:
    """Add what makes the network's input [N, 3, H, W] of frames: letterbox first, then the normalisation, channels before pixels."""
    # TensorRT takes nothing of uint8 but a Cast, and resizes the two innermost axes fastest.
    pixels = add_node(graph, "Cast", f"{_PREFIX}/float", [INPUT], to=TensorProto.FLOAT)
    pixels = add_node(graph, "Transpose", f"{_PREFIX}/nchw", [pixels], perm=[0, 3, 1, 2])
    pixels = _letterbox(graph, boxing, pixels)
    order = add_constant(graph, f"{_PREFIX}/bgr_to_rgb", np.array(BGR_TO_RGB))
    mean, inverse_std = (
        add_constant(graph, f"{_PREFIX}/{name}", values[:, None, None])  # [3, 1, 1]
        for name, values in zip(("mean", "inverse_std"), mean_and_inverse_std(spec), strict=True)
    )
    pixels = add_node(graph, "Gather", f"{_PREFIX}/rgb", [pixels, order], axis=1)
    pixels = add_node(graph, "Sub", f"{_PREFIX}/centred", [pixels, mean])
    add_node(graph, "Mul", f"{_PREFIX}/normalised", [pixels, inverse_std], output=normalised)


def _letterbox(graph: onnx.GraphProto, boxing: Letterbox, pixels: str) -> str:
    """Add Resize and Pad, as far as the frame needs them, to float32 [N, 3, h, w]."""
    frame, content = (boxing.frame_height, boxing.frame_width), (boxing.content_height, boxing.content_width)
    if frame != content:
        # Scales and not sizes: sizes would have to name the batch, which is open.
        scales = np.array([1, 1, *map(_scale, frame, content)], np.float32)
        inputs = [pixels, "", add_constant(graph, f"{_PREFIX}/scales", scales)]
        pixels = add_node(graph, "Resize", f"{_PREFIX}/resized", inputs, mode="linear", coordinate_transformation_mode="half_pixel")
    bottom, right = boxing.input_height - content[0], boxing.input_width - content[1]
    if bottom or right:
        pads = add_constant(graph, f"{_PREFIX}/pads", np.array([0, 0, 0, 0, 0, 0, bottom, right]))
        fill = add_constant(graph, f"{_PREFIX}/fill", np.array(FILL, np.float32))
        pixels = add_node(graph, "Pad", f"{_PREFIX}/padded", [pixels, pads, fill], mode="constant")
    return pixels


def _scale(frame: int, content: int) -> np.float32:
    """Return the least float32 that scales a side of the frame to its side in the input, which Resize rounds down."""
    scale = np.float32(content / frame)
    return scale if float(scale) * frame >= content else np.nextafter(scale, np.float32(np.inf))


def _scale_anchors(graph: onnx.GraphProto, boxing: Letterbox) -> None:
    """Bring the constant behind the output `anchors`, (cx, cy, w, h) [1, A, 4], from input pixels to frame pixels, in place."""
    makers = {output: node for node in graph.node for output in node.output}
    name = _ANCHORS
    while (table := find_constant(graph, name)) is None and name in makers:
        name = makers[name].input[0]  # what top-K gathers from
    if table is None or len(table.dims) != 3 or table.dims[0] != 1 or table.dims[2] != 4:
        raise EngineError(f"the graph must take its {_ANCHORS} from a constant [1, A, 4]: run python export/export_onnx.py")
    x, y = boxing.frame_width / boxing.content_width, boxing.frame_height / boxing.content_height
    scaled = numpy_helper.to_array(table) * np.array([x, y, x, y], np.float32)
    table.CopyFrom(numpy_helper.from_array(scaled, table.name))
