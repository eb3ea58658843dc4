"""Who may import whom, what a command may import before it knows its arguments, and what module names are free to use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("runtime", "training", "export")
FILES = {f"{package}/{path.name}": path for package in PACKAGES for path in sorted((ROOT / package).glob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
COMMANDS = [name for name, path in FILES.items() if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]

TORCH = {"torch", "torchvision", "timm", "safetensors"}
# What `-h` may not import: slow, or absent where another command of the same folder runs.
HEAVY = {*TORCH, "tensorrt", "pycuda", "cuda", "onnx", "onnxruntime", "openvino", "cv2", "av", "matplotlib", "pycocotools", "polygraphy"}


def imports(tree):
    """Every module a file imports, also lazily, for types only, or by a name in a string; `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            found |= {argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return found


IMPORTS = {name: imports(tree) for name, tree in TREES.items()}


def uses(name, modules):
    """Whether a file imports one of `modules`, or a part of one."""
    return {found for found in IMPORTS[name] if any(found == module or found.startswith(f"{module}.") for module in modules)}


def own_files(name):
    """The project's files that a file imports itself."""
    return {file for file in FILES if f"retinanet_edge.{file[:-3].replace('/', '.')}" in IMPORTS[name]}


def reached_from(name):
    """A file and all of the project's files that it imports, directly or through others."""
    reached, waiting = set(), {name}
    while waiting:
        reached.add(file := waiting.pop())
        waiting |= own_files(file) - reached
    return reached


def test_the_rules_see_files_and_commands():
    assert {"runtime/engine.py", "training/model.py", "export/build_engine.py"} <= set(FILES)
    assert {"training/train.py", "export/export_onnx.py", "export/build_engine.py"} <= set(COMMANDS)
    assert "runtime/engine.py" in own_files("runtime/detector.py")
    assert "runtime/openvino_engine.py" in reached_from("runtime/detector.py")  # through a lazy import


def test_lazy_typed_and_named_imports_are_seen():
    text = "def f():\n    import a.b\nif TYPE_CHECKING:\n    from c import d\nimportlib.import_module('e')\n"
    assert imports(ast.parse(text)) == {"a.b", "c", "c.d", "e"}


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("runtime/")])
def test_runtime_imports_neither_torch_nor_the_other_packages(name):
    assert not uses(name, {*TORCH, "retinanet_edge.training", "retinanet_edge.export"})


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("training/")])
def test_training_does_not_import_export(name):
    assert not uses(name, {"retinanet_edge.export"})


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith("export/") and name != "export/export_onnx.py"])
def test_of_export_only_export_onnx_reaches_torch_or_training(name):
    # build_engine.py runs on a Jetson, which has neither. Helpers that export_onnx.py alone needs may import them.
    assert not {file: found for file in reached_from(name) if (found := uses(file, {*TORCH, "retinanet_edge.training"}))}


def test_every_file_of_export_that_uses_torch_serves_export_onnx():
    users = {file for file in FILES if file.startswith("export/") and uses(file, {*TORCH, "retinanet_edge.training"})}
    assert users
    assert users <= reached_from("export/export_onnx.py")


@pytest.mark.parametrize("name", FILES)
def test_no_file_has_the_name_of_a_module_that_is_imported(name):
    # Running `python export/x.py` puts export/ first on sys.path: export/onnx.py would hide onnx from everybody.
    top_level = {found.split(".")[0] for everything in IMPORTS.values() for found in everything}
    assert Path(name).stem not in top_level | sys.stdlib_module_names | HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained(name):
    flags = [
        node for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".add_argument")
    ]  # fmt: skip
    unexplained = [ast.unparse(node) for node in flags if not any(keyword.arg == "help" for keyword in node.keywords)]
    assert unexplained == []


RUN_WITHOUT_HEAVY = f"""
import pathlib, runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise AssertionError("imported " + name)
sys.meta_path.insert(0, Refuse())
script = sys.argv[1]
sys.argv = [script, "-h"]
sys.path.insert(0, str(pathlib.Path(script).parent))
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_heavy(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_HEAVY, str(FILES[name])], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_the_check_of_help_sees_a_heavy_import(tmp_path):
    (tmp_path / "command.py").write_text("import cv2\n")
    done = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_HEAVY, "command.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "AssertionError: imported cv2" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_how_to_install_when_nothing_is_installed(name, tmp_path):
    # -S leaves out site-packages, and with it numpy and the project itself, as in a fresh clone.
    done = subprocess.run(
        [sys.executable, "-E", "-S", str(FILES[name])], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: retinanet-edge is not installed: run make setup")
    assert done.stderr.count("\n") == 1
