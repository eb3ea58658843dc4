"""README.md and ARCHITECTURE.md against the code: what they name exists, what they show works."""

import dataclasses
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from retinanet_edge.runtime import errors
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.detector import Detector
from retinanet_edge.runtime.frame import Frame
from retinanet_edge.runtime.model_card import ModelCard
from retinanet_edge.runtime.model_folder import INT8_FILE, file_sha256, read_card, write_card
from retinanet_edge.runtime.result_json import as_json
from retinanet_edge.runtime.scene_video import SceneVideo
from retinanet_edge.runtime.sink import FrameResult

ROOT = Path(__file__).resolve().parent.parent
README, ARCHITECTURE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "ARCHITECTURE.md"))
PACKAGES = ("training", "export", "runtime")
OF_OTHERS = {"--system-site-packages"}  # flags in the README that belong to venv


def blocks(text, language):
    """The fenced code blocks of a language, "" for those without one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for name, content in fenced if name == language]


def shown_commands():
    """The words of every command line that the README shows, without its comment."""
    lines = "".join(blocks(README, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


PYTHON_COMMANDS = [words[1:] for words in shown_commands() if words[0] == "python"]
FILES = sorted({words[0] for words in PYTHON_COMMANDS})


def tree():
    """Return (folder, name, starred, clause) of each line of the README's tree; name is "" for the folder itself."""
    (text,) = (block for block in blocks(README, "") if block.startswith("training/"))
    folder, rows = "", []
    for line in text.splitlines():
        indent, name, star, clause = re.fullmatch(r"( *)(\S+) +(\* )?(.+)", line).groups()
        folder = folder if indent else name
        rows.append((folder, name if indent else "", bool(star), clause.strip()))
    return rows


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_names_exactly_the_files_of_a_package(package):
    named = [name for folder, name, _, _ in tree() if folder == f"{package}/" and name]
    assert sorted(named) == sorted(path.name for path in (ROOT / package).glob("*.py"))


def test_the_tree_stars_exactly_the_commands():
    starred = {folder + name for folder, name, star, _ in tree() if star}
    files = [path for package in PACKAGES for path in (ROOT / package).glob("*.py")]
    assert starred == {f"{p.parent.name}/{p.name}" for p in files if '__name__ == "__main__"' in p.read_text(encoding="utf-8")}


