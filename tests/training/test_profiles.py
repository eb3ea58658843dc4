"""Whose rules and recipe a run follows: what is typed, what a profile says, what both leave to the defaults."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from retinanet_edge.runtime.model_card import InputSpec, NetworkSpec, NmsSpec
from retinanet_edge.runtime.model_folder import read_card
from retinanet_edge.training import train
from retinanet_edge.training.anchors import KERAS_ANCHORS, TORCHVISION_ANCHORS
from retinanet_edge.training.checkpoint import load_network
from retinanet_edge.training.losses import KERAS_LOSS, TORCHVISION_LOSS, TORCHVISION_V2_LOSS, LossSpec
from retinanet_edge.training.model import build_network
from retinanet_edge.training.options import TrainingOptions
from retinanet_edge.training.step import make_optimizer
from retinanet_edge.training.torchvision_weights import torchvision_network_spec
from tests.training.conftest import TrainCommand


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> TrainingOptions:
    """The options of a command line."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "folder", *arguments])
    return TrainingOptions(**train._options(train.parse_arguments()))


def test_keras_is_keras_cv_s_network_loss_and_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    of = typed(monkeypatch, "--profile", "keras", "--batch", "4")
    assert of.network == NetworkSpec("resnet50", 256, 256, 3, "none", "C5", True, (0.1, 0.1, 0.2, 0.2))
    assert of.anchors == KERAS_ANCHORS.spec
    assert of.loss == KERAS_LOSS
    assert of.learning_rate == pytest.approx(0.005 * 4 / 16)
    assert (of.optimizer, of.clip_norm, of.schedule, of.patience, of.early_stopping) == ("sgd", 10.0, "plateau", 5, 10)
    spec = of.augmentation
    assert (spec.scales, spec.color_jitter, spec.rand_augment, spec.rand_magnitude, spec.rand_rate, spec.rand_spread) == (
        (0.8, 1.25), 0, 2, 0.2, 0.5, 0.1
    )  # fmt: skip
    assert (of.nms.score_threshold, of.nms.iou_threshold, of.nms.max_detections) == (0.05, 0.5, 100)


@pytest.mark.parametrize(
    ("name", "build", "loss"),
    [("torchvision", retinanet_resnet50_fpn, TORCHVISION_LOSS), ("torchvision_v2", retinanet_resnet50_fpn_v2, TORCHVISION_V2_LOSS)],
)
def test_torchvision_is_the_network_that_torchvision_builds(monkeypatch: pytest.MonkeyPatch, name, build, loss) -> None:  # type: ignore[no-untyped-def]
    of = typed(monkeypatch, "--profile", name)
    with torch.device("meta"):
        tensors = build(weights=None, weights_backbone=None).state_dict()
    assert of.network == torchvision_network_spec(tensors, "torchvision")
    assert of.anchors == TORCHVISION_ANCHORS.spec
    assert of.loss == loss
    assert (of.schedule, of.epochs, of.drop_epochs, of.clip_norm) == ("step", 26, (16, 22), 0)
    recipe = (of.optimizer, of.learning_rate, of.weight_decay, of.scale_jitter, of.sync_norm)
    assert recipe == (("sgd", 0.01 * 8 / 16, 1e-4, (1, 1), False) if name == "torchvision" else ("adamw", 1e-4, 0.05, (0.6, 1), True))
    settled = of.with_freezing_settled(pretrained=True)
    assert (settled.freeze, settled.freeze_norms) == (2, name == "torchvision")


def test_by_default_it_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    of = typed(monkeypatch)
    assert of.network == NetworkSpec("resnet50", 256, 256, 4, "batch")
    assert of.loss == LossSpec()
    assert (of.optimizer, of.learning_rate) == ("adamw", 5e-4)
    assert of.with_freezing_settled(pretrained=True).freeze == 0


