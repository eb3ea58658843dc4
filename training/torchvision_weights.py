"""torchvision's RetinaNet checkpoints in our network: v1 (Lin et al.) and v2 (group norm in the heads, P6 from C5, GIoU).

Rebuilt with the NetworkSpec that `torchvision_network_spec` reads from a file, TORCHVISION_ANCHORS and ImageNet's mean and deviation, our
network says what theirs says. In any other network of fitting shapes the same weights are a start for training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet_ResNet50_FPN_V2_Weights, RetinaNet_ResNet50_FPN_Weights

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import NetworkSpec
from retinanet_edge.training.backbones import Backbone
from retinanet_edge.training.checkpoint import load_weights
from retinanet_edge.training.model import RetinaNet
from retinanet_edge.training.published_file import read_published

Version = Literal["v1", "v2"]
_WEIGHTS = {"v1": RetinaNet_ResNet50_FPN_Weights.COCO_V1, "v2": RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1}
_DUMMIES = ("__background__", "N/A")  # outputs of torchvision's that stand for no class
# Their names -> ours. In files of torchvision before 0.12 a layer of the pyramid has no ".0", and convolution i of a head is conv.{2 i}.
_NAMES = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (r"backbone\.body\.(.+)", r"backbone.features.\1"),
        (r"backbone\.fpn\.inner_blocks\.(\d+)(?:\.0)?\.(weight|bias)", r"pyramid.lateral.\1.\2"),
        (r"backbone\.fpn\.layer_blocks\.(\d+)(?:\.0)?\.(weight|bias)", r"pyramid.output.\1.\2"),
        (r"backbone\.fpn\.extra_blocks\.(p[67]\.\w+)", r"pyramid.\1"),
        (r"head\.classification_head\.cls_logits\.(\w+)", r"class_head.predict.\1"),
        (r"head\.regression_head\.bbox_reg\.(\w+)", r"box_head.predict.\1"),
        (r"head\.classification_head\.conv\.(\d+)\.0\.(\w+)", r"class_head.convs.\1.\2"),
        (r"head\.regression_head\.conv\.(\d+)\.0\.(\w+)", r"box_head.convs.\1.\2"),
        (r"head\.classification_head\.conv\.(\d+)\.1\.(\w+)", r"class_head.norms.0.\1.\2"),
        (r"head\.regression_head\.conv\.(\d+)\.1\.(\w+)", r"box_head.norms.0.\1.\2"),
    )
)
_OLD_CONVOLUTION = re.compile(r"(head\.\w+\.conv\.)(\d+)\.(weight|bias)")
_BLOCK_CONVOLUTION = re.compile(r"backbone\.features\.layer\d+\.\d+\.conv\d\.weight")


def coco_categories() -> tuple[str, ...]:
    """Return the names of the 91 classes of torchvision's files; some are dummies."""
    return tuple(_WEIGHTS["v1"].meta["categories"])


def is_torchvision_retinanet(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether tensors are of torchvision's RetinaNet (and not of ours or timm's)."""
    return any(key.startswith("backbone.body.") for key in tensors)


def torchvision_network_spec(tensors: Mapping[str, Tensor], source: str) -> NetworkSpec:
    """Return the network that tensors of torchvision's RetinaNet belong to. Raises ModelFolderError where they are of something else."""
    ours = _renamed(tensors)
    try:
        width, head_width = len(ours["pyramid.p7.bias"]), len(ours["class_head.convs.0.weight"])
        p6_inputs = ours["pyramid.p6.weight"].shape[1]
    except KeyError as error:
        raise ModelFolderError(f"{source} must be of torchvision's RetinaNet, it lacks {error.args[0]}: bring another file") from None
    # A ResNet's number counts its convolutions in blocks, the stem and the classifier.
    depth = 2 + sum(bool(_BLOCK_CONVOLUTION.fullmatch(key)) for key in ours)
    return NetworkSpec(
        f"resnet{depth}", width, head_width,
        head_depth=sum(bool(re.fullmatch(r"class_head\.convs\.\d+\.weight", key)) for key in ours),
        norm="group" if "class_head.norms.0.0.weight" in ours else "none",
        p6_from="P5" if p6_inputs == width else "C5",
        box_variances=(1.0, 1.0, 1.0, 1.0),
    )  # fmt: skip


def torchvision_anchors_per_cell(tensors: Mapping[str, Tensor]) -> int:
    """Return for how many anchors at each position the box head of torchvision's RetinaNet speaks."""
    return len(tensors["head.regression_head.bbox_reg.bias"]) // 4


