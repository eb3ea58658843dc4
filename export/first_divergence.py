"""Which layer of a network is the first to say something else: tensor by tensor, in the order of the graph, on one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from retinanet_edge.export.equalization import pairs
from retinanet_edge.export.parity_subject import Subject
from retinanet_edge.export.reference_network import ReferenceNetwork, with_outputs
from retinanet_edge.runtime.errors import EngineError, ModelFolderError, RetinaNetEdgeError, UserInputError
from retinanet_edge.runtime.model_card import EngineRecord, Precision
from retinanet_edge.runtime.model_folder import INT8_FILE, file_sha256

# Of |found - expected| / |expected|, Euclidean norms over a tensor. Rounding alone adds up to about 1e-6 in FP32, 1e-3 in FP16 and, in
# trained networks that lose nothing by it, 0.3 in INT8.
LIMITS: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.05, "int8": 0.5}
_SHOWN = 5

Tensors = dict[str, NDArray[Any]]
Run = Callable[[Sequence[str], NDArray[np.uint8]], Tensors]  # names and images uint8 [1, H, W, 3] -> those of the tensors that there are


@dataclass(frozen=True)
class Divergence:
    """A tensor: its name, the operator that makes it, and how far it is from the reference, relative to the reference's norm."""

    tensor: str
    operator: str
    difference: float


@dataclass(frozen=True)
class _Other:
    """What is compared with the reference."""

    name: str
    precision: Precision
    counterparts: dict[str, list[str]]  # by the reference's name, the other's; a second one is the tensor after Q and DQ
    run: Run


def check_layers(subject: Subject, file: str, limit: float | None) -> None:
    """Compare every tensor of model.onnx on ONNX Runtime with that of another file or backend, on the subject's first image, and print.

    file: another ONNX file of the folder (on ONNX Runtime), an engine of the card (its network on TensorRT, without the plugin), or
    model.onnx (on OpenVINO). limit: None for that of the precision. Raises UserInputError for another name, RetinaNetEdgeError, after the
    lines, where a tensor is further than the limit, EngineError where a backend does not run here.
    """
    graph = onnx.load(subject.reference).graph
    other = _other(subject, file, graph)
    limit = LIMITS[other.precision] if limit is None else limit
    _, image = next(subject.inputs())
    found = divergences(subject.reference, graph, other.counterparts, other.run, image)
    print(f"{other.name} against model.onnx on ONNX Runtime: {len(found)} tensors on {subject.samples[0].path.name}")
    if not found:
        raise RetinaNetEdgeError(f"{other.name} must share tensors with model.onnx, got none of the same name and shape: export it again")
    beyond = [tensor for tensor in found if not tensor.difference <= limit]  # NaN is beyond
    for tensor in beyond[:_SHOWN] or [max(found, key=lambda tensor: tensor.difference)]:
        print(f"  {tensor.difference:8.2g}  {tensor.operator:16}  {tensor.tensor}")
    if not beyond:
        print(f"none is further than {limit:g} of its norm from the reference; that above is the farthest", flush=True)
        return
    print(f"{len(beyond)} are further than {limit:g} of their norm from the reference; above the first, in the graph's order", flush=True)
    raise RetinaNetEdgeError(f"{other.name} must be as model.onnx is, but diverges first at {beyond[0].tensor} ({beyond[0].operator})")


def divergences(
    reference: Path, graph: onnx.GraphProto, counterparts: dict[str, list[str]], run: Run, image: NDArray[np.uint8]
) -> list[Divergence]:
    """Return how far each tensor is from the reference's, in the order of its graph; left out is what has another shape, or no floats."""
    values = dict(zip(counterparts, ReferenceNetwork(reference, list(counterparts)).run(list(counterparts), image), strict=True))
    expected = {name: array for name, array in values.items() if array.dtype.kind == "f"}
    found = run([name for original in expected for name in counterparts[original]], image)
    operators = {output: node.op_type for node in graph.node for output in node.output}
    each = []
    for original, array in expected.items():
        for name, operator in zip(counterparts[original], (operators[original], "DequantizeLinear"), strict=False):
            if name in found and found[name].shape == array.shape:
                each.append(Divergence(name, operator, _relative(found[name], array)))
    return each


