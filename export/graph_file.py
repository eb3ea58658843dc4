"""An ONNX file of a model folder, read and compared with its card before anything is built of it."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import ModelCard


def load_graph(path: Path, card: ModelCard) -> onnx.ModelProto:
    """Return the model in `path`. Raises ModelFolderError where it is no ONNX file, or its input or classes are not the card's."""
    try:
        model = onnx.load(path)
    except DecodeError:
        raise ModelFolderError(f"{path} must be a whole ONNX file, got something else: run python export/export_onnx.py") from None
    expected = {"images": [card.input.height, card.input.width, 3], "class_logits": [len(card.classes)]}
    ports = {port.name: [size.dim_value for size in port.type.tensor_type.shape.dim] for port in (*model.graph.input, *model.graph.output)}
    found = {name: ports.get(name, [])[-len(sizes) :] for name, sizes in expected.items()}
    if found != expected:
        raise ModelFolderError(
            f"{path} must have the input and classes of its card, {_words(expected)}, got {_words(found)}: run python export/export_onnx.py"
        )
    return model


def _words(sizes: dict[str, list[int]]) -> str:
    return f"images [N, {', '.join(map(str, sizes['images']))}] and {sizes['class_logits']} classes"
