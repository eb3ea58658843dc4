"""A whole model folder in milliseconds: the tiny network of tests/gpu, its card written, its INT8 file measured as far as the card says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from retinanet_edge.runtime.model_card import Verdict
from retinanet_edge.runtime.model_folder import write_card
from retinanet_edge.runtime.tensorrt_library import Machine
from tests.gpu.conftest import TinyModel

H200 = Machine("8.5.3.1", "NVIDIA H200", "9.0")
LEVELS = (128, 32)  # anchors: 8 x 8 and 4 x 4 cells, two in each
ANCHORS, CLASSES, SIDE = 160, 3, 64


def tiny_folder(folder: Path, *, int8_accepted: bool = True) -> TinyModel:
    """Write the folder. int8_accepted: else INT8 lost 2 points where 0.5 are allowed."""
    folder.mkdir(exist_ok=True)
    model = TinyModel(folder)
    assert model.card.int8 is not None
    drop = 0.001 if int8_accepted else 0.02
    model.card = replace(model.card, verdict=Verdict(int8_accepted, drop, 0.005, model.card.int8.sha256, forced=False))
    write_card(folder, model.card)
    return model
