"""Backbones: any timm model with features at strides 8, 16 and 32, and where its first weights come from."""

from __future__ import annotations

import difflib
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass

import timm
from huggingface_hub import constants
from torch import Tensor, nn

from retinanet_edge.runtime.errors import UserInputError

STRIDES = (8, 16, 32)
_HUB_SECONDS = 5.0


@dataclass(frozen=True)
class BackboneInfo:
    """Normalisation that goes with the weights: per channel, RGB, on the 0..255 scale."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Backbone(nn.Module):
    """A timm model cut to its features at strides 8, 16 and 32: float [N, 3, H, W] -> three maps, fine to coarse."""

    def __init__(self, name: str, *, imagenet: bool = False) -> None:
        """Build the backbone. Raises UserInputError for a name without such features, OSError where weights cannot be fetched."""
        super().__init__()
        _check_name(name)
        indices = _feature_indices(name)
        self.features = timm.create_model(name, pretrained=imagenet, features_only=True, out_indices=indices)
        self.channels: list[int] = self.features.feature_info.channels()
        config = self.features.pretrained_cfg
        mean, std = config.get("mean", (0.485, 0.456, 0.406)), config.get("std", (0.229, 0.224, 0.225))
        self.info = BackboneInfo(tuple(255 * m for m in mean), tuple(255 * s for s in std))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps [N, C, H / stride, W / stride] of strides 8, 16 and 32."""
        maps: list[Tensor] = self.features(images)
        return maps


def make_backbone(name: str, weights: str) -> tuple[Backbone, str]:
    """Return the backbone and what its weights started from ("imagenet" or "none").

    weights: "imagenet" raises UserInputError where they cannot be had; "auto" then says so in one line and starts from random
    weights; anything else starts from random weights.
    """
    if weights not in ("imagenet", "auto"):
        return Backbone(name), "none"
    _use_cache_when_offline()
    try:
        return Backbone(name, imagenet=True), "imagenet"
    except (OSError, RuntimeError) as error:  # no network, no such file on the hub, or no weights for this name
        reason = str(error).split(".")[0] if str(error) else type(error).__name__
        if weights == "imagenet":
            raise UserInputError(
                f"ImageNet weights of {name} cannot be had ({reason}): "
                "bring them as a file with --weights FILE, or start with --weights none"
            ) from None
        print(f"ImageNet weights of {name} cannot be had ({reason}): starting from random weights", file=sys.stderr)
        return Backbone(name), "none"


def _use_cache_when_offline() -> None:
    """Let the hub's client look only into its cache where the hub does not answer: by itself it tries for most of a minute."""
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_HUB_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answers, whatever it says
    except OSError:
        constants.HF_HUB_OFFLINE = True


def _check_name(name: str) -> None:
    if timm.is_model(name):
        return
    base = name.split(".")[0]
    nearest = difflib.get_close_matches(base, timm.list_models(), n=3)
    hint = f"did you mean {', '.join(nearest)}" if nearest else "timm.list_models() lists them"
    raise UserInputError(f"--backbone must be the name of a timm model, got {name}: {hint}")


def _feature_indices(name: str) -> tuple[int, ...]:
    try:
        reductions = timm.create_model(name, features_only=True).feature_info.reduction()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserInputError(f"--backbone {name} gives no feature maps ({error}): choose another, such as resnet50") from None
    if not set(STRIDES) <= set(reductions):
        raise UserInputError(
            f"--backbone must have features at strides {STRIDES}, {name} has {tuple(reductions)}: choose another, as resnet50"
        )
    return tuple(max(i for i, r in enumerate(reductions) if r == stride) for stride in STRIDES)
