"""The network that a new run begins with, and the card that describes it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from retinanet_edge.runtime.dataset import Dataset
from retinanet_edge.runtime.errors import UserInputError, WeightsError
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, ModelCard, NetworkSpec, TrainingRecord
from retinanet_edge.runtime.model_folder import CARD_FILE, read_card
from retinanet_edge.training.backbones import Backbone, make_backbone
from retinanet_edge.training.checkpoint import load_timm_weights, load_weights, read_tensors
from retinanet_edge.training.model import RetinaNet
from retinanet_edge.training.options import TrainingOptions
from retinanet_edge.training.presets import resolve
from retinanet_edge.training.published_file import read_torch_file
from retinanet_edge.training.torchvision_weights import (
    Version,
    fetch_torchvision_retinanet,
    is_torchvision_retinanet,
    load_torchvision_backbone,
    load_torchvision_retinanet,
    torchvision_anchors_per_cell,
    torchvision_network_spec,
)  # fmt: skip

_NEW_CLASS_LAYER = "class_head.predict."  # all that depends on the class list
_NAMED_CLASSES = 8  # in the line that says which outputs came with the weights


@dataclass(frozen=True)
class _Start:
    """A backbone, tensors that are still to be loaded, and where both are from; not `pretrained` for random weights."""

    backbone: Backbone
    origin: str
    tensors: Mapping[str, Tensor] | None = None
    pretrained: bool = True


def new_network(options: TrainingOptions, dataset: Dataset) -> tuple[RetinaNet, ModelCard, bool]:
    """Return the network with its first weights, its card, and whether the backbone's weights are trained ones.

    Raises UserInputError where the weights do not fit or cannot be had.
    """
    torch.manual_seed(options.seed)
    start = _find_weights(options)
    spec, info = options.network, start.backbone.info
    input_spec = InputSpec(options.input_height, options.input_width, info.mean, info.std)
    network = RetinaNet(
        start.backbone, spec, input_spec, options.anchors, len(dataset.classes), kernel_initializer=options.semantics.kernel_initializer
    )
    origin = start.origin
    if start.tensors is not None:
        origin += _load(network, options, start, dataset.classes)
    card = ModelCard(dataset.classes, input_spec, options.anchors, spec, nms=options.nms)
    record = TrainingRecord(
        "", origin, options.epochs, 0, options.seed, torch.__version__, options.profile, options.foreground_iou, options.background_iou
    )
    return network, dataclasses.replace(card, training=record), start.pretrained


def _find_weights(options: TrainingOptions) -> _Start:
    if options.weights == "none":
        return _Start(Backbone(options.backbone), "none", pretrained=False)
    if options.weights == "auto":
        return _best_available(options)
    if options.weights == "imagenet":
        return _Start(make_backbone(options.backbone, "imagenet")[0], "imagenet")
    if options.weights == "coco":
        return _trained_on_coco(options)
    file = Path(options.weights)
    tensors = read_torch_file(file) if file.suffix in (".pt", ".pth") else read_tensors(file)
    return _Start(Backbone(options.backbone), str(file), tensors)


def _best_available(options: TrainingOptions) -> _Start:
    """Return the first that can be had of COCO's, for a ResNet50, and ImageNet's, and say in one line what could not."""
    untrained = Backbone(options.backbone)  # first of all: where there is no such network, it is not its weights that are missing
    missing = []
    for find in ([_trained_on_coco] if _is_resnet50(options.backbone) else []) + [_trained_on_imagenet]:
        try:
            start = find(options)
        except WeightsError as error:
            missing.append(error.what)
            continue
        if missing:
            print(f"{'; '.join(missing)}; starting from {start.origin}", file=sys.stderr)
        return start
    print(f"{'; '.join(missing)}; starting from random weights", file=sys.stderr)
    return _Start(untrained, "none (trained ones could not be had)", pretrained=False)


def _trained_on_imagenet(options: TrainingOptions) -> _Start:
    return _Start(make_backbone(options.backbone, "imagenet")[0], "imagenet")


def _trained_on_coco(options: TrainingOptions) -> _Start:
    """Return torchvision's RetinaNet: of the form of the profile, else the better one."""
    if not _is_resnet50(options.backbone):
        raise UserInputError(
            f"--weights coco must go into a resnet50, got --backbone {options.backbone}: give --weights imagenet, or that backbone"
        )
    version: Version = "v1" if options.profile == "torchvision" else "v2"
    tensors = fetch_torchvision_retinanet(version)
    return _Start(Backbone(options.backbone), f"COCO weights of torchvision's RetinaNet {version}", tensors)


