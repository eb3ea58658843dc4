"""What many tests need: the commands as people run them, a small data set, and a small model that went all the way."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import squares

ROOT = Path(__file__).resolve().parent.parent

# Small networks gain nothing from more threads, which wait for each other in turns of seconds where something else runs, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


class Commands:
    """Runs a command file in a folder, as a person would type it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, command: str, *arguments: object, python: str = sys.executable, **environment: str) -> Finished:
        """Run `command` (as training/train.py) and wait for its end."""
        done = subprocess.run(
            [python, str(ROOT / command), *map(str, arguments)],
            cwd=self.folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    def must(self, command: str, *arguments: object, python: str = sys.executable) -> Finished:
        """Run a command that has to succeed."""
        done = self(command, *arguments, python=python)
        assert done.code == 0, f"{command} ended with {done.code}: {done.out}{done.err}"
        return done


@pytest.fixture
def run(tmp_path: Path) -> Commands:
    """Commands run in an empty folder."""
    return Commands(tmp_path)


SMALL_NETWORK = (
    "--backbone", "test_resnet", "--weights", "none", "--input", 64, "--fpn-channels", 16, "--head-channels", 16, "--head-depth", 1,
    "--anchor-scales", "1", "--anchor-ratios", "1", "--workers", 0, "--device", "cpu",
)  # fmt: skip


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small COCO data set of generated scenes. Not to be changed."""
    folder = tmp_path_factory.mktemp("scenes")
    Commands(folder).must("runtime/scenes.py", "--output", "scenes", "--train", 24, "--val", 8, "--size", 96)
    return folder / "scenes"


@pytest.fixture(scope="session")
def torch_python() -> str:
    """An interpreter that can train: this one, or, as on a device that has no torch, the one that TORCH_PYTHON names."""
    if importlib.util.find_spec("torch"):
        return sys.executable
    other = shutil.which(os.environ.get("TORCH_PYTHON", ""))
    if other is None:
        pytest.skip("no torch in this environment, and TORCH_PYTHON names no interpreter that has it")
    return other


@pytest.fixture(scope="session")
def finished_model(scenes: Path, torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, trained for two epochs, exported and quantized. Not to be changed: `model` gives a copy."""
    commands = Commands(tmp_path_factory.mktemp("model"))
    model = commands.folder / "models" / "small"
    commands.must("training/train.py", "--data", scenes, "--model", model, "--epochs", 2, *SMALL_NETWORK, python=torch_python)
    commands.must("export/export_onnx.py", "--model", model, python=torch_python)
    commands.must("export/build_engine.py", "--int8", "--model", model, "--images", 8, "--max-ap-drop", 100)
    return model


@pytest.fixture
def model(finished_model: Path, tmp_path: Path) -> Path:
    """A copy of the finished model, to be changed at will."""
    return Path(shutil.copytree(finished_model, tmp_path / "model"))


@dataclass(frozen=True)
class Project:
    """A folder with data/squares, and models/latest, made by the commands as the design has them; what each of them said."""

    folder: Path
    said: dict[str, str]

    @property
    def model(self) -> Path:
        return (self.folder / "models" / "latest").resolve()


@pytest.fixture(scope="session")
def finished_project(torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The way from data to an INT8 model that finds most squares, with every default but the network's size. Not to be changed."""
    commands = Commands(tmp_path_factory.mktemp("project"))
    squares.write_dataset(commands.folder / "data" / "squares", train=32, val=8)
    typed: dict[str, tuple[str, tuple[object, ...]]] = {
        "training/train.py": (torch_python, ("--data", "data/squares", *SMALL_NETWORK, *squares.TRAINING)),
        "export/export_onnx.py": (torch_python, ()),
        "export/build_engine.py": (sys.executable, ("--int8", "--max-ap-drop", 5)),  # of so small a network
    }
    said = {command: commands.must(command, *arguments, python=python).out for command, (python, arguments) in typed.items()}
    return Project(commands.folder, said)


@pytest.fixture
def project(finished_project: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to be changed at will."""
    folder = shutil.copytree(finished_project.folder, tmp_path / "project", symlinks=True)
    return Project(Path(folder), finished_project.said)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that REAL_DATA names."""
    if not os.environ.get("REAL_DATA"):
        pytest.skip("REAL_DATA is unset: it names a folder with bccd, coco_cc_free and videos")
    return Path(os.environ["REAL_DATA"])
