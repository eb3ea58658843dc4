"""Write docs/device-wheels.md: which wheels pip finds for a Jetson, for the Python of JetPack 6 and that of JetPack 7."""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

try:
    import tomllib
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    from retinanet_edge.runtime.errors import RetinaNetEdgeError, run_command
except ModuleNotFoundError:
    print("error: retinanet-edge, packaging and Python 3.11 are needed: run make setup, then use .venv/bin/python", file=sys.stderr)
    sys.exit(2)

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
EXTRAS = ("jetson", "cpu")
SOURCE_ONLY = {"pycuda": ("pytools", "platformdirs", "mako")}  # what nobody makes wheels of, and what that needs when it is installed

HEAD = """# Wheels for Jetsons

Written by `python benchmarks/device_wheels.py`, which has pip choose as on a Linux aarch64 machine with CPython 3.10 and glibc 2.35
(JetPack 6) and with CPython 3.12 and glibc 2.39 (JetPack 7), wheels only: newest versions that fit together. "pure" is Python alone, which
fits everywhere. `jetson` and `cpu` are the extras of pyproject.toml; where pip's choice differs between them a package has two rows.
Nothing was installed on a device.

## Asked for by pyproject.toml

| package | extra | allowed | JetPack 6, CPython 3.10 | JetPack 7, CPython 3.12 |
|---|---|---|---|---|
| tensorrt | none | 8.6 and newer | JetPack's | JetPack's |
| OpenCV, for `jetson` | none | 4.8 and newer | JetPack's | JetPack's |
"""
NEEDED_HEAD = """
## Needed by those

| package | extra | JetPack 6, CPython 3.10 | JetPack 7, CPython 3.12 |
|---|---|---|---|
"""
TAIL = """
## What to know

- `pycuda` is source everywhere: pip compiles it. That needs a C++ compiler and Python's headers (`sudo apt install build-essential
  python3-dev`) and JetPack's CUDA toolkit, which it finds by `nvcc`: first `export PATH=/usr/local/cuda/bin:$PATH`.
- `tensorrt` of PyPI, in the extra `gpu`, is for discrete GPUs. JetPack's is seen by an environment that was made with
  `--system-site-packages`.
- JetPack 6's OpenCV is compiled for NumPy 1 and does not load with NumPy 2, and the NumPy 1.21 beside it is older than this project takes.
  So the extra `jetson` asks for `numpy<2`.
- `cuda-bindings` 13 wants a driver of CUDA 13 (580 or newer), which JetPack 6 has not. So `jetson` asks for 12 on Python 3.10.
- The extra `cpu` puts OpenVINO and an OpenCV of its own on the device: for a model without an engine, not beside the extra `jetson`.
"""


@dataclass(frozen=True)
class Device:
    """A Linux aarch64 machine. python: as "3.10". glibc: minor of 2.x."""

    python: str
    glibc: int

    def pip_flags(self) -> list[str]:
        platforms = [*(f"manylinux_2_{minor}_aarch64" for minor in range(self.glibc, 16, -1)), "manylinux2014_aarch64"]
        return ["--python-version", self.python, "--implementation", "cp", *(part for p in platforms for part in ("--platform", p))]


DEVICES = (Device("3.10", 35), Device("3.12", 39))


def main() -> None:
    """Parse the arguments and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/device-wheels.md"), help="file to write (default docs/device-wheels.md)")
    write_page(parser.parse_args().output)


def write_page(output: Path) -> None:
    """Let pip choose for each extra and device and write what it chose."""
    asked = {(extra, device): requirements(extra, device) for extra in EXTRAS for device in DEVICES}
    chosen = {pair: choose(list(asked[pair].values()), pair[1]) for pair in asked}
    tables: dict[bool, list[str]] = {True: [], False: []}
    for name in sorted({name for wheels in chosen.values() for name in wheels}):
        rows: dict[tuple[str, ...], list[str]] = {}
        for extra in EXTRAS:
            pairs = [(extra, device) for device in DEVICES]
            if any(name in chosen[pair] for pair in pairs):
                allowed = dict.fromkeys(str(asked[pair][name].specifier) for pair in pairs if name in asked[pair])
                rows.setdefault((" or ".join(allowed), *(chosen[pair].get(name, "") for pair in pairs)), []).append(extra)
        direct = any(name in requirement for requirement in asked.values())
        for cells, extras in rows.items():
            tables[direct].append(f"| {' | '.join([name, ', '.join(extras), *(cells if direct else cells[1:])])} |")
    output.write_text(HEAD + "\n".join(tables[True]) + "\n" + NEEDED_HEAD + "\n".join(tables[False]) + "\n" + TAIL, encoding="utf-8")
    print(f"wrote {output}")


def requirements(extra: str, device: Device) -> dict[str, Requirement]:
    """Return what pyproject.toml asks for with an extra on a device, by name."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    found: dict[str, Requirement] = {}
    for line in (*project["dependencies"], *project["optional-dependencies"][extra]):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"python_version": device.python}):
            requirement.marker, name = None, canonicalize_name(requirement.name)
            if name in found:
                requirement.specifier &= found[name].specifier
            found[name] = requirement
    return found


def choose(asked: list[Requirement], device: Device) -> dict[str, str]:
    """Return for each package that a device would get its version and kind. Raises RetinaNetEdgeError where pip finds no wheels."""
    built = [requirement for requirement in asked if requirement.name in SOURCE_ONLY]
    lines = [str(requirement) for requirement in asked if requirement not in built]
    lines += [need for requirement in built for need in SOURCE_ONLY[requirement.name]]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip("install", "--dry-run", "--ignore-installed", "--target", folder, "--report", str(report), "--only-binary", ":all:",
            *device.pip_flags(), *lines)  # fmt: skip
        installs = json.loads(report.read_text(encoding="utf-8"))["install"]
    wheels = {canonicalize_name(install["metadata"]["name"]): install for install in installs}
    newest = {requirement.name: newest_of_any_kind(requirement, device) for requirement in asked}
    found = {requirement.name: f"{newest[requirement.name]}, source" for requirement in built}
    for name, install in wheels.items():
        version = Version(install["metadata"]["version"])
        pure = install["download_info"]["url"].endswith("-none-any.whl")
        found[name] = f"{version}{', pure' if pure else ''}"
        if newest.get(name, version) > version:  # which pip, not told otherwise, would build
            found[name] += f" ({newest[name]} has no such wheel: give pip `--prefer-binary`)"
    return found


def newest_of_any_kind(requirement: Requirement, device: Device) -> Version:
    """Return the newest version that is allowed and meant for the device's Python, be it as wheel for any machine or as source."""
    said = pip("index", "versions", requirement.name, "--python-version", device.python)
    (listed,) = (line.removeprefix("Available versions: ") for line in said.splitlines() if line.startswith("Available versions: "))
    return max(version for version in map(Version, listed.split(", ")) if version in requirement.specifier)


def pip(*arguments: str) -> str:
    """Return what pip prints. Raises RetinaNetEdgeError with its last words where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode:
        words = (done.stderr.strip() or "nothing").splitlines()[-1]
        raise RetinaNetEdgeError(f"pip {arguments[0]} must find what pyproject.toml asks for, said {words}: change it or check the network")
    return done.stdout


if __name__ == "__main__":
    sys.exit(run_command(main))
