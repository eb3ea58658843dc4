"""training/train.py as a person types it."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_folder import data_of_card, locked, read_card
from retinanet_edge.training.checkpoint import load_network
from retinanet_edge.training.step import OptimizerStep, StepResult
from tests.conftest import SMALL_NETWORK
from tests.training.conftest import FORKS, AfterEpoch, TrainCommand, contents, same_weights

# What a run leaves


def test_a_run_leaves_weights_card_curves_and_history(trained_model: Path, data: Path) -> None:
    card = read_card(trained_model)
    assert card.training is not None
    assert (card.training.epochs, card.training.best_epoch, card.training.start) == (2, 2, "none")
    assert card.dataset is not None
    assert (card.dataset.train_images, card.dataset.val_images) == (10, 4)
    assert data_of_card(trained_model, card) == data.resolve()
    for name in ("loss.png", "pr_curve.png", "val_detections.png"):
        assert (trained_model / "report" / name).read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((trained_model / "report" / "training.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["class_loss"]) < float(rows[0]["class_loss"])
    assert rows[0]["ap"] == ""
    assert float(rows[1]["ap50"]) >= float(rows[1]["ap"])


def test_the_default_folder_becomes_the_latest(command: TrainCommand, data: Path) -> None:
    done = command("--data", data, "--epochs", 1, *SMALL_NETWORK)
    assert done.code == 0, done.err
    latest = command.folder / "models" / "latest"
    assert latest.is_symlink()
    assert latest.resolve().name.startswith("squares-")
    assert "export/export_onnx.py" in done.out


def test_latest_is_a_model_that_can_be_exported_from_the_first_epoch_on(
    command: TrainCommand, data: Path, after_epoch: AfterEpoch
) -> None:
    seen = []
    after_epoch(1, lambda _: seen.append(load_network(latest, read_card(latest))))
    latest = command.folder / "models" / "latest"
    assert command("--data", data, "--epochs", 3, "--eval-every", 3, *SMALL_NETWORK).code == 0
    assert len(seen) == 1
    card = read_card(latest)
    assert card.training is not None
    assert card.training.best_epoch == 3  # the newest as long as none is measured, then the best measured
    load_network(latest, card)


def test_an_image_that_only_breaks_in_training_is_one_line_and_leaves_no_model(command: TrainCommand, data: Path) -> None:
    copy = Path(shutil.copytree(data, command.folder / "copy"))
    image = copy / "train" / "3.png"
    broken = bytearray(image.read_bytes())
    broken[len(broken) // 2 : len(broken) // 2 + 200] = bytes(200)
    image.write_bytes(bytes(broken))
    done = command.new("copy", "model", "--epochs", 1)
    assert done.code == 2
    assert done.err.startswith("error: image copy/train/3.png must decode")
    assert done.err.count("\n") == 1
    resumed = command("--resume", "--model", "model")
    assert (resumed.code, "has no card.json" in resumed.err) == (2, True)


# The same again


@FORKS
def test_a_seed_reproduces_a_run_and_another_does_not(command: TrainCommand, data: Path) -> None:
    for name, seed, workers in (("a", 5, 0), ("b", 5, 2), ("c", 6, 0)):
        done = command.new(data, name, "--epochs", 1, "--seed", seed, "--workers", workers)
        assert done.code == 0, done.err
    assert same_weights(command.folder / "a", command.folder / "b")  # however many processes read the images
    assert not same_weights(command.folder / "a", command.folder / "c")


def test_a_finished_run_is_not_resumed_or_overwritten_by_mistake(command: TrainCommand, data: Path, trained: Path) -> None:
    (trained / "model.int8.onnx").write_bytes(b"of these weights")
    before = contents(trained)
    again = command("--resume", "--model", trained)
    assert (again.code, "trained to its end" in again.err) == (2, True)
    over = command.new(data, trained, "--epochs", 1)
    assert (over.code, "--replace" in over.err) == (2, True)
    assert contents(trained) == before


def test_a_model_is_replaced_when_there_is_another_not_before(command: TrainCommand, data: Path, trained: Path) -> None:
    (trained / "model.int8.onnx").write_bytes(b"of these weights")
    before = contents(trained)
    failed = command.new(data, trained, "--epochs", 1, "--replace", "--lr", "1e30", "--optimizer", "sgd", "--warmup", 0)
    assert failed.code == 1
    assert contents(trained) == before
    (trained / "report" / "demo.jsonl").touch()
    assert command.new(data, trained, "--epochs", 1, "--replace").code == 0
    assert not (trained / "model.int8.onnx").exists()  # it belonged to the former weights
    assert not (trained / "report" / "demo.jsonl").exists()
    assert not (trained / "model.onnx").exists()


def test_a_folder_of_other_things_is_refused_and_stays(command: TrainCommand, data: Path) -> None:
    for name in ("report/thesis.txt", "model_best.engine"):
        (command.folder / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (command.folder / "project" / name).write_text("mine")
    before = contents(command.folder / "project")
    for more in ((), ("--replace",)):
        done = command.new(data, "project", "--epochs", 1, *more)
        assert (done.code, "which holds model_best.engine" in done.err) == (2, True)
    assert contents(command.folder / "project") == before


# First weights


def test_weights_of_a_file_start_a_run_if_the_classes_agree(command: TrainCommand, data: Path, trained: Path) -> None:
    weights = trained / "weights.safetensors"
    assert command.new(data, "tuned", "--epochs", 1, "--weights", weights).code == 0
    assert read_card(command.folder / "tuned").training.start == str(weights)  # type: ignore[union-attr]
    card = json.loads((trained / "card.json").read_text())
    card["classes"][0] = "something else"
    (trained / "card.json").write_text(json.dumps(card))
    refused = command.new(data, "other", "--epochs", 1, "--weights", weights)
    assert (refused.code, "--new-classes" in refused.err) == (2, True)
    assert not (command.folder / "other").exists()
    assert command.new(data, "other", "--epochs", 1, "--weights", weights, "--new-classes").code == 0


def test_weights_of_timms_model_fill_the_backbone(command: TrainCommand, data: Path) -> None:
    timm = pytest.importorskip("timm")
    save_file(timm.create_model("test_resnet").state_dict(), command.folder / "timm.safetensors")
    done = command.new(data, "tuned", "--epochs", 1, "--weights", "timm.safetensors")
    assert done.code == 0, done.err
    save_file(timm.create_model("test_convnext").state_dict(), command.folder / "other.safetensors")
    refused = command.new(data, "never", "--epochs", 1, "--weights", "other.safetensors")
    assert (refused.code, "other.safetensors does not fit this network" in refused.err) == (2, True)
    assert not (command.folder / "never").exists()


# Flags that end up in the card


def test_thresholds_from_end_to_end(command: TrainCommand, data: Path) -> None:
    done = command.new(data, "model", "--epochs", 1, "--foreground-iou", 0.9, "--background-iou", 0.1, "--nms-iou", 0.7)
    assert done.code == 0, done.err
    assert read_card(command.folder / "model").nms.iou_threshold == 0.7


# What goes wrong


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--epochs", "0"], "at least 1"),
    (["--input", "100"], "96x96 and 128x128"),
    (["--backbone", "resnet-18"], "resnet18"),
    (["--backbone", "vit_tiny_patch16_224"], "choose another"),
    (["--weights", "absent.safetensors"], "do not exist"),
    (["--device", "cuda:99"], "--device"),
    (["--anchor-scales", "1,x"], "number"),
    (["--lr", "nan"], "number"),
    (["--foreground-iou", "0.3"], "background 0.4 and foreground 0.3"),
    (["--foreground-iou", "1.5"], "at most 1"),
    (["--nms-iou", "0"], "positive"),
    (["--label-smoothing", "1"], "--label-smoothing: must be a number, at least 0 and at most 0.99, got 1"),
    (["--schedule", "linear"], "plateau"),
    (["--precision", "int8"], "bf16"),
    (["--box-loss", "iou"], "giou"),
    (["--accumulate", "3"], "give 3 or 6"),
    (["--batch", "12", "--accumulate", "12"], "10 training images cannot be cut"),
    (["--seed", "99999999999999999999"], "--seed"),
])  # fmt: skip
def test_wrong_values_are_refused_in_a_line_and_leave_nothing(
    arguments: list[str], expected: str, command: TrainCommand, data: Path
) -> None:
    done = command.new(data, "never", *arguments)
    assert done.code == 2
    assert expected in done.err.splitlines()[-1]
    assert not (command.folder / "never").exists()


def test_a_diverging_run_says_what_to_lower(command: TrainCommand, data: Path) -> None:
    done = command.new(data, "wild", "--epochs", 2, "--lr", "1e30", "--optimizer", "sgd", "--warmup", 0)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "--lr" in done.err
    assert re.search(r"the images of batch \d of epoch 1 \((train/\d\.png, ){3}train/\d\.png\); nothing is kept yet", done.err)


def test_a_run_that_diverges_later_keeps_its_last_good_epoch(command: TrainCommand, data: Path, after_epoch: AfterEpoch) -> None:
    kept = []

    def poison(folder: Path) -> None:
        kept.append(contents(folder))
        monkeypatch.setattr(OptimizerStep, "take", lambda *_: StepResult(torch.tensor([math.nan, 1.0]), 1.0, finite=False))

    with pytest.MonkeyPatch.context() as monkeypatch:
        after_epoch(1, poison)
        done = command.new(data, "model", "--epochs", 3)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "got nan, 1, 1" in done.err
    assert "epoch 1 is kept" in done.err
    after = contents(command.folder / "model")
    assert {name: after[name] for name in ("weights.safetensors", "last.safetensors", "card.json")} == {
        name: kept[0][name] for name in ("weights.safetensors", "last.safetensors", "card.json")
    }


def test_two_runs_do_not_write_one_folder(command: TrainCommand, data: Path, trained: Path) -> None:
    before = contents(trained)
    with locked(trained):
        second = command.new(data, trained, "--epochs", 1, "--replace")
        resumed = command("--resume", "--model", trained)
    for done in (second, resumed):
        assert (done.code, "another command is writing" in done.err) == (2, True)
    assert contents(trained) == before


def test_a_folder_that_cannot_be_written_is_one_line(command: TrainCommand, data: Path) -> None:
    (command.folder / "file").write_text("not a folder")
    done = command.new(data, "file/model", "--epochs", 1)
    assert (done.code, done.err.count("\n")) == (2, 1)


def test_weights_that_are_not_the_cards_are_not_loaded(trained: Path) -> None:
    weights = trained / "weights.safetensors"
    save_file({key: value + 1 for key, value in load_file(weights).items()}, weights)
    with pytest.raises(ModelFolderError, match="SHA-256"):
        load_network(trained, read_card(trained))
