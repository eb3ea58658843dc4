"""The committed lists of the names that TensorRT's releases have, for looking names up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MODULE = "tensorrt"  # the owner of a name of the module itself
_LINE = re.compile(r"(?P<path>[\w.]+)(?:\((?P<base>[\w.]+)\))?(?: -> (?P<kind>.+))?")


@dataclass(frozen=True)
class Release:
    """The names of one release. kinds: by path, the class of a value or of what a call returns, "" for unknown. bases: by class."""

    kinds: dict[str, str]
    bases: dict[str, str]
    classes: frozenset[str]

    def find(self, owner: str, name: str) -> str | None:
        """Return the path of a member of a class, also an inherited one, or of the module; None where there is none."""
        if owner == MODULE:
            return name if name in self.kinds else None
        if f"{owner}.{name}" in self.kinds:
            return f"{owner}.{name}"
        return self.find(self.bases[owner], name) if owner in self.bases else None


def read_releases() -> dict[str, Release]:
    """Return every release that has a list, by its version, oldest first."""
    files = sorted(Path(__file__).parent.glob("*.txt"), key=lambda file: [int(part) for part in file.stem.split(".")])
    return {file.stem: _read(file) for file in files}


def _read(file: Path) -> Release:
    kinds, bases = {}, {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        assert found is not None, f"{file.name} holds names one a line, got {line!r}"
        path, base, kind = found["path"], found["base"], found["kind"]
        kinds[path] = kind or ""
        if base:
            bases[path] = base
    # A class has a line without a kind, and members of its own or of its base.
    classes = ({path.rpartition(".")[0] for path in kinds} | set(bases)) & set(kinds)
    return Release(kinds | {path: path for path in classes}, bases, frozenset(classes))