def test_the_tree_has_every_folder_of_tests():
    folders = {folder for folder, name, _, _ in tree() if not name and folder.startswith("tests/")}
    with_tests = {path.parent.relative_to(ROOT).as_posix() + "/" for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders == with_tests


def test_every_command_is_shown():
    starred = {folder + name for folder, name, star, _ in tree() if star}
    assert set(FILES) == starred


@pytest.mark.parametrize("words", PYTHON_COMMANDS, ids=" ".join)
def test_a_shown_command_line_is_accepted(words, monkeypatch):
    command = importlib.import_module("retinanet_edge." + words[0].removesuffix(".py").replace("/", "."))
    monkeypatch.setattr(sys, "argv", words)
    assert vars(command.parse_arguments())


@pytest.fixture(scope="module")
def flags():
    """The flags that each shown command's -h lists."""
    found = {}
    for file in FILES:
        done = subprocess.run([sys.executable, str(ROOT / file), "-h"], capture_output=True, text=True, check=True)
        found[file] = set(re.findall(r"--[a-z][a-z0-9-]*", done.stdout))
    return found


@pytest.mark.parametrize("words", PYTHON_COMMANDS, ids=" ".join)
def test_flags_of_a_shown_command_are_in_its_help(words, flags):
    used = {word for word in words if word.startswith("--")}
    assert used <= flags[words[0]]


@pytest.mark.parametrize("text", [README, ARCHITECTURE], ids=["README", "ARCHITECTURE"])
def test_every_flag_that_is_mentioned_belongs_to_a_command(text, flags):
    # Not of diagrams, whose arrows (--like this-->) are dashes too.
    prose = re.sub(r"--[^\n]*?-->", "", text)
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", prose))
    assert {"--int8", "--camera"} & mentioned
    assert mentioned - OF_OTHERS <= set().union(*flags.values())


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    wanted = {words[1] for words in shown_commands() if words[0] == "make"} | set(re.findall(r"`make (\w+)`", README))
    assert {"demo", "test"} <= wanted <= set(targets)


@pytest.mark.parametrize("text", [README, ARCHITECTURE], ids=["README", "ARCHITECTURE"])
def test_links_and_pictures_exist(text):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    headings = {"#" + re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    assert links
    assert [link for link in links if link not in headings and not (ROOT / link).is_file()] == []


def test_exit_codes_are_those_of_the_code():
    rows = {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.+) \|$", README, re.MULTILINE)}
    codes = {name.removeprefix("EXIT_"): value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert sorted(rows) == sorted(codes.values())
    assert [name for name, code in codes.items() if name.lower().replace("_", " ") not in rows[code]] == []


def test_every_extra_that_is_named_exists():
    (section,) = re.findall(
        r"^\[project\.optional-dependencies\]\n(.*?)^\[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    existing = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    named = {name for names in re.findall(r"\.\[([\w,]+)\]", README) for name in names.split(",")}
    assert {"train", "cpu", "jetson"} <= named <= existing


def test_architecture_names_the_sections_of_the_card():
    table = ARCHITECTURE.split("## card.json")[1].split("\n## ")[0]
    rows = [re.findall(r"`(\w+)`", cell) for cell in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)]
    assert sorted(name for row in rows for name in row) == sorted(field.name for field in dataclasses.fields(ModelCard))


def test_architecture_shows_a_line_of_a_stream():
    (shown,) = (json.loads(block) for block in blocks(ARCHITECTURE, "json"))
    found = Detections(np.float32([[12.5, 40, 88.25, 97]]), np.float32([0.91]), np.array([0]))
    assert shown == as_json(FrameResult(Frame(np.zeros((120, 160, 3), np.uint8), 7, 0.28, 0.0, "yard"), found, ("car",), 9.2))


# What a device has not: the README's example runs where importing any of these fails.
MISSING = ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxruntime", "retinanet_edge.training", "retinanet_edge.export")
BEFORE_THE_EXAMPLE = f"""
import importlib, sys
import numpy as np
class Missing:
    def find_spec(self, name, path=None, target=None):
        if any(name == missing or name.startswith(missing + ".") for missing in {MISSING!r}):
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Missing())
for name in {MISSING!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(name + " is there after all")
frame = np.load("frame.npy")
"""
AFTER_THE_EXAMPLE = """
np.savez("found.npz", kind=type(detections).__name__, xyxy=detections.xyxy, scores=detections.scores, classes=detections.classes)
"""


@pytest.fixture
def eager_model(model):
    """The small model, its class scores raised above the example's threshold: trained for two epochs, it finds nothing by itself."""
    network = onnx.load(model / INT8_FILE)
    (bias,) = (tensor for tensor in network.graph.initializer if tensor.name.endswith("class_head.predict.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(5), bias.name))
    onnx.save(network, model / INT8_FILE)
    card = read_card(model)
    write_card(model, dataclasses.replace(card, int8=dataclasses.replace(card.int8, sha256=file_sha256(model / INT8_FILE))))
    return model


def test_the_example_runs_without_torch(eager_model, tmp_path):
    (example,) = blocks(README, "python")
    frame, _, _ = SceneVideo(5, 90, 160).frame(30)
    np.save(tmp_path / "frame.npy", frame)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "latest").symlink_to(eager_model)
    (tmp_path / "program.py").write_text(BEFORE_THE_EXAMPLE + example + AFTER_THE_EXAMPLE, encoding="utf-8")

    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    found = np.load(tmp_path / "found.npz")
    with Detector(eager_model) as detector:
        expected = detector(frame)
    assert str(found["kind"]) == "Detections"
    assert len(found["scores"]) > 0
    assert (found["xyxy"] >= 0).all()
    assert (found["xyxy"] <= [160, 90, 160, 90]).all()
    np.testing.assert_array_equal(found["classes"], expected.classes)
    np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-5)
    np.testing.assert_allclose(found["xyxy"], expected.xyxy, atol=1e-2)
    assert len(done.stdout.splitlines()) == len(expected)
