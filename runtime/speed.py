"""How fast a model runs on this machine: the time of each stage over many calls, as a table and as CSV."""

from __future__ import annotations

import csv
import io
import itertools
import os
import platform
import re
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.camera import SourceOptions
from retinanet_edge.runtime.detector import Detector
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.power import NO_USAGE, Meter, Usage
from retinanet_edge.runtime.progress import track
from retinanet_edge.runtime.source_address import parse_source
from retinanet_edge.runtime.tensorrt_library import this_machine

_DIFFERENT_FRAMES = 16  # enough that no call finds its input in the cache, few enough to be held in memory
_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class StageTime:
    """Milliseconds of one stage of a call: half, 95 % and 99 % of the calls took at most so long."""

    stage: str
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Speed:
    """What was measured, on what, and the result. The last stage is the whole call, "total"; a call takes `batch` frames.

    usage: of the GPU meanwhile; its memory beyond what was in use before the engine was opened.
    """

    engine: str
    precision: str
    machine: str
    frame_size: str
    batch: int
    calls: int
    stages: tuple[StageTime, ...]
    frames_per_second: float
    backend: str = ""
    usage: Usage = NO_USAGE

    def table(self) -> str:
        """Return what a person reads."""
        header = f"{self.engine}, {self.precision}, on {self.machine}"
        sizes = f"{self.calls} calls of {self.batch} frames of {self.frame_size}, milliseconds a call"
        rows = [f"{'stage':<12}{'p50':>10}{'p95':>10}{'p99':>10}"]
        rows += [f"{s.stage:<12}{s.p50_ms:>10.2f}{s.p95_ms:>10.2f}{s.p99_ms:>10.2f}" for s in self.stages]
        figures = [f"{self.frames_per_second:.1f} frames per second"]
        figures += [f"{memory} MiB of GPU memory"] if (memory := figure(self.usage.memory_mib, 0)) else []
        figures += [f"{power} W"] if (power := figure(self.usage.power_w, 1)) else []
        return "\n".join([header, sizes, *rows, ", ".join(figures)])

    def to_csv(self) -> str:
        """Return one row a stage, each with everything needed to compare it with rows of other files."""
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["engine", "precision", "machine", "frame_size", "batch", "calls",
                        "stage", "p50_ms", "p95_ms", "p99_ms", "frames_per_second", "backend", "gpu_memory_mib", "power_w"])  # fmt: skip
        device = [self.backend, figure(self.usage.memory_mib, 0), figure(self.usage.power_w, 1)]
        for s in self.stages:
            figures = [f"{value:.3f}" for value in (s.p50_ms, s.p95_ms, s.p99_ms, self.frames_per_second)]
            table.writerow([self.engine, self.precision, self.machine, self.frame_size, self.batch, self.calls, s.stage, *figures, *device])
        return text.getvalue()


def measure_speed(detector: Detector, images: Sequence[NDArray[np.uint8]], frames: int, warmup: int, batch: int, meter: Meter) -> Speed:
    """Time `frames` frames, taken from `images` uint8 [H, W, 3] round and round, in calls of `batch`.

    The first `warmup` frames go through untimed. meter: of the GPU; what it says counts where the engine runs there.
    """
    source = itertools.cycle(images)
    for _ in range(-(-warmup // batch)):
        detector.detect(list(itertools.islice(source, batch)))
    start = time.perf_counter()
    calls = [
        _timed_call(detector, list(itertools.islice(source, batch))) for _ in track(range(-(-frames // batch)), "timing", "call")
    ]
    engine = detector.engine
    return Speed(
        engine.name, engine.precision, machine(engine.backend), f"{images[0].shape[0]}x{images[0].shape[1]}", batch, len(calls),
        summarize(calls), batch * len(calls) * 1e3 / sum(call["total"] for call in calls), engine.backend,
        meter.over(start, time.perf_counter()) if runs_on_gpu(engine.backend) else NO_USAGE,
    )  # fmt: skip


def summarize(calls: Sequence[dict[str, float]]) -> tuple[StageTime, ...]:
    """Return the percentiles of each stage, nearest rank: each is a time that was measured. calls: milliseconds by stage."""
    times = {stage: [call[stage] for call in calls] for stage in calls[0]}
    return tuple(
        StageTime(stage, *(float(p) for p in np.percentile(values, _PERCENTILES, method="inverted_cdf")))
        for stage, values in times.items()
    )


def machine(backend: str) -> str:
    """Return the processor and how many of its cores this process may use; for a TensorRT backend, before them, the GPU."""
    cores = len(os.sched_getaffinity(0))
    processor = f"{_processor()}, {cores} {'core' if cores == 1 else 'cores'}"
    return f"{this_machine().gpu}, {processor}" if runs_on_gpu(backend) else processor


def runs_on_gpu(backend: str) -> bool:
    """Say whether a backend, named as the card names it, runs on the GPU."""
    return backend.startswith("TensorRT")


def usual_name(speed: Speed) -> str:
    """Return the file name of a result: GPU or processor, TensorRT or other backend, precision."""
    hardware = this_machine().gpu if runs_on_gpu(speed.backend) else speed.machine
    parts = (re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in (hardware, speed.backend, speed.precision))
    return "_".join(parts) + ".csv"


def figure(value: float | None, digits: int) -> str:
    """Return a figure as text, "" for one that nobody could give."""
    return "" if value is None else f"{value:.{digits}f}"


def _processor() -> str:
    board, cpus = Path("/proc/device-tree/model"), Path("/proc/cpuinfo")
    if board.is_file():  # a Jetson: ARM names no processor in cpuinfo
        return board.read_text(encoding="utf-8").strip("\0\n ")
    for line in cpus.read_text(encoding="utf-8").splitlines() if cpus.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _timed_call(detector: Detector, frames: list[NDArray[np.uint8]]) -> dict[str, float]:
    start = time.perf_counter()
    stage_ms = detector.detect_timed(frames).stage_ms
    return {**stage_ms, "total": (time.perf_counter() - start) * 1e3}


def first_frames(image: Path | None) -> list[NDArray[np.uint8]]:
    """Return the first few frames of an image, video or folder, or of generated scenes.

    Raises UserInputError for what does not exist, CameraError for what does not decode.
    """
    if image is not None and not image.exists():
        raise UserInputError(f"--image must be an image, a video or a folder of images, got {image}, which does not exist")
    # An absolute path: a file named "0" is no camera.
    source = parse_source("demo" if image is None else str(image.resolve()), SourceOptions()).source
    with closing(source.images()) as images:
        return [given.image for given in itertools.islice(images, _DIFFERENT_FRAMES)]
