"""Training runs inside the test's process: a new one would spend seconds on loading torch."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from retinanet_edge.runtime.errors import run_command
from retinanet_edge.training import train
from retinanet_edge.training.keeper import Keeper
from retinanet_edge.training.loop import Evaluation
from retinanet_edge.training.options import TrainingOptions
from tests import squares
from tests.conftest import SMALL_NETWORK, Finished

# Forking is what DataLoader does on these Pythons; its worker does nothing that threads could have left locked.
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

# Settings of the smallest network, as SMALL_NETWORK's flags give them.
SMALL_OPTIONS = TrainingOptions(
    data="squares", backbone="test_resnet", weights="none", new_classes=False, input_height=64, input_width=64, fpn_channels=16,
    head_channels=16, head_depth=1, norm="batch", anchor_scales=(1.0,), anchor_ratios=(1.0,), anchor_size=4.0, epochs=2, batch=4,
    optimizer="adamw", learning_rate=5e-4, weight_decay=0.02, warmup_epochs=1.0, average_decay=0.998, augment=1.0, flip=True,
    eval_every=2, seed=0, workers=0, device="cpu",
)  # fmt: skip


def options(**changes: Any) -> TrainingOptions:
    return dataclasses.replace(SMALL_OPTIONS, **changes)


def run_in_process(main: Callable[[], None], folder: Path, *typed: object) -> Finished:
    """Run a command's main in a folder, with what a person would type; signals are handled as before when it ends."""
    out, err = io.StringIO(), io.StringIO()
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [*map(str, typed)])
        try:
            code: Any = run_command(main)
        except SystemExit as ended:  # argparse
            code = ended.code
        finally:
            for number, handler in usual.items():
                signal.signal(number, handler)
    return Finished(int(code), out.getvalue(), err.getvalue())


class TrainCommand:
    """Runs training/train.py's main in a folder, with what a person would type."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: object) -> Finished:
        return run_in_process(train.main, self.folder, "train.py", *arguments)

    def new(self, data: Path, model: Path | str, *more: object) -> Finished:
        """Train a new, very small model."""
        return self("--data", data, "--model", model, *SMALL_NETWORK, "--batch", 4, *more)


@pytest.fixture
def command(tmp_path: Path) -> TrainCommand:
    """The command run in an empty folder."""
    return TrainCommand(tmp_path)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO data set of 10 and 4 images. Not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    squares.write_dataset(folder, train=10, val=4)
    return folder


@pytest.fixture(scope="session")
def trained_model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder after two epochs. Not to be changed: `trained` gives a copy."""
    command = TrainCommand(tmp_path_factory.mktemp("trained"))
    done = command.new(data, "model", "--epochs", 2)
    assert done.code == 0, done.err
    return command.folder / "model"


@pytest.fixture
def trained(trained_model: Path, command: TrainCommand) -> Path:
    """A copy of the trained model in the command's folder, to be changed at will."""
    return Path(shutil.copytree(trained_model, command.folder / "trained"))


AfterEpoch = Callable[[int, Callable[[Path], None]], None]


@pytest.fixture
def after_epoch(monkeypatch: pytest.MonkeyPatch) -> AfterEpoch:
    """Call this with an epoch and what is to be done with the model folder once that epoch's files are written."""

    def at(epoch: int, act: Callable[[Path], None]) -> None:
        def keep_and_act(keeper: Keeper, evaluation: Evaluation | None) -> None:
            usual(keeper, evaluation)
            if keeper.kept_epochs == epoch:
                act(keeper._folder)

        usual = Keeper.after_epoch
        monkeypatch.setattr(Keeper, "after_epoch", keep_and_act)

    return at


def same_tensors(a: Path, b: Path) -> bool:
    ours, theirs = load_file(a), load_file(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def same_weights(a: Path, b: Path) -> bool:
    return same_tensors(a / "weights.safetensors", b / "weights.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leave_unfinished(state: Path) -> None:
    """Let a finished training state ask for one epoch more."""
    with safe_open(state, "pt") as file:
        training = json.loads(file.metadata()["training"])
    training["settings"]["options"]["epochs"] += 1
    save_file(load_file(state), state, {"training": json.dumps(training)})
