from pathlib import Path

import pytest
import torch
from torch import nn

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.training.checkpoint import (
    load_training_state,
    load_weights,
    read_tensors,
    read_training_settings,
    save_training_state,
    save_weights,
)  # fmt: skip


def layers(width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    batch = torch.randn(8, 2, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network(batch).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.AdamW(p, lr=0.1),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
])  # fmt: skip
def test_training_goes_on_as_if_it_had_not_stopped(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    network = layers()
    optimizer = make(network.parameters())
    step(network, optimizer, 1)
    save_training_state(tmp_path / "last.safetensors", {"network": network}, optimizer, {"epoch": 1, "rates": [0.5]})

    other = layers()
    other_optimizer = make(other.parameters())
    load_training_state(tmp_path / "last.safetensors", {"network": other}, other_optimizer)
    assert read_training_settings(tmp_path / "last.safetensors") == {"epoch": 1, "rates": [0.5]}
    for seed in (2, 3):
        step(network, optimizer, seed)
        step(other, other_optimizer, seed)
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_weights_of_another_network_are_refused_by_name_and_shape(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", layers(3))
    with pytest.raises(ModelFolderError, match=r"0\.weight \(3, 2\) for \(5, 2\)"):
        load_weights(layers(5), read_tensors(tmp_path / "w.safetensors"), "w.safetensors")
    with pytest.raises(ModelFolderError, match=r"1 missing \(2\.weight\)"):
        load_weights(nn.Sequential(*layers(3), nn.PReLU()), read_tensors(tmp_path / "w.safetensors"), "w.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 60])
def test_a_truncated_file_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, layers())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelFolderError, match="whole safetensors file"):
        read_tensors(path)
    with pytest.raises(ModelFolderError, match="whole training state"):
        read_training_settings(path)


def test_weights_alone_are_no_training_state(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", layers())
    with pytest.raises(ModelFolderError, match="whole training state"):
        read_training_settings(tmp_path / "w.safetensors")
    with pytest.raises(ModelFolderError, match="nothing to resume"):
        read_training_settings(tmp_path / "absent.safetensors")


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save(layers().state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelFolderError, match="whole safetensors file"):
        read_tensors(tmp_path / "w.pt")
