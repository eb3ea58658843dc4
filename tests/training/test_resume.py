"""Runs that are interrupted, cut off or refused the disk, and how they go on."""

import csv
import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from retinanet_edge.runtime.model_folder import data_of_card, read_card
from retinanet_edge.training import keeper
from retinanet_edge.training.checkpoint import load_network
from tests.conftest import ROOT, SMALL_NETWORK
from tests.training.conftest import FORKS, AfterEpoch, TrainCommand, contents, leave_unfinished, same_tensors, same_weights


def figures(folder: Path) -> list[dict[str, str]]:
    """Return the lines of a run's history, without the time they took."""
    rows = csv.DictReader((folder / "report" / "training.csv").read_text().splitlines())
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def end_here(_: Path) -> None:
    raise KeyboardInterrupt


EVERYTHING = (
    "--precision", "fp16", "--accumulate", 2, "--schedule", "plateau", "--patience", 1, "--eval-every", 1, "--early-stopping", 9,
    "--freeze", 2, "--clip-norm", 1, "--box-loss", "giou",
)  # fmt: skip


@FORKS
@pytest.mark.parametrize("more", [("--workers", 2), ("--optimizer", "sgd", "--lr", 0.01), EVERYTHING])
@pytest.mark.parametrize("epoch", [1, 2])
def test_resuming_gives_what_an_uninterrupted_run_gives(
    command: TrainCommand, data: Path, more: tuple[object, ...], epoch: int, after_epoch: AfterEpoch
) -> None:
    cut, whole = command.folder / "cut", command.folder / "whole"
    after_epoch(epoch, lambda folder: shutil.copytree(folder, cut, dirs_exist_ok=True))
    assert command.new(data, whole, "--epochs", 4, *more).code == 0
    shutil.copytree(cut, command.folder / "before")
    resumed = command("--resume", "--model", cut)
    assert resumed.code == 0, resumed.err
    assert f"resuming after epoch {epoch} of 4" in resumed.out
    for name in ("weights.safetensors", "last.safetensors"):
        assert same_tensors(cut / name, whole / name)
    assert figures(cut) == figures(whole)
    assert not same_weights(command.folder / "before", whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_all_processes_end_a_run_in_a_line(number: signal.Signals, command: TrainCommand, data: Path) -> None:
    """A real process with workers, as a terminal's Ctrl-C or `timeout` ends it."""
    typed = ("--data", data, "--model", "cut", "--epochs", 1000, "--eval-every", 1000, *SMALL_NETWORK, "--workers", 2)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "training/train.py"), *map(str, typed)],
        cwd=command.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (command.folder / "cut" / "last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    with safe_open(command.folder / "cut" / "last.safetensors", "pt") as file:
        kept = len(json.loads(file.metadata()["training"])["settings"]["history"])
    assert f"interrupted, epoch {kept} is kept" in errors
    assert f"--resume --model {command.folder / 'cut'}" in errors


def test_an_interrupted_run_says_what_is_kept(command: TrainCommand, data: Path, after_epoch: AfterEpoch) -> None:
    after_epoch(2, end_here)
    done = command.new(data, "cut", "--epochs", 5)
    folder = command.folder / "cut"
    assert (done.code, done.err) == (
        130, f"error: interrupted, epoch 2 is kept: go on with python training/train.py --resume --model {folder}\n",
    )  # fmt: skip
    load_network(folder, read_card(folder))


@pytest.mark.parametrize("writer", ["save_weights", "write_card", "save_training_state"])
def test_a_run_cut_off_among_the_files_of_an_epoch_repeats_it(
    writer: str, command: TrainCommand, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = command.folder / "whole", command.folder / "cut"
    assert command.new(data, whole, "--epochs", 2, "--eval-every", 1).code == 0
    usual = getattr(keeper, writer)
    written: list[Path] = []

    def fail_once(path: Path, *arguments: Any) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        usual(path, *arguments)

    monkeypatch.setattr(keeper, writer, fail_once)
    assert command.new(data, cut, "--epochs", 2, "--eval-every", 1).code == 2
    assert "resuming after epoch 1 of 2" in command("--resume", "--model", cut).out
    assert same_weights(cut, whole)
    load_network(cut, read_card(cut))


def test_resuming_finds_data_that_moved_where_it_is_told(command: TrainCommand, data: Path, after_epoch: AfterEpoch) -> None:
    shutil.copytree(data, command.folder / "here")
    after_epoch(1, end_here)
    assert command.new("here", "cut", "--epochs", 2).code == 130
    (command.folder / "here").rename(command.folder / "there")
    lost = command("--resume", "--model", "cut")
    assert (lost.code, "--data PATH" in lost.err) == (2, True)
    found = command("--resume", "--model", "cut", "--data", "there")
    assert found.code == 0, found.err
    cut = command.folder / "cut"
    assert data_of_card(cut, read_card(cut)) == command.folder / "there"


def test_a_resume_with_other_settings_says_which(command: TrainCommand, trained: Path) -> None:
    leave_unfinished(trained / "last.safetensors")
    before = contents(trained)
    done = command("--resume", "--model", trained, "--batch", 8, "--lr", 0.25, "--input", "96x64", "--seed", 0)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "batch is 4, not 8" in done.err
    assert "learning_rate is 0.0005, not 0.25" in done.err
    assert "input_height is 64, not 96" in done.err
    assert "input_width" not in done.err
    assert "seed" not in done.err  # given, but the same
    assert contents(trained) == before
    assert command("--resume", "--model", trained, "--batch", 4, "--workers", 0, "--device", "cpu").code == 0


def test_a_run_that_stopped_early_is_not_resumed(command: TrainCommand, data: Path) -> None:
    done = command.new(data, "model", "--epochs", 9, "--lr", 1e-9, "--eval-every", 1, "--early-stopping", 1)
    assert (done.code, "stopped early" in done.out) == (0, True)
    again = command("--resume", "--model", "model")
    assert (again.code, "trained to its end (2 epochs)" in again.err) == (2, True)


def test_resuming_on_changed_data_is_refused(command: TrainCommand, data: Path, trained: Path) -> None:
    leave_unfinished(trained / "last.safetensors")
    copy = Path(shutil.copytree(data, command.folder / "copy"))
    labels = next(copy.rglob("*train*.json"))
    content = json.loads(labels.read_text())
    content["annotations"].pop()
    labels.write_text(json.dumps(content))
    before = contents(trained)
    done = command("--resume", "--model", trained, "--data", copy)
    assert (done.code, "has changed" in done.err) == (2, True), done.err
    assert contents(trained) == before


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: what a full disk is to a program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_the_former_checkpoint_stays(command: TrainCommand, trained: Path) -> None:
    leave_unfinished(trained / "last.safetensors")
    before = contents(trained)
    with files_limited_to((trained / "weights.safetensors").stat().st_size // 2):
        done = command("--resume", "--model", trained)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"{trained / 'last.safetensors'} cannot be written" in done.err or f"{trained / 'weights.safetensors'} cannot" in done.err
    assert contents(trained) == before
    assert command("--resume", "--model", trained).code == 0


@FORKS
def test_a_worker_that_is_killed_is_one_line(command: TrainCommand, data: Path, after_epoch: AfterEpoch) -> None:
    after_epoch(1, lambda _: multiprocessing.active_children()[0].kill())  # as the kernel does when memory is short
    done = command.new(data, "model", "--epochs", 50, "--eval-every", 50, "--workers", 2)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "DataLoader worker" in done.err
    assert "--workers 0" in done.err


@pytest.mark.parametrize("keep", [0, 100])
def test_a_truncated_state_is_not_resumed(keep: int, command: TrainCommand, trained: Path) -> None:
    state = trained / "last.safetensors"
    state.write_bytes(state.read_bytes()[:keep])
    done = command("--resume", "--model", trained)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "must be a whole training state" in done.err
