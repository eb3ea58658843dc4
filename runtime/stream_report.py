"""What a stream says of itself: a line of figures now and then on stderr, a table at its end."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Sequence

from retinanet_edge.runtime.camera import CameraState
from retinanet_edge.runtime.service_notify import Watchdog
from retinanet_edge.runtime.service_notify import status as notify_status
from retinanet_edge.runtime.stream_monitor import PERCENTS, StreamMonitor
from retinanet_edge.runtime.stream_status import StreamStatus

_LOG = logging.getLogger("retinanet_edge.stream")
_LOOK_S = 1.0
_ON_TERMINAL_S, _IN_FILE_S, _AS_JSON_S = 1.0, 10.0, 60.0


class StreamReport:
    """Says how it goes while it is entered: in place on a terminal, line by line elsewhere; and to systemd, where that watches."""

    def __init__(self, monitor: StreamMonitor, by_json: bool = False) -> None:
        self._monitor = monitor
        self._in_place = sys.stderr.isatty() and not by_json
        self._pause_s = _ON_TERMINAL_S if self._in_place else _AS_JSON_S if by_json else _IN_FILE_S
        self._over, self._watchdog = threading.Event(), Watchdog()
        self._thread = threading.Thread(target=self._speak, name="report", daemon=True)

    def __enter__(self) -> StreamReport:
        status = self._monitor.status()
        _LOG.info("%s through %s", ", ".join(camera.name for camera in status.cameras), status.engine)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def print_summary(self, remarks: Sequence[str | None], files: Sequence[str]) -> None:
        """Print what the recordings had to say, the table, and the files that were written."""
        for remark in filter(None, remarks):
            print(remark)
        status = self._monitor.status()
        print(summary(status))
        for file in files:
            print(f"wrote {file}")

    def _speak(self) -> None:
        spoken, next_s = False, time.monotonic() + self._pause_s
        while not self._over.wait(_LOOK_S):
            self._watchdog.advance(self._monitor.inferred)
            if time.monotonic() < next_s:
                continue
            next_s += self._pause_s
            line = _line(self._monitor.status())
            notify_status(line)
            if self._in_place:
                print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)  # K: what is left of a longer line goes
                spoken = True
            else:
                _LOG.info("%s", line)
        if spoken:
            print(file=sys.stderr)


def summary(status: StreamStatus) -> str:
    """Return the table at the end: frames, their loss, and percentiles of each stage and of each sink's age of frames, milliseconds."""
    rate = status.inferred / status.seconds if status.seconds else 0.0
    lines = [f"{status.inferred} frames in {status.seconds:.1f} s, {rate:.1f} frames/s, {_losses(status)}"]
    if status.inferred:
        rows = {**status.stage_ms, **{f"age {sink.name}": sink.age_ms for sink in status.sinks if sink.written}}
        width = max(12, *(len(name) + 1 for name in rows))
        lines.append(f"{'ms':{width}}" + "".join(f"{f'p{percent}':>9}" for percent in PERCENTS))
        lines += [f"{name:{width}}" + "".join(f"{value:9.2f}" for value in values) for name, values in rows.items()]
    if len(status.cameras) > 1:
        lines += [f"{camera.name}: {camera.captured} captured, {camera.dropped} dropped, {camera.failed} failed, "
                  f"{camera.reconnects} reconnects, {camera.state.value}" for camera in status.cameras]  # fmt: skip
    lines += [
        f"{sink.name}: {sink.written} written, {sink.dropped} dropped, {sink.failed} failed"
        for sink in status.sinks if sink.dropped or sink.failed
    ]  # fmt: skip
    return "\n".join(lines)


def _line(status: StreamStatus) -> str:
    latency = "/".join(f"{value:.1f}" for value in status.stage_ms.get("latency", (0.0, 0.0, 0.0)))
    away = [f"   {camera.name} {camera.state.value}" for camera in status.cameras if camera.state is not CameraState.RUNNING]
    return f"{status.rate:6.1f} frames/s   latency p50/p95/p99 {latency} ms   {status.inferred} frames, {_losses(status)}{''.join(away)}"


def _losses(status: StreamStatus) -> str:
    dropped = sum(camera.dropped for camera in status.cameras)
    failed = sum(camera.failed for camera in status.cameras) + status.failed
    reconnects = sum(camera.reconnects for camera in status.cameras)
    return f"{dropped} dropped" + (f", {failed} failed" if failed else "") + (f", {reconnects} reconnects" if reconnects else "")
