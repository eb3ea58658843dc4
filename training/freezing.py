"""Stages of a backbone that keep the weights they came with: no gradients, and batch-norm statistics that stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.backbones import Backbone
from retinanet_edge.training.vitdet import ViTDet
from retinanet_edge.training.yolo_v8 import YoloV8

STAGES = 5  # the stem, then the stages that end at strides 4, 8, 16 and 32
_STAGE_STRIDES = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Stage:
    """One stage of a backbone: its modules, and parameters that stand outside of any."""

    modules: tuple[nn.Module, ...]
    loose: tuple[nn.Parameter, ...] = ()


def freeze_stages(backbone: Backbone, count: int) -> list[nn.Module]:
    """Fix the first `count` stages, 0 to 5, and return their modules, which `keep_frozen` keeps in evaluation mode.

    1 is the stem, 2 to 5 the stages that end at strides 4, 8, 16 and 32 (conv1 and bn1, layer1 to layer4 of a ResNet). Raises
    UserInputError out of that range, and for a backbone whose stages cannot be told apart.
    """
    if not 0 <= count <= STAGES:
        raise UserInputError(f"--freeze must be 0 (nothing) to {STAGES} (the whole backbone), got {count}")
    if count == 0:
        return []
    frozen = backbone_stages(backbone)[:count]
    for stage in frozen:
        for parameter in (*stage.loose, *(p for module in stage.modules for p in module.parameters())):
            parameter.requires_grad_(False)
    return [module for stage in frozen for module in stage.modules]


def freeze_norms(backbone: Backbone) -> list[nn.Module]:
    """Fix scales, biases and statistics of all BatchNorms, as torchvision's FrozenBatchNorm2d has them, and return these.

    `keep_frozen` keeps them so. For small batches, whose own statistics are noise.
    """
    norms: list[nn.Module] = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for parameter in (p for norm in norms for p in norm.parameters()):
        parameter.requires_grad_(False)
    return norms


def keep_frozen(modules: Iterable[nn.Module]) -> None:
    """Put frozen modules back into evaluation mode, after their network was set to train."""
    for module in modules:
        module.eval()


def backbone_stages(backbone: Backbone) -> list[Stage]:
    """Return the five stages. Together they are the backbone, but for the pyramid that a plain transformer is given."""
    features = backbone.features
    if isinstance(features, ViTDet):
        return _transformer_stages(features)
    if isinstance(features, YoloV8):
        return [Stage((features.stem,)), *(Stage((stage,)) for stage in features.stages)]
    info = getattr(features, "feature_info", None)
    whole = getattr(features, "model", None)
    root = whole if isinstance(whole, nn.Module) else features  # timm wraps some networks as a whole
    ends = {item["reduction"]: item["module"].replace(".", "_") for item in info.info} if info is not None else {}
    units = list(_units(root, "", tuple(ends.values())))
    names = [name for name, _ in units]
    if any(stride not in ends or ends[stride] not in names for stride in _STAGE_STRIDES[1:]):
        raise UserInputError("--freeze needs a backbone with stages at strides 4, 8, 16 and 32, this one has others: give --freeze 0")
    return _cut(root, units, [names.index(ends[stride]) if stride in ends else None for stride in _STAGE_STRIDES])


def _cut(root: nn.Module, units: list[tuple[str, nn.Module]], ends: list[int | None]) -> list[Stage]:
    """Cut units, in the order in which they run, after each of `ends`; what follows the last is not run.

    A stem without an end is what stands before the second stage.
    """
    stem, *others = ends
    last = [others[0] - 1 if stem is None and others[0] is not None else stem, *others]
    stages, begin = [], 0
    for position in last:
        assert position is not None
        stages.append(Stage(tuple(module for _, module in units[begin : position + 1])))
        begin = position + 1
    return [Stage(stages[0].modules, tuple(root.parameters(recurse=False))), *stages[1:]]


def _units(module: nn.Module, prefix: str, ends: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a network, each as large as can be without an end inside it, with names as timm's features have them."""
    for name, child in module.named_children():
        flat = prefix + name.replace(".", "_")
        if any(end.startswith(f"{flat}_") for end in ends):
            yield from _units(child, f"{flat}_", ends)
        else:
            yield flat, child


def _transformer_stages(features: ViTDet) -> list[Stage]:
    """Return patches and positions as the stem, and four quarters of the blocks."""
    blocks = list(features.vit.blocks)
    cuts = [len(blocks) * quarter // 4 for quarter in range(5)]
    quarters = [Stage(tuple(blocks[a:b])) for a, b in pairwise(cuts)]
    return [Stage((features.vit.patch_embed,), (features.vit.pos_embed,)), *quarters]
