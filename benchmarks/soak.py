"""A long stream with scripted faults: does memory grow, do threads or descriptors leak, does a frame get lost?

    python benchmarks/soak.py [--frames 100000] [--csv FILE]

First a recording, tracked, into JSON lines, CSV and MP4 segments that are rotated and pruned: every frame must be in the lines. Then
four live cameras that freeze, give None, change size, hang and go away, with the web page watched, a webhook that hangs and an MQTT
broker that is not there. The engine finds bright regions on NumPy.
Memory (RSS) counts in the second half of the time, when the allocator has settled; growth is the straight line through it.
"""

from __future__ import annotations

import argparse
import csv
import gc
import http.client
import itertools
import json
import os
import platform
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retinanet_edge.runtime.camera import RestartLimits, SourceImage, SourceOptions
from retinanet_edge.runtime.regions import parse_lines
from retinanet_edge.runtime.source_address import NamedSource, parse_source
from retinanet_edge.runtime.stream_options import OutputOptions, StreamOptions
from retinanet_edge.runtime.stream_run import stream

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.runtime.bright_engine import BrightEngine, bright_image, write_model

WARM_UP = 0.5  # of the time: with threads that come and go the allocator's arenas fill up for about three minutes


class SteadyEngine(BrightEngine):
    """The bright engine without its diary of calls, which is a leak of its own."""

    def infer(self, images):
        self.calls.clear()
        return super().infer(images)


class BrightSource:
    """A recording of `count` bright images, or, without a count, a live camera of 300 frames a second."""

    def __init__(self, count: int | None) -> None:
        self.name, self.live, self.fps, self._count = "bright", count is None, 300.0, count

    def images(self):
        for index in itertools.count() if self._count is None else range(self._count):
            if self.live:
                time.sleep(1 / self.fps)
            yield SourceImage(bright_image(index), index / self.fps)


class Watcher:
    """Samples memory, threads and descriptors of this process until it is stopped."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, int, int]] = []  # seconds, MiB, threads, descriptors
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self.samples.append((time.monotonic() - self._start, resident_mib(), threading.active_count(), descriptors()))


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@dataclass(frozen=True)
class Row:
    part: str
    frames: int
    seconds: float
    lost: int
    reconnects: int
    begin_mib: float
    growth_percent: float
    threads_before: int
    threads_after: int
    descriptors_before: int
    descriptors_after: int


def row(part: str, options: StreamOptions, lost, meanwhile=None) -> Row:
    gc.collect()
    before, seen = (threading.active_count(), descriptors()), []
    with Watcher() as watcher, meanwhile or nullcontext():
        stream(options, at_end=seen.append)
    gc.collect()
    status = seen[0]
    warm = [sample for sample in watcher.samples if sample[0] > WARM_UP * watcher.samples[-1][0]]
    seconds, mib = np.array([sample[0] for sample in warm]), np.array([sample[1] for sample in warm])
    slope, begin = np.polyfit(seconds - seconds[0], mib, 1)
    return Row(
        part, status.inferred, round(status.seconds, 1), lost(status), sum(camera.reconnects for camera in status.cameras),
        round(float(begin), 1),
        round(float(100 * slope * (seconds[-1] - seconds[0]) / begin), 2), before[0], threading.active_count(), before[1], descriptors(),
    )  # fmt: skip


def recording(folder: Path, frames: int) -> Row:
    outputs = OutputOptions(
        video=folder / "v.mp4", segment_seconds=20, jsonl=folder / "a.jsonl", csv=folder / "a.csv", rotate_mb=2, keep_gb=4,
        window=False,
    )  # fmt: skip
    options = StreamOptions(
        (NamedSource("recording", BrightSource(frames)),), model=folder / "model", engine=SteadyEngine(), outputs=outputs,
        track=True, lines=parse_lines(["gate=0.5,1,0.5,0"]),
    )  # fmt: skip

    def lost(_) -> int:
        given = {json.loads(line)["frame"] for file in folder.glob("a*.jsonl") for line in file.open()}
        return frames - len(given & set(range(frames)))

    return row("recording", options, lost)


def live(folder: Path, frames: int) -> Row:
    small = SourceOptions(size=(64, 48), fps=100)
    scripts = ("freeze@300+60,none@500+3,gone@700", "size@200+100,slow@400+20,gone@600", "block@900+300,gone@2000")
    cameras = [NamedSource("steady", BrightSource(None))]
    cameras += [parse_source(f"faulty{index}=demo:{script}", small) for index, script in enumerate(scripts)]
    hanging = socket.create_server(("127.0.0.1", 0))  # takes connections and never answers
    outputs = OutputOptions(
        jsonl=folder / "b.jsonl", rotate_mb=2, keep_gb=0.01, snapshots=folder / "pictures", window=False,
        webhook=f"http://127.0.0.1:{hanging.getsockname()[1]}/", mqtt="mqtt://me:secret@127.0.0.1:1/soak",
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = StreamOptions(
        tuple(cameras), model=folder / "model", engine=SteadyEngine(max_batch=4), outputs=outputs, frames=frames, web=str(port), track=True,
        limits=RestartLimits(stale_s=1.0, identical_frames=50, first_wait_s=0.1, longest_wait_s=0.5, restarts=None, healthy_s=0.5),
    )  # fmt: skip

    def lost(status) -> int:
        return status.inferred - sum(sink.written + sink.dropped + sink.failed for sink in status.sinks if sink.name == "jsonl")

    with hanging:
        return row("live, with faults", options, lost, viewer(f"http://127.0.0.1:{port}"))


@contextmanager
def viewer(url: str):
    """Look at the page meanwhile."""
    over = threading.Event()
    thread = threading.Thread(target=view, args=(url, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def view(url: str, over: threading.Event) -> None:
    """Look at the page as a person would, again and again, leaving in the middle."""
    while not over.wait(0.2):
        for path, amount in (("/stream.mjpg?camera=steady", 200_000), ("/status", 10_000), ("/metrics", 100_000), ("/", 100_000)):
            try:
                with urllib.request.urlopen(url + path, timeout=5) as answer:
                    answer.read(amount)
            except (OSError, http.client.HTTPException):
                pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000, help="of each part; default %(default)s")
    parser.add_argument("--csv", type=Path, help="file for the results; default none")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_model(folder / "model")
        for part in (recording, live):
            rows.append(part(folder, arguments.frames))
            print(rows[-1], flush=True)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*Row.__dataclass_fields__, "machine"])
            writer.writerows([*vars(one).values(), platform.machine()] for one in rows)


if __name__ == "__main__":
    main()
