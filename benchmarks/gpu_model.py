"""Make a model folder of random weights, for gpu_figures.py, which starts this in an interpreter that has torch: network and model.onnx.

Speed depends on the weights in one place, the number of candidates for NMS: they are made as many as a trained network's.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from retinanet_edge.runtime.arguments import size, whole_number
    from retinanet_edge.runtime.errors import run_command
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[train,export]')",
          file=sys.stderr)  # fmt: skip
    sys.exit(2)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from retinanet_edge.training.model import RetinaNet

STRIDES = (8, 16, 32, 64, 128)
LOGIT_SPREAD = 1.5  # standard deviation of the logits, about that of a trained network's


def main() -> None:
    """Parse the arguments and make the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="new folder to write")
    parser.add_argument("--backbone", required=True, help="as train.py takes it")
    parser.add_argument("--input", type=size, required=True, metavar="H[xW]", help="input pixels")
    parser.add_argument("--classes", type=whole_number(1), required=True, metavar="N", help="number of classes")
    parser.add_argument("--candidates", type=whole_number(1), required=True, metavar="N", help="scores of an image above the threshold")
    parser.add_argument("--width", type=whole_number(1), default=256, metavar="N", help="channels of pyramid and heads (default 256)")
    arguments = parser.parse_args()
    make_folder(arguments.model, arguments.backbone, arguments.input, arguments.classes, arguments.candidates, arguments.width)


def make_folder(folder: Path, backbone: str, sides: tuple[int, int], classes: int, candidates: int, width: int) -> None:
    """Write weights.safetensors, model.onnx and, last, card.json."""
    import onnx
    import torch

    from retinanet_edge.export.torch_graph import OPSET, to_onnx
    from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, ModelCard, NetworkSpec, OnnxRecord, TrainingRecord
    from retinanet_edge.runtime.model_folder import ONNX_FILE, WEIGHTS_FILE, file_sha256, write_card
    from retinanet_edge.training.backbones import Backbone
    from retinanet_edge.training.checkpoint import save_weights
    from retinanet_edge.training.model import build_network, check_input_size

    check_input_size(*sides)
    torch.manual_seed(0)
    info = Backbone(backbone).info
    card = ModelCard(
        tuple(f"class {number}" for number in range(classes)), InputSpec(*sides, info.mean, info.std),
        AnchorSpec(STRIDES, tuple(4.0 * stride for stride in STRIDES), (1.0, 1.26, 1.587), (0.5, 1.0, 2.0)),
        NetworkSpec(backbone, width, width, 4, "batch"),
    )  # fmt: skip
    network = build_network(card.network, card.input, card.anchors, classes)
    images = torch.from_numpy(scenes(4, *sides))
    with torch.no_grad():
        settle_norms(network, images)
        set_candidates(network, images[:1], candidates, card.nms.score_threshold)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS_FILE, network)
    onnx.save(to_onnx(network, card.input), folder / ONNX_FILE)
    sha256 = file_sha256(folder / WEIGHTS_FILE)
    record = TrainingRecord(sha256, "none", 0, 0, 0, torch.__version__)
    write_card(folder, dataclasses.replace(card, training=record, onnx=OnnxRecord(file_sha256(folder / ONNX_FILE), sha256, OPSET, 0.0)))


def scenes(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return frames of as many generated scenes, uint8 [N, H, W, 3]."""
    import numpy as np

    from retinanet_edge.runtime.scene_video import SceneVideo

    return np.stack([SceneVideo(seed, height, width).frame(100)[0] for seed in range(count)])


def settle_norms(network: RetinaNet, images: torch.Tensor) -> None:
    """Give every BatchNorm the statistics of `images`, so that values stay of the size that a trained network's are. Leaves it in eval."""
    from torch import nn

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean of all that pass
        norm.reset_running_stats()
    network.train()
    network(images)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def set_candidates(network: RetinaNet, images: torch.Tensor, count: int, threshold: float) -> None:
    """Stretch and shift the class logits so that `count` scores of an image are at least `threshold`, 0..1."""
    last = network.class_head.predict
    assert last.bias is not None
    last.bias.data.zero_()
    last.weight.data *= LOGIT_SPREAD / network(images)[0].std()
    logits = network(images)[0].flatten()
    lowest = logits.topk(min(len(logits), count * len(images))).values[-1]
    last.bias.data += math.log(threshold / (1 - threshold)) - lowest


if __name__ == "__main__":
    sys.exit(run_command(main))
