"""Backbones: presets of KerasCV and any timm model with features at strides 8, 16 and 32; where their first weights come from."""

from __future__ import annotations

import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import Tensor, nn

from retinanet_edge.runtime.errors import UserInputError, WeightsError
from retinanet_edge.training.presets import PresetEntry, resolve
from retinanet_edge.training.same_padding import fix_same_padding
from retinanet_edge.training.vitdet import ViTDet
from retinanet_edge.training.yolo_v8 import YoloV8, yolo_v8_size

STRIDES = (8, 16, 32)
_HUB_SECONDS = 5.0
_PROBE_SIDE = 96  # an odd multiple of 32: convolutions that leave out borders give other sizes than 12, 6 and 3
# What fetching weights ends with: no network, no such file, no weights for this name, an answer that is not weights. The bases of the
# hub's error are those of its HTTP library, which differs by version.
_FETCH_ERRORS: tuple[type[BaseException], ...] = (OSError, RuntimeError, SafetensorError, *HfHubHTTPError.__bases__)


@dataclass(frozen=True)
class BackboneInfo:
    """Normalisation that goes with the weights: per channel, RGB, on the 0..255 scale."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Backbone(nn.Module):
    """A network cut to its features at strides 8, 16 and 32: float [N, 3, H, W] -> three maps, fine to coarse."""

    def __init__(self, name: str, *, imagenet: bool = False) -> None:
        """Build the backbone that a preset or a timm model names.

        Raises UserInputError for a name without such features, OSError or RuntimeError where weights cannot be fetched.
        """
        super().__init__()
        self.features, self.channels, mean, std = _build(resolve(name), published=imagenet)
        self.info = BackboneInfo(tuple(255 * m for m in mean), tuple(255 * s for s in std))

    @property
    def published(self) -> nn.Module:
        """The part that a file of timm's weights fills: all of the features but the pyramid over a plain transformer."""
        return self.features.vit if isinstance(self.features, ViTDet) else self.features

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps [N, C, H / stride, W / stride] of strides 8, 16 and 32."""
        maps: list[Tensor] = self.features(images)
        return maps


def make_backbone(name: str, weights: str) -> tuple[Backbone, str]:
    """Return the backbone and what its weights started from ("imagenet" or "none").

    weights: "imagenet" raises WeightsError where they cannot be had; "auto" then says so in one line and starts from random
    weights; anything else starts from random weights. Raises UserInputError for a name without features at strides 8, 16, 32.
    """
    if weights not in ("imagenet", "auto"):
        return Backbone(name), "none"
    untrained = Backbone(name)  # first of all: where there is no such network, it is not its weights that are missing
    try:
        return _pretrained(name), "imagenet"
    except WeightsError as error:
        if weights == "imagenet":
            raise
        print(f"{error.what}; starting from random weights", file=sys.stderr)
        return untrained, "none"


def _pretrained(name: str) -> Backbone:
    _use_cache_when_offline()
    try:
        return Backbone(name, imagenet=True)
    except _FETCH_ERRORS as error:
        reason = _first_sentence(error)
        raise WeightsError(
            f"trained weights of {name} cannot be had ({reason}): bring them as a file with --weights FILE", "start with --weights none"
        ) from None


def _use_cache_when_offline() -> None:
    """Let the hub's client look only into its cache where the hub does not answer: by itself it tries for most of a minute."""
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_HUB_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answers, whatever it says
    except (OSError, http.client.HTTPException):
        constants.HF_HUB_OFFLINE = True


def _build(entry: PresetEntry, *, published: bool) -> tuple[nn.Module, list[int], Sequence[float], Sequence[float]]:
    """Return the features, their channels, and mean and standard deviation of their input (RGB, on the 0..1 scale)."""
    if entry.kind == "retinanet":
        raise UserInputError(f"--backbone must be a backbone, {entry.name} is a whole model: use {entry.timm}, which is in it")
    if entry.kind == "yolo_v8":
        if published:
            raise FileNotFoundError("timm has none for this backbone")
        yolo = YoloV8(yolo_v8_size(entry.name))
        return yolo, yolo.channels, yolo.mean, yolo.std
    if entry.kind == "vitdet":
        vitdet = ViTDet(entry.timm_name, pretrained=published)
        return vitdet, vitdet.channels, vitdet.mean, vitdet.std
    indices = _feature_indices(entry.timm_name)
    features = timm.create_model(entry.timm_name, pretrained=published, features_only=True, out_indices=indices)
    fix_same_padding(features)
    config = features.pretrained_cfg
    mean, std = config.get("mean", (0.485, 0.456, 0.406)), config.get("std", (0.229, 0.224, 0.225))
    return features, features.feature_info.channels(), mean, std


def _feature_indices(name: str) -> tuple[int, ...]:
    """Return which of a timm model's feature maps have strides 8, 16 and 32: as measured, since not all state the right ones."""
    try:
        network = timm.create_model(name, features_only=True).eval()
        with torch.no_grad():
            shapes = [tuple(x.shape) for x in network(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))]
        strides = [_stride(shape, channels) for shape, channels in zip(shapes, network.feature_info.channels(), strict=True)]
    except (RuntimeError, AssertionError, TypeError, ValueError, AttributeError) as error:
        raise UserInputError(
            f"--backbone {name} gives no features of images of any size ({_first_sentence(error)}): choose another, as resnet50"
        ) from None
    if not set(STRIDES) <= set(strides):
        raise UserInputError(
            f"--backbone must have features [N, C, H, W] at strides {STRIDES}, "
            f"{name} has {list(dict.fromkeys(shapes))} for {_PROBE_SIDE}x{_PROBE_SIDE}: choose another, as resnet50"
        )
    indices = dict(zip(strides, network.feature_info.out_indices, strict=True))  # the last map of each stride
    return tuple(indices[stride] for stride in STRIDES)


def _stride(map_: Sequence[int], channels: int) -> float:
    """Return the stride of a map of the probe's, 0 for one that is not [N, C, H, W] of a square."""
    return _PROBE_SIDE / map_[2] if len(map_) == 4 and map_[1] == channels and map_[2] == map_[3] else 0


def _first_sentence(error: BaseException) -> str:
    return str(error).splitlines()[0].split(". ")[0].rstrip(".") if str(error) else type(error).__name__
