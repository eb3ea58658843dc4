"""training/train.py as a person types it."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.conftest import ROOT, SMALL_NETWORK, Commands, Finished


def train(run: Commands, scenes: Path, model: str | Path, *more: object) -> Finished:
    return run("training/train.py", "--data", scenes, "--model", model, *SMALL_NETWORK, *more)


def same_weights(a: Path, b: Path) -> bool:
    ours, theirs = load_file(a / "weights.safetensors"), load_file(b / "weights.safetensors")
    return ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)


def test_a_run_leaves_weights_card_curves_and_history(finished_model: Path) -> None:
    card = json.loads((finished_model / "card.json").read_text())
    assert card["training"]["epochs"] == 2
    assert card["dataset"]["train_images"] == 24
    assert card["dataset"]["val_images"] == 8
    assert (finished_model / card["dataset"]["path"]).resolve().is_dir()
    for name in ("loss.png", "pr_curve.png", "val_detections.png"):
        assert (finished_model / "report" / name).read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((finished_model / "report" / "training.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["class_loss"]) < float(rows[0]["class_loss"])
    assert rows[0]["ap"] == ""
    assert float(rows[1]["ap50"]) >= float(rows[1]["ap"])


def test_the_default_folder_becomes_the_latest(run: Commands, scenes: Path) -> None:
    done = run("training/train.py", "--data", scenes, "--epochs", 1, *SMALL_NETWORK)
    assert done.code == 0, done.err
    latest = run.folder / "models" / "latest"
    assert latest.is_symlink()
    assert latest.resolve().name.startswith("scenes-")
    assert "export/export_onnx.py" in done.out


def test_a_seed_reproduces_a_run_and_another_does_not(run: Commands, scenes: Path) -> None:
    for name, seed, workers in (("a", 5, 0), ("b", 5, 2), ("c", 6, 0)):
        assert train(run, scenes, name, "--epochs", 1, "--seed", seed, "--workers", workers).code == 0
    assert same_weights(run.folder / "a", run.folder / "b")  # however many processes read the images
    assert not same_weights(run.folder / "a", run.folder / "c")


def test_an_interrupted_run_resumes_to_the_same_weights(run: Commands, scenes: Path, finished_model: Path) -> None:
    command = [sys.executable, str(ROOT / "training/train.py"), "--data", str(scenes), "--model", "cut", "--epochs", "2"]
    process = subprocess.Popen([*command, *map(str, SMALL_NETWORK)], cwd=run.folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run.folder / "cut" / "last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run ended before the interrupt reached it")
    assert process.returncode == 130
    assert "--resume --model" in errors
    assert "Traceback" not in errors
    resumed = run("training/train.py", "--resume", "--model", "cut")
    assert resumed.code == 0, resumed.err
    assert "resuming after epoch 1 of 2" in resumed.out
    assert same_weights(run.folder / "cut", finished_model)


def test_a_finished_run_is_not_resumed_or_overwritten_by_mistake(run: Commands, scenes: Path, model: Path) -> None:
    again = run("training/train.py", "--resume", "--model", model)
    assert (again.code, "trained to its end" in again.err) == (2, True)
    over = train(run, scenes, model, "--epochs", 1)
    assert (over.code, "--replace" in over.err) == (2, True)
    assert (model / "model.int8.onnx").exists()
    assert train(run, scenes, model, "--epochs", 1, "--replace").code == 0
    assert not (model / "model.int8.onnx").exists()  # it belonged to the former weights


def test_weights_of_a_file_start_a_run_if_the_classes_agree(run: Commands, scenes: Path, model: Path) -> None:
    weights = model / "weights.safetensors"
    assert train(run, scenes, "tuned", "--epochs", 1, "--weights", weights).code == 0
    card = json.loads((model / "card.json").read_text())
    card["classes"][0] = "something else"
    (model / "card.json").write_text(json.dumps(card))
    refused = train(run, scenes, "other", "--epochs", 1, "--weights", weights)
    assert (refused.code, "--new-classes" in refused.err) == (2, True)
    assert not (run.folder / "other").exists()
    assert train(run, scenes, "other", "--epochs", 1, "--weights", weights, "--new-classes").code == 0


def test_resuming_on_changed_data_is_refused(run: Commands, scenes: Path, model: Path) -> None:
    _leave_unfinished(model / "last.safetensors")
    copy = Path(shutil.copytree(scenes, run.folder / "copy"))
    labels = next(copy.rglob("*train*.json"))
    content = json.loads(labels.read_text())
    content["annotations"].pop()
    labels.write_text(json.dumps(content))
    card = json.loads((model / "card.json").read_text())
    card["dataset"]["path"] = str(copy)
    (model / "card.json").write_text(json.dumps(card))
    done = run("training/train.py", "--resume", "--model", model)
    assert (done.code, "has changed" in done.err) == (2, True), done.err


def _leave_unfinished(state: Path) -> None:
    """Let a finished training state ask for one epoch more."""
    with safe_open(state, "numpy") as file:
        training = json.loads(file.metadata()["training"])
    training["settings"]["options"]["epochs"] += 1
    save_file(load_file(state), state, {"training": json.dumps(training)})


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--epochs", "0"], "at least 1"),
    (["--input", "100"], "96x96 and 128x128"),
    (["--backbone", "resnet-18"], "resnet18"),
    (["--weights", "absent.safetensors"], "do not exist"),
    (["--device", "cuda:99"], "--device"),
    (["--anchor-scales", "1,x"], "number"),
    (["--lr", "nan"], "number"),
])  # fmt: skip
def test_wrong_values_are_refused_in_a_line_and_leave_nothing(
    arguments: list[str], expected: str, run: Commands, scenes: Path
) -> None:
    done = train(run, scenes, "never", *arguments)
    assert done.code == 2
    assert expected in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert not (run.folder / "never").exists()


def test_a_diverging_run_says_what_to_lower(run: Commands, scenes: Path) -> None:
    done = train(run, scenes, "wild", "--epochs", 2, "--lr", "1e30", "--optimizer", "sgd", "--warmup", 0)
    assert done.code == 1
    assert "--lr" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_two_runs_do_not_write_one_folder(run: Commands, scenes: Path) -> None:
    command = [sys.executable, str(ROOT / "training/train.py"), "--data", str(scenes), "--model", "shared", "--epochs", "50"]
    first = subprocess.Popen([*command, *map(str, SMALL_NETWORK)], cwd=run.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (run.folder / "shared" / "card.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        second = train(run, scenes, "shared", "--epochs", 1, "--replace")
        assert second.code == 2
        assert "another command is writing" in second.err
    finally:
        first.kill()
        first.wait()


def test_a_folder_that_cannot_be_written_is_one_line(run: Commands, scenes: Path) -> None:
    (run.folder / "file").write_text("not a folder")
    done = train(run, scenes, run.folder / "file" / "model", "--epochs", 1)
    assert done.code == 2
    assert "Traceback" not in done.err
