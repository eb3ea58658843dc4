"""Results as a table: one row a detection."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from retinanet_edge.runtime.line_file import LineFile
from retinanet_edge.runtime.result_json import utc
from retinanet_edge.runtime.rotation import Rotation
from retinanet_edge.runtime.sink import FrameResult

COLUMNS = ("camera", "utc", "frame", "time_s", "class", "score", "x1", "y1", "x2", "y2", "track")


class CsvSink:
    """Appends one row a detection to `path`, the rows of a frame together, below a header in each file (line_file.py)."""

    name = "csv"

    def __init__(self, path: Path, rotation: Rotation | None = None) -> None:
        self._file = LineFile(path, rotation, _rows([COLUMNS]))

    def write(self, result: FrameResult) -> None:
        """Append a frame's rows; none where nothing was found. Raises SinkError where they cannot be written."""
        frame, found = result.frame, result.detections
        if not len(found):
            return
        time_of_day = utc(frame.unix_s) if frame.unix_s > 0 else ""
        tracks = [-1] * len(found) if result.track_ids is None else result.track_ids.tolist()
        self._file.append(
            _rows(
                [
                    frame.camera, time_of_day, frame.index, round(frame.timestamp_s, 6), result.class_names[index],
                    f"{score:.4f}", *(f"{side:.2f}" for side in box), track if track >= 0 else "",
                ]
                for box, score, index, track in zip(found.xyxy, found.scores, found.classes, tracks, strict=True)
            )
        )  # fmt: skip

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _rows(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
