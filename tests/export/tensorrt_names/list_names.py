"""Lists the Python names that TensorRT's wheels hold, one file a release, for test_tensorrt_names.py.

    python3.10 tests/export/tensorrt_names/list_names.py            # 3.10: the newest that 8.5.3.1 has a wheel for

Downloads 550 MB into a temporary folder and installs nothing. Needs Linux on x86-64, pip and a C compiler: the bindings are
imported with empty libraries in place of TensorRT's, of which they call nothing while they are imported.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from ctypes import CDLL, RTLD_GLOBAL
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
WHEELS = {
    "8.5.3.1": "tensorrt",  # with the libraries in it
    "10.3.0": "tensorrt-cu12-bindings",
    "10.16.1.11": "tensorrt-cu12-bindings",
    "11.4.0.106": "tensorrt-cu12-bindings",
}
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")
# Those of TensorRT's functions of which the bindings take the address; others matter only when they are called.
_FUNCTIONS = (
    "getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
    "_ZN11nvuffparser15createUffParserEv", "_ZN14nvcaffeparser117createCaffeParserEv", "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)  # fmt: skip
_HEADER = """\
# The Python names of TensorRT {version}, as list_names.py found them in
# {wheel}, SHA-256 {sha256}.
# A class is followed by the class that it is derived from, in brackets, and by its own members, without the inherited ones;
# "-> T" is the class of a value, or what a call returns, as the signature has it.
"""


def main() -> None:
    """Write <version>.txt beside this file for every release."""
    if sys.version_info[:2] != (3, 10):
        sys.exit("error: must run on Python 3.10, for which all these releases have wheels: python3.10 " + sys.argv[0])
    for version, project in WHEELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            wheel = _download(f"{project}=={version}", Path(scratch))
            # A process of its own: one holds only one TensorRT, and one that crashes is an error here, not the end.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                lines = pool.submit(_names_of_wheel, wheel, int(version.split(".")[0])).result()
            header = _HEADER.format(version=version, wheel=wheel.name, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
        (HERE / f"{version}.txt").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
        print(f"{version}.txt: {len(lines)} names")


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    subprocess.run([*command, requirement], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _names_of_wheel(wheel: Path, major: int) -> list[str]:
    """Unpack the bindings of a wheel beside it, import them and return their names."""
    with zipfile.ZipFile(wheel) as archive:
        bindings = [name for name in archive.namelist() if name.endswith((".py", "/tensorrt.so"))]
        archive.extractall(wheel.parent, bindings)
    _load_empty_libraries(wheel.parent, major)
    sys.path.insert(0, str(wheel.parent))
    package = Path(next(name for name in bindings if name.endswith("/tensorrt.so"))).parent.name
    return names_of(importlib.import_module(package))


def _load_empty_libraries(folder: Path, major: int) -> None:
    """Load libraries of the names that the bindings ask for; the loader takes one that is there already for the one asked for."""
    source = folder / "empty.c"
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in _FUNCTIONS), encoding="utf-8")
    sys.setdlopenflags(os.RTLD_LAZY)
    for name in _LIBRARIES:
        file = f"lib{name}.so.{major}"
        subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", file, source.name], cwd=folder, check=True)
        CDLL(str(folder / file), RTLD_GLOBAL)


def names_of(trt: ModuleType) -> list[str]:
    """Return the lines of a release's list for its imported module."""
    ours = (name for name in vars(trt) if not inspect.ismodule(getattr(trt, name)))
    public = [name for name in ours if not name.startswith("_") and name not in ("attr", "value")]  # left by a loop of __init__.py
    return [line for name in sorted(public) for line in _lines(name, getattr(trt, name))]


def _lines(path: str, value: Any) -> Iterator[str]:
    """Yield the line of a name and, for a class, those of its members."""
    if not isinstance(value, type):
        kind = _kind(value)
        yield f"{path} -> {kind}" if kind else path
    elif value.__qualname__ != path:  # another name of a class
        yield f"{path} -> {value.__qualname__}"
    else:
        base = value.__mro__[1]
        yield f"{path}({base.__qualname__})" if base.__module__ == value.__module__ else path
        for name in sorted(vars(value)):
            if not name.startswith("_"):
                yield from _lines(f"{path}.{name}", vars(value)[name])


def _kind(value: Any) -> str:
    """Return the class of a value, or what a function or property returns by its signature; "" where it does not say."""
    function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    if function is None:  # a property to be written only
        return ""
    if not callable(function):
        return type(value).__qualname__
    returned = set(re.findall(r"^(?:\d+\. )?\w*\(.*\) -> (.+)$", function.__doc__ or "", re.MULTILINE))
    return re.sub(r"\b(?:tensorrt|tensorrt_bindings)\.tensorrt\.", "", returned.pop()) if len(returned) == 1 else ""


if __name__ == "__main__":
    main()