def load_torchvision_retinanet(
    network: RetinaNet, tensors: Mapping[str, Tensor], classes: Sequence[str], source: str, *, batch_norm_eps: float | None = None
) -> list[str]:
    """Load the tensors of torchvision's RetinaNet, and return the classes whose outputs come with them: those with a name of COCO's.

    The outputs of other classes keep the values that they have. `batch_norm_eps` is of the network that the tensors are from; None: 0
    where they are of frozen norms (which count no batches), as in torchvision's v1, else 1e-5. The box head is scaled to the
    network's variances. Raises ModelFolderError naming the keys and shapes that differ.
    """
    own, given = network.state_dict(), _renamed(tensors)
    _fit_norms(given, network.backbone, batch_norm_eps)
    kept = _take_classes(given, own, classes)
    for name in _of_layer("box_head.predict", given):
        variances = network.get_buffer("box_variances").cpu().repeat(len(given[name]) // 4)
        given[name] = given[name] / variances.reshape(-1, *[1] * (given[name].ndim - 1))
    load_weights(network, given, source)
    return kept


def load_torchvision_backbone(
    backbone: Backbone, tensors: Mapping[str, Tensor], source: str, *, batch_norm_eps: float | None = None
) -> None:
    """Load the backbone alone, for a network with another pyramid or other heads; as `load_torchvision_retinanet` otherwise."""
    given = {key: value for key, value in _renamed(tensors).items() if key.startswith("backbone.")}
    _fit_norms(given, backbone, batch_norm_eps)
    load_weights(backbone, {key.removeprefix("backbone."): value for key, value in given.items()}, source)


def fetch_torchvision_retinanet(version: Version) -> dict[str, Tensor]:
    """Return torchvision's official tensors, trained on COCO, from its server or the cache of torch.hub.

    Raises UserInputError, which says how to bring the file, where there is neither.
    """
    return read_published(_WEIGHTS[version].url)


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_our_name(key): value for key, value in tensors.items()}


def _our_name(key: str) -> str:
    if old := _OLD_CONVOLUTION.fullmatch(key):
        key = f"{old[1]}{int(old[2]) // 2}.0.{old[3]}"
    for theirs, ours in _NAMES:
        if found := theirs.fullmatch(key):
            return found.expand(ours)
    return key


def _fit_norms(given: dict[str, Tensor], backbone: nn.Module, eps: float | None) -> None:
    """Scale the weights of norms trained with another epsilon, in place: w / sqrt(v + eps) = w' / sqrt(v + own eps); count batches."""
    if eps is None:
        eps = 1e-5 if any(key.endswith(".num_batches_tracked") for key in given) else 0.0
    for name, module in backbone.named_modules(prefix="backbone"):
        if isinstance(module, nn.BatchNorm2d) and {f"{name}.weight", f"{name}.running_var"} <= set(given):
            variance = given[f"{name}.running_var"].double().clamp(min=torch.finfo(torch.float32).tiny)
            scale = ((variance + module.eps) / (variance + eps)).sqrt()
            given[f"{name}.weight"] = (given[f"{name}.weight"].double() * scale).to(given[f"{name}.weight"])
            given.setdefault(f"{name}.num_batches_tracked", torch.tensor(0))


def _take_classes(given: dict[str, Tensor], own: Mapping[str, Tensor], classes: Sequence[str]) -> list[str]:
    """Put a last class layer of the network's classes in place of the given one; return the classes whose outputs are the given ones."""
    categories = coco_categories()
    per_cell = len(given.get("box_head.predict.bias", ())) // 4
    of_coco = len(given.get("class_head.predict.bias", ())) == per_cell * len(categories)  # else nobody knows the names
    rows = {index: categories.index(name) for index, name in enumerate(classes) if of_coco and name in categories and name not in _DUMMIES}
    for name in _of_layer("class_head.predict", given):
        mine = own[name].clone().reshape(-1, len(classes), *own[name].shape[1:])  # [anchors of a cell, K, ...]
        theirs = given[name].reshape(-1, len(categories), *given[name].shape[1:]) if of_coco else mine
        if len(mine) == len(theirs) and mine.shape[2:] == theirs.shape[2:]:
            mine[:, list(rows)] = theirs[:, list(rows.values())].to(mine)
            given[name] = mine.flatten(0, 1)
    return [classes[index] for index in rows]


def _of_layer(layer: str, tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name in (f"{layer}.weight", f"{layer}.bias") if name in tensors]