def test_what_is_typed_counts_whichever_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    of = typed(
        monkeypatch, "--lr", "0.1", "--profile", "keras", "--head-depth", "2", "--box-loss", "giou", "--anchor-scales", "1",
        "--foreground-iou", "0.9", "--background-iou", "0.1", "--freeze", "3", "--freeze-norms", "--top-k", "7", "--score-threshold", "0.5",
        "--max-detections", "300",
    )  # fmt: skip
    assert (of.learning_rate, of.network.head_depth, of.loss.box_loss, of.anchors.scales) == (0.1, 2, "giou", (1.0,))
    assert (of.loss.matcher.foreground_iou, of.loss.matcher.background_iou, of.loss.matcher.force_match) == (0.9, 0.1, False)
    settled = of.with_freezing_settled(pretrained=False)
    assert (settled.freeze, settled.freeze_norms, of.nms) == (3, True, NmsSpec(0.5, 0.5, 300, 7))


def test_random_weights_are_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = typed(monkeypatch, "--profile", "torchvision").with_freezing_settled(pretrained=False)
    assert (settled.freeze, settled.freeze_norms) == (0, False)


@pytest.mark.parametrize(("name", "kept"), [("default", {"norm", "bias"}), ("torchvision", set()), ("torchvision_v2", {"norm"})])
def test_the_decay_draws_what_the_profile_says(monkeypatch: pytest.MonkeyPatch, name: str, kept: set[str]) -> None:
    of = typed(monkeypatch, "--profile", name, "--backbone", "test_resnet", "--head-channels", "64", "--head-depth", "1")
    network = build_network(of.network, InputSpec(64, 64, (0.0,) * 3, (1.0,) * 3), of.anchors, 2)
    decayed, others = make_optimizer(network, of).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (of.weight_decay, 0)
    examples = {"norm": network.backbone.features.bn1.weight, "bias": network.class_head.predict.bias}
    assert {kind for kind, example in examples.items() if any(example is p for p in others["params"])} == kept
    assert len(decayed["params"]) + len(others["params"]) == len(list(network.parameters()))
    assert any(network.class_head.predict.weight is p for p in decayed["params"])


def test_help_shows_the_defaults_of_the_profile(command: TrainCommand) -> None:
    shown = command("-h", "--profile", "keras")
    assert shown.code == 0
    words = " ".join(shown.out.split())
    assert "convolutions in each head before the last (default: 3)" in words
    assert "width / height ratios, by commas" in words  # KerasCV's are


def test_an_unknown_profile_is_answered_with_the_known(command: TrainCommand) -> None:
    refused = command("--data", "x", "--profile", "caffe")
    assert refused.code == 2
    for name in ("default", "keras", "torchvision", "torchvision_v2"):
        assert name in refused.err


@pytest.mark.parametrize("profile", ["keras", "torchvision", "torchvision_v2"])
def test_a_run_follows_its_profile_and_its_card_rebuilds_it(profile: str, data: Path, command: TrainCommand) -> None:
    small = (
        "--backbone", "test_resnet", "--weights", "none", "--input", 64, "--fpn-channels", 32, "--head-channels", 64, "--head-depth", 1,
        "--batch", 4, "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    done = command("--data", data, "--model", "m", "--profile", profile, "--epochs", 2, *small)
    assert done.code == 0, done.err
    card = read_card(command.folder / "m")
    assert card.training is not None
    assert card.training.profile == profile
    rule = KERAS_ANCHORS if profile == "keras" else TORCHVISION_ANCHORS
    assert card.anchors == rule.spec
    network = load_network(command.folder / "m", card).requires_grad_(False)
    logits, deltas = network(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    assert logits.shape[1] == deltas.shape[1] == len(network.anchors)
    assert math.isfinite(float(logits.sum() + deltas.sum()))
    refused = command("--resume", "--model", "m", "--profile", "default")
    assert refused.code == 2
    assert f"profile is {profile}, not default" in refused.err
