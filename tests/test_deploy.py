"""What is under deploy/ against the project: programs, flags, extras and files that it names are there. No Docker is needed."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retinanet_edge.runtime.errors import EXIT_INTERRUPTED, EXIT_USER_INPUT

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "deploy/retinanet-edge.service"
DOCKERFILES = sorted((ROOT / "deploy").glob("Dockerfile.*"))
INSTALLED = "/opt/retinanet-edge/"
# Close /dev to cameras and the GPU, or keep CUDA from compiling, or hide the socket of a Jetson's camera service in /tmp.
BREAKS_CUDA_OR_CAMERAS = ("PrivateDevices", "ProtectClock", "DevicePolicy", "MemoryDenyWriteExecute", "PrivateTmp", "PrivateUsers")


def unit():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(UNIT, encoding="utf-8")
    return parser


def flags_of_stream():
    sources = [(ROOT / "runtime" / name).read_text() for name in ("stream.py", "stream_arguments.py")]
    return set(re.findall(r'"(--[a-z-]+)"', "".join(sources)))


def instructions(path):
    """The instructions of a Dockerfile, continued lines joined, as (name, text)."""
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [tuple(line.split(None, 1)) for line in lines]


def extras():
    section = re.search(r"\[project.optional-dependencies\]\n(.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    return {match[1]: match[2] for match in re.finditer(r"^([a-z]+) = \[(.*?)\]$", section, re.DOTALL | re.MULTILINE)}


def test_the_unit_starts_a_program_of_the_project_with_flags_that_it_has():
    program = shlex.split(unit()["Service"]["ExecStart"])
    assert program[0] == f"{INSTALLED}.venv/bin/python"
    assert (ROOT / program[1].removeprefix(INSTALLED)).is_file()
    assert {argument for argument in program if argument.startswith("--")} <= flags_of_stream()


def test_the_unit_is_watched_restarted_and_reloaded():
    service = unit()["Service"]
    assert (service["Type"], service["NotifyAccess"], service["Restart"]) == ("notify", "main", "on-failure")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["RestartPreventExitStatus"] == str(EXIT_USER_INPUT)
    assert service["SuccessExitStatus"] == str(EXIT_INTERRUPTED)
    assert int(service["WatchdogSec"].removesuffix("s")) > 0
    # A restart by the watchdog, every WatchdogSec + RestartSec at most, must never reach the limit: 600 s / 70 s = 8 < 20.
    restarts = 600 / (int(service["WatchdogSec"].removesuffix("s")) + int(service["RestartSec"].removesuffix("s")))
    assert unit()["Unit"]["StartLimitIntervalSec"] == "10min"
    assert restarts < int(unit()["Unit"]["StartLimitBurst"])


def test_the_unit_is_not_root_and_keeps_what_cuda_and_cameras_need():
    service = unit()["Service"]
    assert service["User"] not in ("", "root")
    assert {"video", "render"} <= set(service["SupplementaryGroups"].split())
    assert not set(service) & set(BREAKS_CUDA_OR_CAMERAS)


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("no systemd-analyze here")
    # Programs that are not installed here are the one thing that it would complain about.
    text = UNIT.read_text().replace(f"{INSTALLED}.venv/bin/python", sys.executable).replace("/usr/bin/nvidia-modprobe", sys.executable)
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run([tool, "verify", "--man=no", str(tmp_path / UNIT.name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / UNIT.name).write_text(text.replace("Type=notify", "Type=notified"))  # and it would see a mistake
    done = subprocess.run([tool, "verify", "--man=no", str(tmp_path / UNIT.name)], capture_output=True, text=True, check=False)
    assert "notified" in done.stderr


def test_there_is_an_image_for_each_kind_of_machine():
    assert [path.suffix for path in DOCKERFILES] == [".cpu", ".gpu", ".jetson"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)
def test_an_image_installs_its_extra_and_copies_what_exists(path):
    steps = instructions(path)
    text = " ".join(rest for name, rest in steps if name == "RUN")
    assert re.findall(r"-e '\.\[([a-z,]+)\]'", text) == [path.suffix[1:]]
    assert path.suffix[1:] in extras()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [source for name, rest in steps if name == "COPY" for source in rest.split()[:-1]]
    assert set(copied) == allowed
    assert [source for source in copied if not (ROOT / source).exists()] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)
def test_an_image_runs_the_stream_as_nobody_special_and_says_how_it_is(path):
    steps = dict(instructions(path))  # the last of each name
    assert steps["USER"] not in ("root", "0")
    program = json.loads(steps["ENTRYPOINT"])
    assert (ROOT / program[1].removeprefix(INSTALLED)).is_file()
    command = json.loads(steps["CMD"])
    assert {argument for argument in command if argument.startswith("--")} <= flags_of_stream()
    check = steps["HEALTHCHECK"]
    assert f"http://127.0.0.1:{command[command.index('--web') + 1]}/healthz" in check
    compile(json.loads(check[check.index("[") :])[2], "HEALTHCHECK", "exec")


def test_on_a_jetson_tensorrt_and_opencv_stay_jetpacks():
    steps = instructions(ROOT / "deploy/Dockerfile.jetson")
    runs = " ".join(rest for name, rest in steps if name == "RUN")
    pip = " ".join(part for part in runs.split("&&") if "pip install" in part) + extras()["jetson"]
    assert "numpy<2" in pip
    assert "opencv" not in pip
    assert "tensorrt" not in pip
    assert "--system-site-packages" in runs
    assert {"libopencv-python", "python3-libnvinfer"} <= set(runs.split())


def test_no_image_holds_a_password_or_latest():
    for path in DOCKERFILES:
        assert not re.search(r"(password|token|secret)\s*=", path.read_text(), re.IGNORECASE)
        base = next(rest for name, rest in instructions(path) if name == "FROM")
        assert ":" in base
        assert not base.endswith(":latest")
