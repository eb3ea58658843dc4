"""Paths of outputs: what cannot be written is refused early, and names carry times and cameras."""

from __future__ import annotations

import os
import re
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.sink import SinkError


def check_output(path: Path, flag: str) -> None:
    """Raise UserInputError, naming the flag, where `path` cannot be written. Leaves what is there as it is."""
    if path.is_dir():
        raise UserInputError(f"{flag} must name a file, got the folder {path}")
    if not path.parent.is_dir():
        raise UserInputError(f"{flag} must be in a folder that exists, got {path}: run mkdir -p {path.parent}")
    if path.exists():
        if not os.access(path, os.W_OK):
            raise UserInputError(f"{flag} must be writable, got {path}, which is not: name another file")
        return
    _check_writable(path.parent, path, flag)


def check_output_folder(folder: Path, flag: str) -> None:
    """Raise UserInputError, naming the flag, where no files can be written in `folder`. It need not be there: its parent must."""
    if folder.exists() and not folder.is_dir():
        raise UserInputError(f"{flag} must name a folder, got the file {folder}")
    if not folder.parent.is_dir():
        raise UserInputError(f"{flag} must be in a folder that exists, got {folder}: run mkdir -p {folder.parent}")
    _check_writable(folder if folder.exists() else folder.parent, folder, flag)


def cannot_write(path: Path, error: OSError) -> SinkError:
    """Return the error for an output that failed on the way."""
    return SinkError(f"cannot write {path} ({error.strerror}): free some space or name another file")


def plain_name(text: str) -> str:
    """Return a name with only what file names and MQTT topics take everywhere: letters, digits, `_`, `.` and `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_.") or "camera"


def utc_stamp(unix_s: float) -> str:
    """Return a time of day for file names, sorted as the times are: 20261121T140102.123Z."""
    return datetime.fromtimestamp(unix_s, timezone.utc).strftime("%Y%m%dT%H%M%S.%f")[:-3] + "Z"


def _check_writable(folder: Path, path: Path, flag: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):  # asks the disk itself: root may do what a read-only disk refuses
            pass
    except OSError as error:
        raise UserInputError(f"{flag} must be in a writable folder, got {path} ({error.strerror}): name another one") from None
