"""Fine-tuning for INT8 by the commands as people type them, what it leaves, how it goes on, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from retinanet_edge.runtime.model_card import ModelCard
from retinanet_edge.runtime.model_folder import read_card
from retinanet_edge.runtime.quantization_plan import Convolution, QuantizationPlan, SharedRange, read_plan, write_plan
from retinanet_edge.training.checkpoint import load_network, read_training_settings
from tests.conftest import Commands, Project
from tests.training.conftest import AfterEpoch, TrainCommand, contents, same_tensors


def ap(card: ModelCard, precision: str) -> float:
    [found] = [record.ap for record in card.accuracy if (record.precision, record.split) == (precision, "val")]
    return found


def write_noise(folder: Path) -> None:
    """Images in which there is nothing to find, so that ranges measured on them are too small."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), generator.integers(100, 140, (64, 64, 3), dtype=np.uint8))


def test_a_model_that_int8_ruins_is_as_good_as_before_after_fine_tuning(project: Project) -> None:
    run, source = Commands(project.folder), project.model
    fp32 = ap(read_card(source), "fp32")
    write_noise(project.folder / "noise")
    ruined = run("export/build_engine.py", "--int8", "--calibration", "noise", "--method", "entropy")
    assert ruined.code == 3
    assert f"fine-tune with python training/train.py --qat --model {source}" in ruined.err
    assert ap(read_card(source), "int8") < fp32 - 0.1
    before = contents(source)

    said = run.must("training/train.py", "--qat").out
    assert contents(source) == before
    tuned = source.with_name(f"{source.name}-qat")
    assert f"fine-tuning {source} for INT8 into {tuned}, 3 epochs" in said
    assert project.model == tuned  # models/latest, so that the next commands take it
    run.must("export/export_onnx.py")
    said = run.must("export/build_engine.py", "--int8", "--max-ap-drop", 5).out
    assert "taking the ranges that fine-tuning has learned" in said
    assert f"before fine-tuning FP32 had AP {fp32:.4f}, against which INT8 is judged" in said

    card = read_card(tuned)
    assert card.int8 is not None
    assert card.dataset is not None
    assert card.verdict is not None
    assert card.training is not None
    assert (card.int8.calibration.method, card.int8.calibration.images) == ("qat", card.dataset.train_images)
    assert card.training.start == f"{source.name}, fine-tuned for INT8"
    assert ap(card, "int8") > fp32 - 0.05
    assert card.verdict.ap_drop == pytest.approx(fp32 - ap(card, "int8"))
    learned, used = (read_plan(tuned / name, "") for name in ("learned_ranges.json", "quantization.json"))
    assert used.reaches == pytest.approx(learned.reaches)
    former = read_plan(source / "quantization.json", "")
    assert (learned.convolutions, learned.additions) == (former.convolutions, former.additions)
    assert all(learned.reaches[name] != reach for name, reach in former.reaches.items())
    assert "calibrating on" in run.must("export/build_engine.py", "--int8", "--recalibrate", "--max-ap-drop", 100).out
    assert read_plan(tuned / "learned_ranges.json", "") == learned


def plan_for(folder: Path, *, weights_sha256: str | None = None) -> None:
    """Give a model without model.int8.onnx a plan in which the first convolution alone is INT8: the others' names do not matter."""
    card = read_card(folder)
    assert card.training is not None
    network, count = load_network(folder, card), 0

    def add(*_: object) -> None:
        nonlocal count
        count += 1

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(add)
    network(torch.zeros(1, card.input.height, card.input.width, 3, dtype=torch.uint8))
    sites = [Convolution(str(index), "images" if index == 0 else None) for index in range(count + 2)]  # P6 and P7 run by function
    weights = weights_sha256 or card.training.weights_sha256
    write_plan(folder / "quantization.json", QuantizationPlan(weights, None, tuple(sites), (), (SharedRange(("images",), 3.0),)))


