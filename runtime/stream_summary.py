"""What the JSON lines of a stream (jsonl_sink.py) say in all: frames, detections of each class, latency."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.errors import UserInputError


@dataclass(frozen=True)
class StreamSummary:
    """A finished stream. detections: by class name, most frequent first. latency_ms: float64 [frames]."""

    frames: int
    seconds: float
    detections: dict[str, int]
    latency_ms: NDArray[np.float64]

    def percentile(self, percent: float) -> float:
        """Return the latency in milliseconds that `percent` % of the frames do not exceed (nearest rank). Needs a frame."""
        return float(np.percentile(self.latency_ms, percent, method="inverted_cdf"))


def read_stream(path: Path) -> StreamSummary:
    """Read the JSON lines that `stream.py --jsonl` wrote. Raises UserInputError where a line is none of its lines."""
    detections: Counter[str] = Counter()
    latencies, times = [], []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                latencies.append(float(entry["latency_ms"]))
                times.append(float(entry["time_s"]))
                detections.update(str(found["class"]) for found in entry["detections"])
            except (ValueError, KeyError, TypeError, RecursionError):
                raise UserInputError(f"{path}, line {number}, must be a line of stream.py --jsonl, got {line[:60]!r}: "
                                     "write it again") from None  # fmt: skip
    seconds = max(times) - min(times) if times else 0.0
    return StreamSummary(len(latencies), seconds, dict(detections.most_common()), np.array(latencies, np.float64))
