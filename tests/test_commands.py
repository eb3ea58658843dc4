"""What is wrong on the command line of any command: exit code 2, one line on stderr, no traceback, nothing written."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    f"{path.parent.name}/{path.name}"
    for package in ("training", "export", "runtime")
    for path in sorted((ROOT / package).glob("*.py"))
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]
# What a command needs, beside --model, before it looks into the folder.
ALSO = {"training/train.py": ["--resume"], "runtime/stream.py": ["--camera", "demo", "--no-window"]}
TAKE_SECONDS_TO_START = ("training/train.py", "export/export_onnx.py")  # their cards are read with torch at hand
EXAMINES = "runtime/doctor.py"  # tells of a broken folder in its table, among other things
OF_A_MODEL = [name for name in COMMANDS if '"--model"' in (ROOT / name).read_text(encoding="utf-8") and name != EXAMINES]
OF_A_MODEL.append("runtime/stream.py")  # its flags stand in stream_arguments.py


def assert_one_line(done, *parts):
    """The command ended with the user's mistake, said in one line."""
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for part in parts:
        assert part in done.err


def test_the_commands_of_the_readme_are_checked():
    assert {"training/train.py", "export/export_onnx.py", "export/build_engine.py", "runtime/stream.py"} <= set(OF_A_MODEL)


@pytest.mark.parametrize("command", OF_A_MODEL)
def test_missing_model_folder(run, command):
    assert_one_line(run(command, *ALSO.get(command, []), "--model", "missing"), "missing does not exist: run python training/train.py")
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize("command", [command for command in OF_A_MODEL if command not in TAKE_SECONDS_TO_START])
def test_folder_without_a_card(run, command):
    (run.folder / "empty").mkdir()
    assert_one_line(run(command, *ALSO.get(command, []), "--model", "empty"), "empty has no card.json: run python training/train.py")
    assert list((run.folder / "empty").iterdir()) == []


@pytest.mark.parametrize("command", [command for command in OF_A_MODEL if command not in TAKE_SECONDS_TO_START])
def test_truncated_card(run, command):
    card = run.folder / "model" / "card.json"
    card.parent.mkdir()
    card.write_text('{"classes": ["a')
    assert_one_line(run(command, *ALSO.get(command, []), "--model", "model"), "card.json is not JSON", "it may be truncated")
    assert card.read_text() == '{"classes": ["a'


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_flag(run, command):
    done = run(command, "--no-such-flag")
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("training/train.py", [], "--data PATH is needed"),
        ("training/train.py", ["--data", "x", "--epochs", "0"], "argument --epochs: must be a whole number of at least 1, got 0"),
        ("training/train.py", ["--data", "x", "--lr", "nan"], "argument --lr: must be a number, positive, got nan"),
        ("training/train.py", ["--data", "x", "--input", "64x"], "argument --input: must be H or HxW in pixels"),
        ("runtime/benchmark.py", ["--frames", "1.5"], "argument --frames: must be a whole number of at least 1, got 1.5"),
        ("runtime/benchmark.py", ["--batch", "-1"], "argument --batch: must be a whole number of at least 1, got -1"),
        ("runtime/stream.py", ["--threshold", "2"], "argument --threshold: must be a number, at least 0 and at most 1, got 2"),
        ("runtime/stream.py", ["--classes", "a,,b"], "argument --classes: must be class names with commas between them"),
        ("runtime/stream.py", ["--frames", "0"], "argument --frames: must be a whole number of at least 1, got 0"),
    ],
)
def test_refused_values_say_what_was_expected(run, command, arguments, said):
    done = run(command, *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err.splitlines()[-1]
    assert list(run.folder.iterdir()) == []


def test_missing_data(run):
    assert_one_line(run("training/train.py", "--data", "missing"), "missing")
    assert list(run.folder.iterdir()) == []
