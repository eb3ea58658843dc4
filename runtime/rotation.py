"""When a file of a stream is full, what the full ones are called, and how many of them are kept.

Full files carry a UTC time, `out-20261121T140102.123Z.jsonl`. Names only ever grow: a board without a clock battery wakes up in the
past, and a file written then must neither hide among the oldest nor be deleted as one of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from retinanet_edge.runtime.output_paths import utc_stamp

STAMP = r"\d{8}T\d{6}\.\d{3}Z"


@dataclass(frozen=True)
class Keep:
    """What is kept of finished files, newest first: at most so many files, and so many bytes. None: no limit."""

    files: int | None = None
    size: int | None = None


KEEP_ALL = Keep()


@dataclass(frozen=True)
class Rotation:
    """When a file is full: before it outgrows `max_size` bytes, or `max_seconds` after it was begun. None: never."""

    max_size: int | None = None
    max_seconds: float | None = None
    keep: Keep = KEEP_ALL


def finished_files(path: Path) -> list[Path]:
    """Return the files that carry the name of `path` with a time, oldest first."""
    pattern = re.compile(f"{re.escape(path.stem)}-{STAMP}{re.escape(path.suffix)}")
    return sorted(found for found in path.parent.iterdir() if pattern.fullmatch(found.name))


def stamped_path(path: Path, unix_s: float) -> Path:
    """Return the name of `path` with a time: `unix_s`, or just after the newest file's, if that is later."""
    stamp, finished = utc_stamp(unix_s), finished_files(path)
    if finished:
        newest = finished[-1].stem[len(path.stem) + 1 :]
        time = datetime.strptime(newest, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=timezone.utc) + timedelta(milliseconds=1)
        stamp = max(stamp, f"{time:%Y%m%dT%H%M%S}.{time.microsecond // 1000:03}Z")
    return path.with_name(f"{path.stem}-{stamp}{path.suffix}")


def prune(files: Sequence[Path], keep: Keep) -> None:
    """Delete what need not be kept of `files`, oldest first. Raises OSError."""
    sizes = [file.stat().st_size for file in files]
    count, size = len(files), sum(sizes)
    for file, bytes_freed in zip(files, sizes, strict=True):
        if (keep.files is None or count <= keep.files) and (keep.size is None or size <= keep.size):
            return
        file.unlink(missing_ok=True)
        count, size = count - 1, size - bytes_freed