def test_resuming_gives_what_an_uninterrupted_run_gives(command: TrainCommand, trained: Path, after_epoch: AfterEpoch) -> None:
    plan_for(trained)
    cut, whole = command.folder / "cut", command.folder / "trained-qat"
    after_epoch(1, lambda folder: shutil.copytree(folder, cut, dirs_exist_ok=True))
    done = command("--qat", "--model", trained, "--epochs", 2)
    assert done.code == 0, done.err
    resumed = command("--resume", "--model", cut)
    assert resumed.code == 0, resumed.err
    assert "resuming after epoch 1 of 2" in resumed.out
    for name in ("weights.safetensors", "last.safetensors"):
        assert same_tensors(cut / name, whole / name)
    learned = [read_plan(folder / "learned_ranges.json", "") for folder in (cut, whole)]
    assert learned[0] == learned[1]
    assert learned[0].reaches["images"] != 3.0


def test_statistics_of_batch_norms_stay_and_the_rate_is_a_tenth(command: TrainCommand, trained: Path) -> None:
    plan_for(trained)
    assert command("--qat", "--model", trained, "--epochs", 1).code == 0
    before, after = (load_file(folder / "weights.safetensors") for folder in (trained, command.folder / "trained-qat"))
    assert before.keys() == after.keys()  # learned ranges are no weights
    assert all(before[name].equal(after[name]) for name in before if "running_" in name)
    assert any(not before[name].equal(after[name]) for name in before)
    rates = [read_training_settings(command.folder / name / "last.safetensors")["options"] for name in ("trained", "trained-qat")]
    assert rates[1]["learning_rate"] == pytest.approx(rates[0]["learning_rate"] / 10)
    assert [rates[1][name] for name in ("qat", "epochs", "eval_every", "warmup_epochs", "batch")] == [True, 1, 1, 0.0, rates[0]["batch"]]


def never_quantized(folder: Path) -> None:
    (folder / "quantization.json").unlink()


def without_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def without_state(folder: Path) -> None:
    (folder / "last.safetensors").unlink()


def quantized_before_training_again(folder: Path) -> None:
    plan_for(folder, weights_sha256="ab" * 32)


def of_another_network(folder: Path) -> None:
    path = folder / "quantization.json"
    plan = json.loads(path.read_text())
    plan["convolutions"].pop()
    path.write_text(json.dumps(plan))


def fine_tuned_before(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name(f"{folder.name}-qat"))


@pytest.mark.parametrize(
    ("breakage", "expected"),
    [
        (never_quantized, "quantization.json does not exist: run python export/export_onnx.py --model"),
        (quantized_before_training_again, "quantization.json must be of the weights beside it, got one of others: run python export"),
        (without_weights, "weights.safetensors is needed but it does not exist: run python training/train.py"),
        (without_state, "last.safetensors, whose settings fine-tuning takes over, does not exist: bring it"),
        (fine_tuned_before, "trained-qat holds a model already: give --resume to go on, --replace to begin anew"),
    ],
)
def test_a_folder_that_lacks_something_is_one_line(command: TrainCommand, trained: Path, breakage: object, expected: str) -> None:
    plan_for(trained)
    breakage(trained)
    done = command("--qat", "--model", trained)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert expected in done.err
    assert done.out == ""


def test_a_plan_of_another_network_is_one_line(command: TrainCommand, trained: Path) -> None:
    plan_for(trained)
    of_another_network(trained)
    done = command("--qat", "--model", trained)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "run export_onnx.py and build_engine.py --int8 again" in done.err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--backbone", "resnet18", "--input", "96"], "takes the network of trained as it is, got --backbone, --input: leave"),
        (["--score-threshold", "0.3"], "got --score-threshold: leave such flags out"),
    ],
)
def test_settings_of_the_model_are_refused(command: TrainCommand, trained: Path, flags: list[str], expected: str) -> None:
    plan_for(trained)
    done = command("--qat", "--model", "trained", *flags)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert expected in done.err


def test_resuming_as_what_the_run_is_not_is_refused(command: TrainCommand, trained: Path) -> None:
    done = command("--resume", "--qat", "--model", trained)
    assert done.code == 2
    assert "qat is False, not True" in done.err


def test_data_of_other_classes_are_refused(command: TrainCommand, trained: Path, scenes: Path) -> None:
    plan_for(trained)
    done = command("--qat", "--model", trained, "--data", scenes)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "classes" in done.err
    assert not (command.folder / "trained-qat").exists()
