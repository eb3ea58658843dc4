"""benchmarks/training_speed.py: what it compares is alike, and what it writes is what it measured."""

import csv
import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn

from retinanet_edge.training.losses import compute_losses
from tests.conftest import ROOT, Commands

COMMAND = "benchmarks/training_speed.py"


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("training_speed", ROOT / COMMAND)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["training_speed"] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    return sorted(tuple(parameter.shape) for parameter in network.parameters() if parameter.requires_grad)


def test_the_networks_train_the_same_weights(speed: ModuleType) -> None:
    setup = speed.Setup("resnet50", 64, 96, 2, "cpu", "fp32")
    with torch.device("meta"):
        published = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=speed.CLASSES)
    assert shapes(speed.their_network(setup)) == shapes(published)
    assert shapes(speed.our_network(speed.make_options(setup, "torchvision"))) == shapes(published)


def test_the_steps_begin_with_nearly_the_same_losses(speed: ModuleType) -> None:
    """With random weights, too: in both, scores begin near 0.01 and deltas near 0."""
    setup = speed.Setup("resnet18", 64, 96, 2, "cpu", "fp32")
    batch, options = speed.make_batch(setup), speed.make_options(setup, "torchvision")
    torch.manual_seed(0)
    ours, theirs = speed.our_network(options).train(), speed.their_network(setup).train()
    found = compute_losses(*ours(batch.images), ours.anchors, batch.boxes_of_images(), batch.classes_of_images(), options.loss)
    expected = theirs(*speed.as_torchvision_takes(batch))
    assert found.classes.item() == pytest.approx(expected["classification"].item(), rel=0.01)
    assert found.boxes.item() == pytest.approx(expected["bbox_regression"].item(), rel=0.03)


def test_resizing_leaves_the_images_of_torchvision_as_they_are(speed: ModuleType) -> None:
    setup = speed.Setup("resnet18", 64, 96, 2, "cpu", "fp32")
    images, targets = speed.as_torchvision_takes(speed.make_batch(setup))
    sized, labels = speed.their_network(setup).train().transform(images, targets)
    assert tuple(sized.tensors.shape) == (2, 3, 64, 96)
    for before, after in zip(targets, labels, strict=True):
        torch.testing.assert_close(after["boxes"], before["boxes"])


def test_ratios_are_of_the_same_round(speed: ModuleType) -> None:
    entries = [speed.Entry(name, "", lambda: None) for name in ("theirs", "ours")]
    theirs, ours = speed.make_rows(entries, [[2.0, 3.0], [4.0, 5.0], [8.0, 4.0]])
    assert (theirs["images_per_second"], theirs["of_torchvision_min"], theirs["of_torchvision_max"]) == ("4.000", "1.000", "1.000")
    assert (ours["images_per_second"], ours["images_per_second_min"], ours["images_per_second_max"]) == ("4.000", "3.000", "5.000")
    # 3 / 2 = 1.5, 5 / 4 = 1.25, 4 / 8 = 0.5
    assert (ours["of_torchvision"], ours["of_torchvision_min"], ours["of_torchvision_max"]) == ("1.250", "0.500", "1.500")


def test_the_command_writes_a_line_for_each_network(run: Commands) -> None:
    done = run.must(COMMAND, "--backbone", "resnet18", "--input", "64x96", "--rounds", 1, "--steps", 1, "--device", "cpu", "--out", "a.csv")
    with (run.folder / "a.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows] == [
        "torchvision", "torchvision, channels last", "ours, torchvision's form", "ours, default form"
    ]  # fmt: skip
    assert ["running average" in row["step"] for row in rows] == [False, False, True, True]
    settings = ("backbone", "height", "width", "batch", "device", "precision", "rounds", "steps")
    assert {tuple(row[name] for name in settings) for row in rows} == {("resnet18", "64", "96", "2", "cpu", "fp32", "1", "1")}
    for row in rows:
        assert row["machine"]
        assert row["torch"] == torch.__version__
        assert float(row["images_per_second"]) > 0
        assert row["images_per_second"] in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backbone", "resnet51"], "--backbone must be one of resnet50, resnet18, got resnet51"),
        (["--input", "100"], "--input must divide by 32, got 100x100: the nearest are 96x96 and 128x128"),
        (["--out", "missing/a.csv"], "--out must be a file in a folder that exists, got missing/a.csv"),
        pytest.param(["--device", "cuda"], "--device must be one that torch can use here, got cuda",
                     marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(run: Commands, arguments: list[str], said: str) -> None:
    done = run(COMMAND, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert list(run.folder.iterdir()) == []
