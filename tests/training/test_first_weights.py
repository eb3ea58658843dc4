"""Where a run's first weights come from: torchvision's files of a small RetinaNet, and networks that do not answer."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from retinanet_edge.runtime.dataset import Dataset, read_dataset
from retinanet_edge.runtime.errors import ModelFolderError, UserInputError
from retinanet_edge.training import first_weights
from retinanet_edge.training.first_weights import new_network
from retinanet_edge.training.options import TrainingOptions
from retinanet_edge.training.published_file import read_published
from retinanet_edge.training.torchvision_weights import coco_categories
from tests.training.conftest import TrainCommand, options

SIDE, WIDTH = 64, 32


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    """Tensors of torchvision's RetinaNet v1 on a ResNet18 with a narrow pyramid."""
    torch.manual_seed(1)
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    pyramid = BackboneWithFPN(resnet18(), layers, [128, 256, 512], WIDTH, LastLevelP6P7(WIDTH, WIDTH))
    return dict(TorchvisionRetinaNet(pyramid, num_classes=91).state_dict())


@pytest.fixture
def file(theirs: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save(theirs, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


@pytest.fixture
def dataset(data: Path) -> Dataset:
    return dataclasses.replace(read_dataset(data), classes=("cat", "square"))


def of_their_form(**changes: Any) -> TrainingOptions:
    return options(**{
        "profile": "torchvision", "backbone": "resnet18", "fpn_channels": WIDTH, "head_channels": WIDTH, "head_depth": 4, "norm": "none",
        "anchor_scales": (1.0, 1.26, 1.59), "anchor_ratios": (0.5, 1.0, 2.0), **changes,
    })  # fmt: skip


def test_a_network_of_the_same_form_takes_all_of_torchvisions_file(
    file: Path, theirs: dict[str, Tensor], dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    network, card, pretrained = new_network(of_their_form(weights=str(file)), dataset)
    assert torch.equal(network.pyramid.p6.weight, theirs["backbone.fpn.extra_blocks.p6.weight"])
    rows = theirs["head.classification_head.cls_logits.weight"].unflatten(0, (9, 91))
    ours = network.class_head.predict.weight.unflatten(0, (9, 2))
    assert torch.equal(ours[:, 0], rows[:, coco_categories().index("cat")])
    assert card.training is not None
    assert card.training.start == f"{file}, with the outputs of 1 of 2 classes (cat)"
    assert card.training.start in capsys.readouterr().out
    assert pretrained


def test_a_network_of_another_form_takes_the_backbone(
    file: Path, theirs: dict[str, Tensor], dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    network, card, pretrained = new_network(options(backbone="resnet18", weights=str(file)), dataset)
    assert torch.equal(network.backbone.features.conv1.weight, theirs["backbone.body.conv1.weight"])
    assert pretrained
    assert card.training is not None
    assert "backbone only (pyramid and heads are of another form: --profile torchvision takes them too)" in card.training.start
    assert card.training.start in capsys.readouterr().out


def test_other_anchors_take_the_backbone_alone(file: Path, dataset: Dataset) -> None:
    _, card, _ = new_network(of_their_form(weights=str(file), anchor_scales=(1.0,)), dataset)
    assert card.training is not None
    assert "backbone only" in card.training.start


def test_a_file_of_another_backbone_says_what_differs(file: Path, dataset: Dataset) -> None:
    with pytest.raises(ModelFolderError, match=r"theirs\.pth does not fit this network: \d+ missing"):
        new_network(of_their_form(backbone="test_resnet", weights=str(file)), dataset)


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (lambda path: path.write_bytes(b"PK\x03\x04 half"), "must be a whole PyTorch file of tensors alone, got "),
        (lambda path: torch.save({"run": print}, path), "must be a whole PyTorch file of tensors alone, got "),
        (lambda path: torch.save([1, 2], path), "must hold a state dict, names and tensors, got list"),
        (lambda path: torch.save({"epoch": 3}, path), "must hold a state dict, names and tensors, got dict"),
        (lambda _: None, "do not exist: give a .safetensors, .pt or .pth file"),
    ],
    ids=["truncated", "code", "list", "no tensors", "missing"],
)  # fmt: skip
def test_what_is_no_file_of_weights(
    save: Callable[[Path], None], said: str, dataset: Dataset, tmp_path: Path
) -> None:
    save(tmp_path / "bad.pth")
    with pytest.raises(UserInputError) as caught:
        new_network(of_their_form(weights=str(tmp_path / "bad.pth")), dataset)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_training_script_s_checkpoint_is_read_too(theirs: dict[str, Tensor], dataset: Dataset, tmp_path: Path) -> None:
    torch.save({"model": theirs, "optimizer": {"lr": 1.0}, "epoch": 3}, tmp_path / "model_3.pth")
    _, card, _ = new_network(of_their_form(weights=str(tmp_path / "model_3.pth")), dataset)
    assert card.training is not None
    assert "with the outputs of 1 of 2 classes" in card.training.start


# Weights that are published


def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let neither torchvision's server nor the hub answer: port 9 is nobody's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(first_weights, "fetch_torchvision_retinanet", lambda _: read_published("http://127.0.0.1:9/net-01234567.pth"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_auto_takes_cocos_for_a_resnet50_and_the_card_says_so(monkeypatch: pytest.MonkeyPatch, dataset: Dataset) -> None:
    asked: list[str] = []

    def fetched(version: str) -> dict[str, Tensor]:
        asked.append(version)
        build = retinanet_resnet50_fpn if version == "v1" else retinanet_resnet50_fpn_v2
        return dict(build(weights=None, weights_backbone=None).state_dict())

    monkeypatch.setattr(first_weights, "fetch_torchvision_retinanet", fetched)
    _, card, pretrained = new_network(options(backbone="resnet50", weights="auto"), dataset)
    assert card.training is not None
    assert card.training.start.startswith("COCO weights of torchvision's RetinaNet v2, backbone only")
    assert pretrained
    new_network(of_their_form(backbone="resnet50", weights="coco", fpn_channels=256, head_channels=256), dataset)
    assert asked == ["v2", "v1"]


def test_what_cannot_be_had_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    no_network(monkeypatch, tmp_path)
    _, card, pretrained = new_network(options(backbone="resnet50", weights="auto"), dataset)
    (line,) = capsys.readouterr().err.splitlines()
    assert "net-01234567.pth cannot be had (" in line
    assert f"): bring it as {tmp_path}" in line
    assert "trained weights of resnet50 cannot be had (" in line
    assert line.endswith("): bring them as a file with --weights FILE; starting from random weights")
    assert card.training is not None
    assert card.training.start == "none (trained ones could not be had)"
    assert not pretrained


def test_auto_asks_for_cocos_only_for_a_resnet50(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    no_network(monkeypatch, tmp_path)
    new_network(options(backbone="test_resnet", weights="auto"), dataset)
    assert "net-01234567" not in capsys.readouterr().err


def test_a_name_that_is_no_backbone_is_said_before_its_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    no_network(monkeypatch, tmp_path)
    with pytest.raises(UserInputError, match="must be a backbone, retinanet_resnet50_pascalvoc is a whole model"):
        new_network(options(backbone="retinanet_resnet50_pascalvoc", weights="auto"), dataset)
    assert capsys.readouterr().err == ""


def test_weights_of_a_model_with_other_rules_are_a_start_that_is_spoken_of(data: Path, trained: Path, command: TrainCommand) -> None:
    weights = trained / "weights.safetensors"
    same = command.new(data, "same", "--epochs", 1, "--weights", weights)
    assert "was trained with other" not in same.err
    other = command.new(data, "other", "--epochs", 1, "--weights", weights, "--anchor-size", 3)
    assert other.code == 0, other.err
    assert f"{weights} was trained with other sizes ((32.0, 64.0, 128.0, 256.0, 512.0), now (24.0" in other.err


def test_weights_that_are_insisted_on_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: Dataset) -> None:
    no_network(monkeypatch, tmp_path)
    with pytest.raises(UserInputError, match=r"bring it as .*net-01234567\.pth"):
        new_network(options(backbone="resnet50", weights="coco"), dataset)
    with pytest.raises(UserInputError, match="--weights coco must go into a resnet50, got --backbone resnet18"):
        new_network(options(backbone="resnet18", weights="coco"), dataset)


def test_torchvision_s_profile_freezes_what_begins_trained(file: Path, data: Path, command: TrainCommand) -> None:
    small = ("--backbone", "resnet18", "--fpn-channels", WIDTH, "--head-channels", WIDTH, "--input", SIDE, "--batch", 4, "--workers", 0)
    typed = ("--data", data, "--profile", "torchvision", "--device", "cpu", "--epochs", 1, *small)
    frozen = command(*typed, "--model", "frozen", "--weights", file)
    assert frozen.code == 0, frozen.err
    assert command(*typed, "--model", "free", "--weights", file, "--freeze", 0, "--no-freeze-norms").code == 0
    network, _, _ = new_network(of_their_form(weights=str(file)), read_dataset(data))
    begun = network.state_dict()

    def moved(folder: str) -> set[str]:
        trained = load_file(command.folder / folder / "weights.safetensors")
        return {key for key, value in trained.items() if key.startswith("backbone.") and not torch.equal(value, begun[key])}

    fixed = [key for key in begun if key.startswith(("backbone.features.conv1", "backbone.features.layer1")) or ".bn" in key]
    assert not moved("frozen") & set(fixed)
    assert "backbone.features.layer2.0.conv1.weight" in moved("frozen")
    assert {"backbone.features.conv1.weight", "backbone.features.bn1.running_mean"} <= moved("free")