def _relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    exact = expected.astype(np.float64)
    difference, size = float(np.linalg.norm(found.astype(np.float64) - exact)), float(np.linalg.norm(exact))
    if difference == 0:
        return 0.0
    return difference / size if size else float("inf")


def tensor_names(graph: onnx.GraphProto) -> list[str]:
    """Return the tensors that nodes of a graph make of its input, in order; constants are none."""
    return [name for node in graph.node if node.op_type != "Constant" for name in node.output if name]


def dequantized(graph: onnx.GraphProto) -> dict[str, str]:
    """Return by the name of each tensor that goes through a pair of Q and DQ the name that it has behind them."""
    quantized = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    behind = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in quantized]
    return {quantized[node.input[0]]: node.output[0] for node in behind}


def _other(subject: Subject, file: str, graph: onnx.GraphProto) -> _Other:
    files = {path.name: (path, precision) for path, precision in subject.files}
    engines = {record.file: record for record in subject.card.engines}
    if file == subject.reference.name:
        alike = {name: [name] for name in tensor_names(graph)}
        return _Other(f"{file} on OpenVINO", "fp32", alike, partial(_on_openvino, subject))
    if file in files:
        path, precision = files[file]
        shared = _shared(_comparable(subject, graph, precision), onnx.load(path).graph)
        return _Other(f"{file} on ONNX Runtime", precision, shared, partial(_on_onnx_runtime, path))
    if file in engines:
        record = engines[file]
        alike = {name: [name] for name in _comparable(subject, graph, record.precision)}
        return _Other(f"the network of {file} on TensorRT", record.precision, alike, partial(_on_tensorrt, subject, record))
    raise UserInputError(f"--layers must be one of {', '.join([*files, *engines])}, got {file}: name a file of {subject.folder}")


def _comparable(subject: Subject, graph: onnx.GraphProto, precision: Precision) -> list[str]:
    """Return the tensors of a graph that are the same at a precision but for rounding: equalized channels are not."""
    int8 = subject.card.int8
    scaled = {name for pair in pairs(graph) for name in pair.tensors} if precision == "int8" and int8 and int8.equalized else set()
    return [name for name in tensor_names(graph) if name not in scaled]


def _shared(names: Sequence[str], other: onnx.GraphProto) -> dict[str, list[str]]:
    there, behind = set(tensor_names(other)), dequantized(other)
    return {name: [name, *([behind[name]] if name in behind else [])] for name in names if name in there}


def _on_onnx_runtime(path: Path, names: Sequence[str], images: NDArray[np.uint8]) -> Tensors:
    return dict(zip(names, ReferenceNetwork(path, names).run(names, images), strict=True))


def _on_openvino(subject: Subject, names: Sequence[str], images: NDArray[np.uint8]) -> Tensors:
    from retinanet_edge.runtime.openvino_engine import COMPILE_OPTIONS, import_openvino

    core = import_openvino().Core()
    model = core.read_model(with_outputs(onnx.load(subject.reference), names).SerializeToString())
    model.reshape({"images": list(images.shape)})
    results = core.compile_model(model, "CPU", COMPILE_OPTIONS)({"images": images})
    return {name: values for port, values in results.items() for name in port.get_names()}


def _on_tensorrt(subject: Subject, record: EngineRecord, names: Sequence[str], images: NDArray[np.uint8]) -> Tensors:
    from retinanet_edge.export.build_machine import is_weakly_typed
    from retinanet_edge.export.engine_graph import typed_file_name
    from retinanet_edge.export.tensorrt_parity import engine_without_plugin
    from retinanet_edge.runtime.tensorrt_engine import misfit

    if difference := misfit(record):
        raise EngineError(f"{difference}: name an ONNX file, or run on that machine")
    typed = typed_file_name(record.precision, is_weakly_typed())
    vouched = INT8_FILE if record.precision == "int8" else subject.reference.name
    source = subject.folder / (typed or vouched)
    if not source.is_file() or file_sha256(subject.folder / vouched) != record.onnx_sha256:
        raise ModelFolderError(f"the {source.name} that {record.file} was built from is not here: run python export/build_engine.py again")
    with engine_without_plugin(source, record.precision, images.shape, names) as run:
        return run(images)
