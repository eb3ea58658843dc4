"""Two processes on the CPU against one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training import distributed
from retinanet_edge.training.distributed import ProcessGroup, choose_device, from_first, gather_shares, lost_peer, own_share
from tests import squares
from tests.conftest import ROOT, SMALL_NETWORK, Finished
from tests.training import one_of_two
from tests.training.conftest import TrainCommand

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
LOGS = ("--log-dir", "logs", "--redirects", "3")  # of each process by itself


def torchrun(folder: Path, *typed: object) -> Finished:
    """Run a file as two processes of torchrun."""
    done = subprocess.run(
        [*TORCHRUN, *map(str, typed)], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one_of_two.py writes in one process and in two."""
    folder = tmp_path_factory.mktemp("outcomes")
    squares.write_dataset(folder / "squares", train=32, val=7)
    learnt = TrainCommand(folder)("--data", "squares", "--model", "learnt", *SMALL_NETWORK, *squares.TRAINING)
    assert learnt.code == 0, learnt.err
    arguments = (folder / "squares", folder / "learnt" / "weights.safetensors", folder)
    one_of_two.main(*arguments)
    done = torchrun(folder, ROOT / "tests/training/one_of_two.py", *arguments)
    assert done.code == 0, done.err
    (folder / "said").write_text(done.out)
    return folder


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_have_the_losses_and_gradients_of_one(accumulate: int, outcomes: Path) -> None:
    one, both = (load_file(outcomes / processes / f"gradients-{accumulate}.safetensors") for processes in ("1", "2"))
    assert one.keys() == both.keys()
    assert any(name.startswith("backbone.") for name in one)
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert float(one["class_head.predict.weight"].abs().max()) > 1e-3  # far above the tolerance


def test_two_processes_find_the_ap_of_one(outcomes: Path) -> None:
    one, both = (json.loads((outcomes / processes / "ap.json").read_text()) for processes in ("1", "2"))
    np.testing.assert_allclose(both["figures"], one["figures"], atol=1e-6)
    assert both["counts"] == one["counts"]  # of 7 images, in their order
    assert len(both["counts"]) == 7
    assert one["figures"][0] > 0.3


def test_two_processes_train_and_resume_as_one(outcomes: Path) -> None:
    one, both = (load_file(outcomes / processes / "model" / "last.safetensors") for processes in ("1", "2"))
    assert one.keys() == both.keys()
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    rows = [(outcomes / processes / "model" / "report" / "training.csv").read_text().count("\n") for processes in ("1", "2")]
    assert rows == [3, 3]  # a header and two epochs


def test_on_the_cpu_a_line_says_that_norms_are_not_synchronised(outcomes: Path) -> None:
    assert "--sync-norm needs GPUs: on the CPU each process has BatchNorm statistics of its own" in (outcomes / "said").read_text()


def said(folder: Path) -> dict[str, list[str]]:
    """Return the lines that each process under torchrun said on stderr, without those of libraries."""
    files = sorted((folder / "logs").glob("*/attempt_0/*/stderr.log"))
    return {path.parent.name: [line for line in path.read_text().splitlines() if not line.startswith("libpng")] for path in files}


def test_an_error_in_any_process_ends_both_in_one_line(command: TrainCommand, data: Path) -> None:
    copy = Path(shutil.copytree(data, command.folder / "copy"))
    image = copy / "train" / "3.png"
    broken = bytearray(image.read_bytes())
    broken[len(broken) // 2 : len(broken) // 2 + 200] = bytes(200)
    image.write_bytes(bytes(broken))
    typed = ("--data", "copy", "--model", "model", *SMALL_NETWORK, "--batch", 4, "--epochs", 1)
    done = torchrun(command.folder, *LOGS, ROOT / "training/train.py", *typed)
    assert done.code == 1  # torchrun's own
    lines = said(command.folder)
    assert list(lines) == ["0", "1"]
    # torchrun may stop the other process before it has heard what happened.
    ours = [line for line in lines["0"] + lines["1"] if not line.startswith("error: interrupted")]
    assert ours == ["error: image copy/train/3.png must decode, got a file that is no image or is corrupt: replace it"]


def test_an_interrupt_ends_both_in_one_line(command: TrainCommand, data: Path) -> None:
    typed = ("--data", data, "--model", "cut", *SMALL_NETWORK, "--batch", 4, "--epochs", 1000, "--eval-every", 1000, "--workers", 1)
    process = subprocess.Popen(
        [*TORCHRUN, *map(str, (*LOGS, ROOT / "training/train.py", *typed))], cwd=command.folder, env=ENVIRONMENT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (command.folder / "cut" / "last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=60)
    lines = said(command.folder)
    assert lines["1"] == []
    assert len(lines["0"]) == 1
    with safe_open(command.folder / "cut" / "last.safetensors", "pt") as file:
        kept = len(json.loads(file.metadata()["training"])["settings"]["history"])
    assert f"interrupted, epoch {kept} is kept" in lines["0"][0]


# Alone


def test_alone_everything_stays_as_it_is() -> None:
    with ProcessGroup():
        assert from_first(lambda: 3) == 3
        assert own_share([1, 2, 3]) == [1, 2, 3]
        assert gather_shares(["a", "b"]) == ["a", "b"]
        assert lost_peer(RuntimeError("Connection closed by peer")) is None


@pytest.mark.parametrize("items", [0, 1, 5, 6])
def test_shares_come_together_in_their_order(items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange itself is torch's; here it is given what three processes would send."""
    everything = list(range(items))
    monkeypatch.setattr(distributed, "process_count", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "process_rank", lambda rank=rank: rank)
        shares.append(list(own_share(everything)))

    def exchange(gathered: list[Any], _: list[int]) -> None:
        gathered[:] = shares

    monkeypatch.setattr(distributed.dist, "all_gather_object", exchange)
    assert gather_shares(shares[0]) == everything


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "99"), ("LOCAL_RANK", "99"), ("WORLD_SIZE", "100")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserInputError, match=r"each process needs a GPU of its own, and this machine has \d+: .*--device cpu"):
        choose_device("cuda")
    assert choose_device("cpu") == "cpu"
