"""Weights and training state on disk: safetensors only, nothing is unpickled.

    weights.safetensors   the network at its best epoch
    last.safetensors      all that resuming needs: network, its running average, optimizer; settings and history as metadata
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from retinanet_edge.runtime.errors import ModelFolderError, UserInputError
from retinanet_edge.runtime.model_card import ModelCard
from retinanet_edge.runtime.model_folder import WEIGHTS_FILE, atomic_path, vouched_file
from retinanet_edge.training.model import RetinaNet, build_network

LAST_FILE = "last.safetensors"
_METADATA_KEY = "training"


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's weights, whole or not at all. Learned INT8 ranges are none: learned_ranges.json has them."""
    _save(path, {key: value for key, value in network.state_dict().items() if not key.startswith("quantization.")}, {})


def load_network(folder: Path, card: ModelCard) -> RetinaNet:
    """Return the network of a model folder with its best weights, in evaluation mode.

    Raises ModelFolderError where the weights are missing, truncated, or not those of the card.
    """
    path = vouched_file(folder, WEIGHTS_FILE, card.training.weights_sha256 if card.training else None)
    network = build_network(card.network, card.input, card.anchors, len(card.classes))
    load_weights(network, read_tensors(path), str(path))
    return network.eval()


def load_weights(network: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load `tensors` into a network. Raises ModelFolderError naming the keys and shapes that differ."""
    wanted = network.state_dict()
    missing, unknown = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    differing = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(tensors)) if tensors[name].shape != wanted[name].shape
    ]  # fmt: skip
    if missing or unknown or differing:
        raise ModelFolderError(
            f"{source} does not fit this network: {_some('missing', missing)}, {_some('unknown', unknown)}, "
            f"{_some('other shapes', differing)}: give the --backbone, widths and classes that it was trained with"
        )
    network.load_state_dict(tensors)


def load_timm_weights(features: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load the file of a timm model, as its hub has it, into the backbone cut from that model; the classifier stays out.

    Raises ModelFolderError naming the keys and shapes that differ.
    """
    # What timm cuts to its features names some modules stages_0 that were stages.0.
    given = {key.replace(".", "_"): value for key, value in tensors.items()}
    wanted = {key: key.replace(".", "_") for key in features.state_dict()}
    load_weights(features, {key: given[flat] for key, flat in wanted.items() if flat in given}, source)


def _some(what: str, names: list[str]) -> str:
    return f"{len(names)} {what}" + (f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raises ModelFolderError where it is missing or not one, or truncated."""
    if not path.is_file():
        raise ModelFolderError(f"weights {path} do not exist: give a .safetensors file")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ModelFolderError(f"{path} must be a whole safetensors file, got {error}: bring or make it again") from None
    return tensors


def save_training_state(path: Path, modules: dict[str, nn.Module], optimizer: Optimizer, settings: dict[str, Any]) -> None:
    """Write all that `load_training_state` gives back, whole or not at all. `settings` goes into the header as JSON."""
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    scalars: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                scalars[f"{index}/{key}"] = value
    _save(path, tensors, {_METADATA_KEY: json.dumps({"settings": settings, "optimizer_scalars": scalars})})


def read_training_settings(path: Path) -> dict[str, Any]:
    """Return the `settings` of a training state. Raises ModelFolderError where there is none to resume."""
    if not path.is_file():
        raise ModelFolderError(f"{path} does not exist, so there is nothing to resume: run python training/train.py --data PATH")
    try:
        with safe_open(path, "pt") as file:
            settings: dict[str, Any] = json.loads(file.metadata()[_METADATA_KEY])["settings"]
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ModelFolderError(f"{path} must be a whole training state, got {error}: train again") from None
    return settings


def load_training_state(path: Path, modules: dict[str, nn.Module], optimizer: Optimizer) -> None:
    """Put a saved training state back into `modules` and `optimizer`, in place."""
    tensors = read_tensors(path)
    for name, module in modules.items():
        prefix = f"{name}/"
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        load_weights(module, own, f"{path} ({name})")
    with safe_open(path, "pt") as file:
        scalars = json.loads(file.metadata()[_METADATA_KEY])["optimizer_scalars"]
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**_under(tensors, "optimizer/"), **scalars}.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    whole = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(whole, temporary, metadata)
        except SafetensorError as error:  # how it reports what the system refuses, such as a full disk
            raise UserInputError(f"{path} cannot be written ({error}): free disk space or mend its folder's permissions") from None
