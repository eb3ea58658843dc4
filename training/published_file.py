"""Weights that are published as a PyTorch file under the hash of its content: fetched once, checked, read without running code."""

from __future__ import annotations

import http.client
import pickle
import urllib.request
from pathlib import Path

import torch
from torch import Tensor

from retinanet_edge.runtime.errors import UserInputError, WeightsError
from retinanet_edge.runtime.model_folder import file_sha256

_SECONDS = 5.0  # for the server to answer at all
_NESTED = ("model", "model_state_dict", "state_dict")  # where training scripts put the weights beside an optimizer's state


def read_published(url: str) -> dict[str, Tensor]:
    """Return the tensors of a file that its publisher named by its SHA-256 (name-12345678.pth), fetched once into torch.hub's cache.

    Nothing but tensors is unpickled. Raises WeightsError for a server that does not answer, UserInputError for a file of another hash.
    """
    name = url.rpartition("/")[2]
    sha256 = name.rpartition("-")[2].partition(".")[0]
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS).close()
            torch.hub.download_url_to_file(url, str(file), sha256)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise WeightsError(f"{url} cannot be had ({reason}): bring it as {file}", "give --weights imagenet or none") from None
    if not file_sha256(file).startswith(sha256):
        raise UserInputError(f"{file} must have a SHA-256 that begins with {sha256}: remove it, and run again or bring the whole file")
    return read_torch_file(file)


def read_torch_file(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a PyTorch file: of a state dict, or of one under "model", "model_state_dict" or "state_dict".

    Nothing but tensors is unpickled. Raises UserInputError where the file is missing or holds anything else.
    """
    if not file.is_file():
        raise UserInputError(f"weights {file} do not exist: give a .safetensors, .pt or .pth file")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        raise UserInputError(f"{file} must be a whole PyTorch file of tensors alone, got {reason}: bring or save it again") from None
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserInputError(f"{file} must hold a state dict, names and tensors, got {type(content).__name__}: save model.state_dict()")
    return dict(content)