def _is_resnet50(backbone: str) -> bool:
    return (resolve(backbone).timm or "").partition(".")[0] == "resnet50"


def _load(network: RetinaNet, options: TrainingOptions, start: _Start, classes: tuple[str, ...]) -> str:
    """Load what was found, and return what is to be said of how much it was."""
    assert start.tensors is not None
    if is_torchvision_retinanet(start.tensors):
        how_much = _start_from_torchvision(network, options, start.tensors, classes, start.origin)
        print(f"{start.origin}{how_much}", flush=True)
        return how_much
    if any(key.startswith("backbone.") for key in start.tensors):
        _start_from_own(network, options, start.tensors, Path(start.origin), classes)
    else:
        load_timm_weights(network.backbone.published, dict(start.tensors), start.origin)
    return ""


def _start_from_torchvision(
    network: RetinaNet, options: TrainingOptions, tensors: Mapping[str, Tensor], classes: tuple[str, ...], source: str
) -> str:
    theirs, ours = torchvision_network_spec(tensors, source), options.network
    same_form = dataclasses.replace(theirs, backbone=ours.backbone, box_variances=ours.box_variances) == ours
    if not same_form or torchvision_anchors_per_cell(tensors) != options.anchors.per_cell:
        load_torchvision_backbone(network.backbone, tensors, source)
        profile = "torchvision_v2" if theirs.norm == "group" else "torchvision"
        return f", backbone only (pyramid and heads are of another form: --profile {profile} takes them too)"
    kept = load_torchvision_retinanet(network, tensors, classes, source)
    named = ", ".join(kept[:_NAMED_CLASSES]) + (", ..." if len(kept) > _NAMED_CLASSES else "")
    return f", with the outputs of {len(kept)} of {len(classes)} classes" + (f" ({named})" if kept else "")


def _start_from_own(
    network: RetinaNet, options: TrainingOptions, tensors: Mapping[str, Tensor], file: Path, classes: tuple[str, ...]
) -> None:
    former = read_card(file.parent) if (file.parent / CARD_FILE).is_file() else None
    if options.new_classes:
        own = network.state_dict()
        tensors = {key: own[key] if key.startswith(_NEW_CLASS_LAYER) else value for key, value in tensors.items()}
    elif former and former.classes != classes:
        raise UserInputError(
            f"the classes must be those of {file}, {list(former.classes)}, got {list(classes)}: "
            "give --new-classes to keep everything but the last class layer"
        )
    load_weights(network, dict(tensors), str(file))
    differing = _differing(former.network, options.network) + _differing(former.anchors, options.anchors) if former else []
    if differing:  # of the same shapes, so they can be a start, but what the heads say is meant otherwise
        print(f"{file} was trained with other {', '.join(differing)}: the heads must learn these anew", file=sys.stderr)


def _differing(former: NetworkSpec | AnchorSpec, present: NetworkSpec | AnchorSpec) -> list[str]:
    return [
        f"{field.name} ({getattr(former, field.name)}, now {getattr(present, field.name)})"
        for field in dataclasses.fields(former) if getattr(former, field.name) != getattr(present, field.name)
    ]  # fmt: skip
