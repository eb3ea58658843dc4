"""The network that a new run begins with, and the card that describes it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from retinanet_edge.runtime.dataset import Dataset
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import InputSpec, ModelCard, NetworkSpec, TrainingRecord
from retinanet_edge.runtime.model_folder import CARD_FILE, read_card
from retinanet_edge.training.backbones import make_backbone
from retinanet_edge.training.checkpoint import load_timm_weights, load_weights, read_tensors
from retinanet_edge.training.model import RetinaNet
from retinanet_edge.training.options import TrainingOptions

_NEW_CLASS_LAYER = "class_head.predict."  # all that depends on the class list


def new_network(options: TrainingOptions, dataset: Dataset) -> tuple[RetinaNet, ModelCard]:
    """Return the network with its first weights, and its card. Raises UserInputError where the weights do not fit or cannot be had."""
    torch.manual_seed(options.seed)
    file = None if options.weights in ("auto", "imagenet", "none") else Path(options.weights)
    backbone, start = make_backbone(options.backbone, "none" if file else options.weights)
    spec = NetworkSpec(options.backbone, options.fpn_channels, options.head_channels, options.head_depth, options.norm)
    input_spec = InputSpec(options.input_height, options.input_width, backbone.info.mean, backbone.info.std)
    network = RetinaNet(backbone, spec, input_spec, options.anchors, len(dataset.classes))
    if file:
        start = str(file)
        _start_from_file(network, file, dataset.classes, options.new_classes)
    card = ModelCard(dataset.classes, input_spec, options.anchors, spec, nms=options.nms)
    record = TrainingRecord("", start, options.epochs, 0, options.seed, torch.__version__)
    return network, dataclasses.replace(card, training=record)


def _start_from_file(network: RetinaNet, file: Path, classes: tuple[str, ...], new_classes: bool) -> None:
    tensors = read_tensors(file)
    if not any(key.startswith("backbone.") for key in tensors):
        load_timm_weights(network.backbone.published, tensors, str(file))
        return
    if new_classes:
        own = network.state_dict()
        tensors = {key: own[key] if key.startswith(_NEW_CLASS_LAYER) else value for key, value in tensors.items()}
    elif (file.parent / CARD_FILE).is_file():
        former = read_card(file.parent).classes
        if former != classes:
            raise UserInputError(
                f"the classes must be those of {file}, {list(former)}, got {list(classes)}: "
                "give --new-classes to keep everything but the last class layer"
            )
    load_weights(network, tensors, str(file))
