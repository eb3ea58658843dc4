"""The step from weights to model.onnx in a model folder, with the figures that the card keeps about it."""

from __future__ import annotations

from pathlib import Path

import onnx

from retinanet_edge.export.level_top_k import append_level_top_k
from retinanet_edge.export.torch_graph import OPSET, to_onnx
from retinanet_edge.export.torch_parity import max_difference
from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.level_top_k import level_sizes
from retinanet_edge.runtime.model_card import OnnxRecord
from retinanet_edge.runtime.model_folder import (
    ONNX_FILE,
    atomic_path,
    data_of_card,
    file_sha256,
    find_model_folder,
    locked,
    read_card,
    write_card,
)  # fmt: skip
from retinanet_edge.training.checkpoint import load_network

_CHECK_IMAGES = 4
# Logits of trained networks are of the order of 10; FP32 convolutions in another order of summation differ by about 1e-5 of that.
_ALLOWED_DIFFERENCE = 1e-2


def export_portable(model: Path, data: Path | None) -> tuple[Path, float]:
    """Write model.onnx and the card of a model folder; return its path and the largest difference to PyTorch.

    The difference is that of the network's own outputs: what nms.top_k_per_level selects of them may be another of two near equals.

    Raises ModelFolderError for a broken folder, DatasetError for data that is missing, RetinaNetEdgeError where the graph is not
    the network.
    """
    folder = find_model_folder(model)
    with locked(folder):
        card = read_card(folder)
        network = load_network(folder, card)
        samples = read_dataset(data or data_of_card(folder, card)).val[:_CHECK_IMAGES]
        path = folder / ONNX_FILE
        with atomic_path(path) as temporary:
            graph = to_onnx(network, card.input)
            onnx.save(graph, temporary)
            difference = max_difference(network, temporary, samples, card.input)
            if not difference <= _ALLOWED_DIFFERENCE:
                raise RetinaNetEdgeError(
                    f"model.onnx must be within {_ALLOWED_DIFFERENCE} of PyTorch, got {difference:.3g}: "
                    "try the torch and onnx versions of pyproject.toml"
                )
            if card.nms.top_k_per_level is not None:
                onnx.save(append_level_top_k(graph, level_sizes(card.anchors, card.input), card.nms.top_k_per_level), temporary)
        assert card.training is not None
        record = OnnxRecord(file_sha256(path), card.training.weights_sha256, OPSET, difference)
        write_card(folder, card.with_onnx(record))
    return path, difference
