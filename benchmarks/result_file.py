"""Where a benchmark writes its table, and the lines that it adds there."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from retinanet_edge.runtime.errors import UserInputError


def result_path(name: str, machine: str, out: Path | None) -> Path:
    """Return `out`, or benchmarks/<name>_<machine>.csv. Raises UserInputError where no file can be there."""
    path = out or Path("benchmarks") / f"{name}_{re.sub('[^a-z0-9]+', '-', machine.lower()).strip('-')}.csv"
    if not path.parent.is_dir() or path.is_dir():
        raise UserInputError(f"--out must be a file in a folder that exists, got {path}: make that, or run this from the project's folder")
    return path


def add_to_csv(path: Path, run: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> None:
    """Write each row behind what other runs wrote, after what describes the run; floats to five places."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*run, *rows[0]], lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({**run, **{name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()}})
