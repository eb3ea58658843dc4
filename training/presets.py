"""Names of backbones: what stands here behind each preset of KerasCV 0.9, and behind timm's own names.

The architectures are timm's, but for YOLOv8's (yolo_v8.py) and the pyramid over plain transformers (vitdet.py). Where KerasCV and timm
differ in details, the nearest timm network is taken; docs/backbones.md lists them all.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import timm

from retinanet_edge.runtime.errors import UserInputError

Kind = Literal["timm", "yolo_v8", "vitdet", "retinanet"]


@dataclass(frozen=True)
class PresetEntry:
    """What a name stands for. `weights` is timm's tag of weights that can be fetched, None where there are none (or, for plain
    timm names, where the name states none and timm chooses).

    `pretrained` says whether the name itself asks for weights, as resnet50_imagenet does and resnet50 does not. A "retinanet" is a
    whole model, whose backbone is `timm`; its weights, as YOLOv8's, come from a file.
    """

    name: str
    kind: Kind
    timm: str | None
    weights: str | None
    licence: str | None
    pretrained: bool

    @property
    def timm_name(self) -> str:
        """The name for timm.create_model, with the tag of its weights."""
        assert self.timm is not None
        return f"{self.timm}.{self.weights}" if self.weights else self.timm


# Preset -> timm's name and tag of weights; all under Apache 2.0. The tags are timm's defaults but for EfficientNetV2, whose defaults
# saw more than ImageNet-1k. Where a symmetric variant has no weights, the one that pads as TensorFlow does stands.
_TIMM = {
    "resnet18": "resnet18.a1_in1k",
    "resnet34": "resnet34.a1_in1k",
    "resnet50": "resnet50.a1_in1k",
    "resnet101": "resnet101.a1_in1k",
    "resnet152": "resnet152.a1_in1k",
    "resnet18_v2": "resnetv2_18.ra4_e3600_r224_in1k",
    "resnet34_v2": "resnetv2_34.ra4_e3600_r224_in1k",
    "resnet50_v2": "resnetv2_50.a1h_in1k",
    "resnet101_v2": "resnetv2_101.a1h_in1k",
    "resnet152_v2": "resnetv2_152",
    "mobilenet_v3_small": "mobilenetv3_small_100.lamb_in1k",
    "mobilenet_v3_large": "mobilenetv3_large_100.ra_in1k",
    "csp_darknet_tiny": "cspnext_tiny.rsb_a1_in1k",
    "csp_darknet_s": "cs3darknet_focus_s.ra4_e3600_r256_in1k",
    "csp_darknet_m": "cs3darknet_m.c2ns_in1k",
    "csp_darknet_l": "cs3darknet_l.c2ns_in1k",
    "csp_darknet_xl": "cs3darknet_x.c2ns_in1k",
    "efficientnetv1_b0": "efficientnet_b0.ra_in1k",
    "efficientnetv1_b1": "efficientnet_b1.ft_in1k",
    "efficientnetv1_b2": "efficientnet_b2.ra_in1k",
    "efficientnetv1_b3": "efficientnet_b3.ra2_in1k",
    "efficientnetv1_b4": "efficientnet_b4.ra2_in1k",
    "efficientnetv1_b5": "efficientnet_b5.sw_in12k_ft_in1k",
    "efficientnetv1_b6": "tf_efficientnet_b6.aa_in1k",
    "efficientnetv1_b7": "tf_efficientnet_b7.aa_in1k",
    "efficientnetv2_s": "tf_efficientnetv2_s.in1k",
    "efficientnetv2_m": "tf_efficientnetv2_m.in1k",
    "efficientnetv2_l": "tf_efficientnetv2_l.in1k",
    "efficientnetv2_b0": "tf_efficientnetv2_b0.in1k",
    "efficientnetv2_b1": "tf_efficientnetv2_b1.in1k",
    "efficientnetv2_b2": "tf_efficientnetv2_b2.in1k",
    "efficientnetv2_b3": "tf_efficientnetv2_b3.in1k",
    "efficientnetlite_b0": "efficientnet_lite0.ra_in1k",
    "efficientnetlite_b1": "tf_efficientnet_lite1.in1k",
    "efficientnetlite_b2": "tf_efficientnet_lite2.in1k",
    "efficientnetlite_b3": "tf_efficientnet_lite3.in1k",
    "efficientnetlite_b4": "tf_efficientnet_lite4.in1k",
    "densenet121": "densenet121.ra_in1k",
    "densenet169": "densenet169.tv_in1k",
    "densenet201": "densenet201.tv_in1k",
}
_VITDET = {
    "vitdet_base": "samvit_base_patch16.sa1b",
    "vitdet_large": "samvit_large_patch16.sa1b",
    "vitdet_huge": "samvit_huge_patch16.sa1b",
}
_YOLO_V8 = tuple(f"yolo_v8_{size}_backbone" for size in ("xs", "s", "m", "l", "xl"))
# Names that KerasCV gives to backbones together with their weights.
_IMAGENET = (
    "resnet50", "resnet50_v2", "mobilenet_v3_large", "mobilenet_v3_small", "csp_darknet_tiny", "csp_darknet_l", "efficientnetv2_s",
    "efficientnetv2_b0", "efficientnetv2_b1", "efficientnetv2_b2", "densenet121", "densenet169", "densenet201",
)  # fmt: skip
_RETINANETS = {"retinanet_resnet50_pascalvoc": "resnet50"}
# Video networks -> the convolutional network of the same size and cost that takes single images (Liu et al., A ConvNet for the 2020s).
_VIDEO = {"videoswin_tiny": "convnext_tiny", "videoswin_small": "convnext_small", "videoswin_base": "convnext_base"}
_LICENCE = "Apache-2.0"


def resolve(name: str) -> PresetEntry:
    """Return what a preset of KerasCV's, or any name of a timm model, stands for. Where a name is both, the preset counts.

    Raises UserInputError, naming the nearest that can be used, for any other name and for what only takes video.
    """
    if name in PRESETS:
        entry = PRESETS[name]
    elif timm.is_model(name):
        base, _, tag = name.partition(".")
        entry = PresetEntry(name, "timm", base, tag or None, None, pretrained=False)
    else:
        raise UserInputError(_unknown(name))
    if entry.timm is not None and not timm.is_model(entry.timm):
        raise UserInputError(f"{name} is {entry.timm} of timm, which timm {timm.__version__} lacks: run pip install -U timm")
    return entry


def _unknown(name: str) -> str:
    if name.startswith("videoswin"):
        size = difflib.get_close_matches(name[: len("videoswin_small")], _VIDEO, n=1, cutoff=0)[0]
        return f"{name} takes clips of a video, not single images (KerasCV's RetinaNet refuses it, too): use {_VIDEO[size]}"
    base = name.split(".")[0]
    nearest = [*difflib.get_close_matches(base, PRESETS, n=2), *difflib.get_close_matches(base, timm.list_models(), n=2)]
    hint = f"did you mean {', '.join(dict.fromkeys(nearest))}" if nearest else "timm.list_models() and docs/backbones.md list them"
    return f"--backbone must be the name of a timm model or a preset of KerasCV, got {name}: {hint}"


def _with_weights(name: str, kind: Kind, timm_name: str, suffix: str | None) -> list[PresetEntry]:
    """Return the entry of an architecture and, where KerasCV has such a name, the one that asks for its weights."""
    base, _, tag = timm_name.partition(".")
    licence = _LICENCE if tag else None
    entries = [PresetEntry(name, kind, base, tag or None, licence, pretrained=False)]
    if suffix:
        entries.append(PresetEntry(f"{name}_{suffix}", kind, base, tag, licence, pretrained=True))
    return entries


def _table() -> Mapping[str, PresetEntry]:
    entries = [
        *(entry for name, of in _TIMM.items() for entry in _with_weights(name, "timm", of, "imagenet" if name in _IMAGENET else None)),
        *(entry for name, of in _VITDET.items() for entry in _with_weights(name, "vitdet", of, "sa1b")),
        *(PresetEntry(name, "yolo_v8", None, None, None, pretrained=False) for name in _YOLO_V8),
        *(PresetEntry(f"{name}_coco", "yolo_v8", None, None, None, pretrained=True) for name in _YOLO_V8),
        *(PresetEntry(name, "retinanet", of, None, None, pretrained=True) for name, of in _RETINANETS.items()),
    ]
    return MappingProxyType({entry.name: entry for entry in entries})


PRESETS = _table()
