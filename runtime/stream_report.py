"""What a stream says of itself: a line once a second on stderr, a table at the end. Bounded memory: see latency.py."""

from __future__ import annotations

import sys
import time

from retinanet_edge.runtime.latency import LatencyHistogram

_LINE_SECONDS = 1.0
_PERCENTS = (50, 95, 99)


class StreamReport:
    """Counts frames and times, and says once a second how it goes: in place on a terminal, line by line elsewhere."""

    def __init__(self) -> None:
        self.frames = 0
        self.dropped = 0
        self._latency = LatencyHistogram()
        self._stages: dict[str, LatencyHistogram] = {}
        self._started = self._second_started = self._ended = time.perf_counter()
        self._second = LatencyHistogram()
        self._in_place = sys.stderr.isatty()
        self._line_stands = False

    def start(self) -> None:
        """Begin to count time: the model is loaded, the first frame is awaited."""
        self._started = self._second_started = self._ended = time.perf_counter()

    def add(self, latency_ms: float, stage_ms: dict[str, float], dropped: int) -> None:
        """Count one frame. `dropped`: frames that the camera has dropped since its start."""
        self.frames += 1
        self.dropped = dropped
        self._latency.add(latency_ms)
        self._second.add(latency_ms)
        for stage, milliseconds in stage_ms.items():
            self._stages.setdefault(stage, LatencyHistogram()).add(milliseconds)
        self._ended = time.perf_counter()
        if self._ended - self._second_started >= _LINE_SECONDS:
            self._say_second()

    def end(self) -> None:
        """End the line that stands in place."""
        if self._line_stands:
            print(file=sys.stderr)
        self._line_stands = False

    def table(self) -> str:
        """Return the summary: frames, seconds, frames per second, drops, and each stage's percentiles in milliseconds."""
        seconds = self._ended - self._started
        rate = self.frames / seconds if seconds else 0.0
        lines = [f"{self.frames} frames in {seconds:.1f} s, {rate:.1f} frames/s, {self.dropped} dropped"]
        if self.frames:
            lines.append(f"{'ms':12}" + "".join(f"{f'p{percent}':>9}" for percent in _PERCENTS))
            rows = {**self._stages, "latency": self._latency}
            lines += [
                f"{name:12}" + "".join(f"{times.percentile(percent):9.2f}" for percent in _PERCENTS) for name, times in rows.items()
            ]
        return "\n".join(lines)

    def _say_second(self) -> None:
        rate = self._second.count / (self._ended - self._second_started)
        latency = "/".join(f"{self._second.percentile(percent):.1f}" for percent in _PERCENTS)
        line = f"{rate:6.1f} frames/s   latency p50/p95/p99 {latency} ms   {self.frames} frames, {self.dropped} dropped"
        if self._in_place:
            print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)  # K: what is left of a longer line goes
        else:
            print(line, file=sys.stderr, flush=True)
        self._line_stands = self._in_place
        self._second, self._second_started = LatencyHistogram(), self._ended
