"""Results as JSON lines: one object a frame, in the file, whole, before the next frame is looked at."""

from __future__ import annotations

import json
from pathlib import Path

from retinanet_edge.runtime.line_file import LineFile
from retinanet_edge.runtime.result_json import as_json
from retinanet_edge.runtime.rotation import Rotation
from retinanet_edge.runtime.sink import FrameResult


class JsonlSink:
    """Appends one line a frame to `path`, which a rotation begins anew when it is full (line_file.py)."""

    name = "jsonl"

    def __init__(self, path: Path, rotation: Rotation | None = None) -> None:
        self._file = LineFile(path, rotation)

    def write(self, result: FrameResult) -> None:
        """Append one line. Raises SinkError where it cannot be written."""
        self._file.append(json.dumps(as_json(result)).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
