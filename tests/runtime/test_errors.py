import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retinanet_edge.runtime import errors
from retinanet_edge.runtime.errors import (
    CameraError,
    DatasetError,
    EngineError,
    ModelFolderError,
    RetinaNetEdgeError,
    UserInputError,
    VerdictError,
    run_command,
)


def ending(error):
    def main():
        raise error

    return main


def test_a_command_that_ends_well(capsys):
    assert run_command(lambda: print("done")) == 0
    assert capsys.readouterr() == ("done\n", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RetinaNetEdgeError("what"), 1), (EngineError("what"), 1), (UserInputError("what"), 2), (DatasetError("what"), 2),
        (ModelFolderError("what"), 2), (CameraError("what"), 2), (VerdictError("what"), 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)  # fmt: skip
def test_our_errors_are_one_line_and_a_code(error, code, capsys):
    assert run_command(ending(error)) == code
    assert capsys.readouterr() == ("", "error: what\n")


def test_ctrl_c_is_130(capsys):
    assert run_command(ending(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "error: interrupted\n")


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "train"), ("onnx.checker", "export"), ("openvino", "cpu"), ("cv2", "cpu"), ("tensorrt", "gpu"), ("cuda.bindings", "gpu")],
)
def test_a_missing_package_names_the_extra_that_brings_it(module, extra, capsys):
    assert run_command(ending(ModuleNotFoundError(f"No module named '{module}'", name=module))) == 2
    package = module.split(".")[0]
    assert capsys.readouterr().err == f"error: this command needs {package}: run pip install -e '.[{extra}]'\n"


def test_a_missing_module_of_our_own_is_a_bug():
    with pytest.raises(ModuleNotFoundError):
        run_command(ending(ModuleNotFoundError("No module named 'retinanet_edge.x'", name="retinanet_edge.x")))


def test_the_extras_are_those_of_the_project(request):
    text = (request.config.rootpath / "pyproject.toml").read_text(encoding="utf-8")
    for module, extra in errors._EXTRA_OF_MODULE.items():
        assert f"\n{extra} = [" in text
        assert module


def test_an_unwritable_path_is_the_users(tmp_path, capsys):
    missing = tmp_path / "missing" / "file"
    assert run_command(lambda: missing.write_text("x")) == 2
    line = capsys.readouterr().err
    assert line == f"error: {missing}: No such file or directory: check the path, its permissions and the free disk space\n"


def test_a_full_disk_is_one_line(capsys):
    assert run_command(lambda: Path("/dev/full").write_text("x" * 10_000)) == 2
    assert capsys.readouterr().err.startswith("error: No space left on device: ")


@pytest.mark.parametrize("error", [ValueError("bug"), OSError("without errno"), AssertionError("bug")], ids=repr)
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error), match=r"bug|without"):
        run_command(ending(error))


def test_a_reader_that_goes_away_ends_the_command_quietly():
    program = (
        "import sys\n"
        "from retinanet_edge.runtime.errors import run_command\n"
        "sys.exit(run_command(lambda: [print('line') for _ in range(100_000)]))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        command.stdout.readline()
        command.stdout.close()
        assert command.stderr.read() == ""
        assert command.wait() == 128 + signal.SIGPIPE  # as the shell reports a process that SIGPIPE ended


@pytest.mark.parametrize("raised", ["ImportError('initialization failed')", "RuntimeError('stopped')"])
def test_an_interrupt_that_a_library_swallowed_is_one_all_the_same(raised):
    # As compiled modules do while they load.
    program = (
        "import os, signal, sys\nfrom retinanet_edge.runtime.errors import run_command\n"
        "def main():\n try:\n  os.kill(os.getpid(), signal.SIGINT)\n  signal.pause()\n"
        f" except KeyboardInterrupt:\n  raise {raised} from None\nsys.exit(run_command(main))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
