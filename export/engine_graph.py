"""The whole graph that TensorRT gets: a model's ONNX file with what the plan adds before and behind it, in this order.

    top-K per level | types for TensorRT 11 (a file of its own) | the camera's letterbox, or FP32 input | decode and NMS
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx

from retinanet_edge.export.build_plan import BuildPlan
from retinanet_edge.export.camera_input import bake_camera
from retinanet_edge.export.input_form import FloatInput, to_fp32_nchw
from retinanet_edge.export.level_top_k import append_level_top_k
from retinanet_edge.export.native_nms import append_native_nms
from retinanet_edge.export.nms import append_efficient_nms
from retinanet_edge.export.typed_graph import to_fp16, to_typed_int8
from retinanet_edge.runtime.level_top_k import level_sizes
from retinanet_edge.runtime.model_card import ModelCard, Precision
from retinanet_edge.runtime.model_folder import FP16_FILE, TYPED_INT8_FILE, write_atomically

INPUT = "images"


@dataclass(frozen=True)
class EngineGraph:
    """A graph with its input and NMS. float_input: how its images are made of pixels where they are FP32, else None."""

    model: onnx.ModelProto
    float_input: FloatInput | None = None

    def recorded(self) -> dict[str, str]:
        """Return what a program must know that makes the images itself, as text for the card."""
        if self.float_input is None:
            return {}
        return {"input_scale": repr(self.float_input.scale), "input_offsets": ";".join(map(repr, self.float_input.offsets))}


def make_engine_graph(model: onnx.ModelProto, card: ModelCard, plan: BuildPlan) -> EngineGraph:
    """Return the graph of an engine. model: the portable graph, typed or not. Raises EngineError where it is not of the contract."""
    options, float_input = plan.options, None
    if plan.added_top_k is not None:
        model = append_level_top_k(model, level_sizes(card.anchors, card.input), plan.added_top_k)
    if options.camera_size is not None:
        model = bake_camera(model, card.input, *options.camera_size)
    elif options.input == "fp32-nchw":
        model, float_input = to_fp32_nchw(model, card.input)
    if options.nms == "efficient":
        model = append_efficient_nms(model, plan.nms)
    elif options.nms == "native":
        model = append_native_nms(model, plan.nms)
    return EngineGraph(model, float_input)


def input_shape(model: onnx.ModelProto, batch: int) -> tuple[int, ...]:
    """Return the shape of `images` at a batch."""
    sizes = model.graph.input[0].type.tensor_type.shape.dim[1:]
    return batch, *(size.dim_value for size in sizes)


def typed_file_name(precision: Precision, weakly_typed: bool | None) -> str | None:
    """Return the file that a TensorRT with types from the file compiles instead of the vouched one; None where that will do."""
    if weakly_typed is not False or precision == "fp32":
        return None
    return FP16_FILE if precision == "fp16" else TYPED_INT8_FILE


def write_typed_file(model: onnx.ModelProto, path: Path, precision: Precision) -> str:
    """Write the typed form of a vouched file's graph, whole or not at all, and return its SHA-256; the same file is left as it is.

    Raises EngineError for a graph that is not of the contract.
    """
    typed = to_fp16(model) if precision == "fp16" else to_typed_int8(model)
    data = typed.SerializeToString(deterministic=True)
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data)
        print(f"wrote {path}: TensorRT 11 takes precisions from the file")
    return hashlib.sha256(data).hexdigest()
