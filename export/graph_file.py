"""An ONNX file of a model folder, read and compared with its card before anything is built of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import ModelCard
from retinanet_edge.runtime.model_folder import TYPED_INT8_FILE

OPSET, TYPED_INT8_OPSET = 17, 19  # export/typed_graph.py says why TensorRT 11 gets another
_REMEDY = "run python export/export_onnx.py"


def load_graph(path: Path, card: ModelCard) -> onnx.ModelProto:
    """Return the model in `path`, in one piece, of our opset, with open batch and otherwise fixed input and outputs of the card.

    Raises ModelFolderError, saying what was expected and what was found, for a file that is none, or another.
    """
    model = _read(path)
    opset = TYPED_INT8_OPSET if path.name == TYPED_INT8_FILE else OPSET
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": opset} or len(model.functions):
        found = ", ".join(f"{domain or 'opset'} {version}" for domain, version in opsets.items()) or "none"
        functions = f" and {len(model.functions)} functions" if len(model.functions) else ""
        raise ModelFolderError(f"{path} must have opset {opset} and standard operators alone, got {found}{functions}: {_REMEDY}")
    _check_ports(path, model.graph, card)
    return model


def _read(path: Path) -> onnx.ModelProto:
    expected = f"{path} must be a whole ONNX file, got"
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        raise ModelFolderError(f"{expected} something else: {_REMEDY}") from None
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ModelFolderError(f"{expected} one whose weights are in another file: {_REMEDY}")
    return model


def _check_ports(path: Path, graph: onnx.GraphProto, card: ModelCard) -> None:
    """Raise ModelFolderError unless input and outputs are those of the card; the anchors' first dimension is 1, or N after top-K."""
    inputs, outputs = _ports(graph.input), _ports(graph.output)
    count = outputs.get("class_logits", "").partition("[N, ")[2].partition(",")[0]
    anchors = count if count.isdecimal() and count != "0" else "A"
    first = "N" if outputs.get("anchors", "").startswith("float32 [N") else "1"
    images = {"images": f"uint8 [N, {card.input.height}, {card.input.width}, 3]"}
    heads = {
        "class_logits": f"float32 [N, {anchors}, {len(card.classes)}]", "box_deltas": f"float32 [N, {anchors}, 4]",
        "anchors": f"float32 [{first}, {anchors}, 4]",
    }  # fmt: skip
    if anchors == "A" or (inputs, outputs) != (images, heads):
        raise ModelFolderError(
            f"{path} must have the input and classes of its card, {_words(images | heads)}, got {_words(inputs | outputs)}: {_REMEDY}"
        )


def _ports(ports: Iterable[onnx.ValueInfoProto]) -> dict[str, str]:
    """Return type and dimensions of each by name, as "uint8 [N, 64, 64, 3]"; a dimension other than the first that is open is "open"."""
    return {port.name: f"{_type_name(port.type.tensor_type.elem_type)} [{', '.join(_sizes(port))}]" for port in ports}


def _sizes(port: onnx.ValueInfoProto) -> list[str]:
    sizes = enumerate(port.type.tensor_type.shape.dim)
    return [str(size.dim_value) if size.HasField("dim_value") else "open" if place else "N" for place, size in sizes]


def _type_name(kind: int) -> str:
    known = kind in onnx.TensorProto.DataType.values() and kind != onnx.TensorProto.UNDEFINED
    name = onnx.TensorProto.DataType.Name(kind).lower() if known else "no tensor"
    return "float32" if name == "float" else name


def _words(ports: dict[str, str]) -> str:
    return "; ".join(f"{name} {port}" for name, port in ports.items()) or "none"
