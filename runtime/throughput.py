"""Frames per second of an engine when it always has work: over batch sizes, and over streams, each a thread with an engine of its own.

Frames are letterboxed before; what is timed is upload, network, post-processing and download. A TensorRT engine has as many batches in
flight as it takes, so that copies overlap with computing.
"""

from __future__ import annotations

import csv
import io
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.engine import Engine
from retinanet_edge.runtime.lane_tickets import Ticket
from retinanet_edge.runtime.power import Meter, Usage
from retinanet_edge.runtime.speed import figure
from retinanet_edge.runtime.tensorrt_engine import TensorRTEngine
from retinanet_edge.runtime.tensorrt_session import IN_FLIGHT

WARMUP_CALLS = 2 * IN_FLIGHT  # from its second use on, each set of buffers has its CUDA graph


@dataclass(frozen=True)
class Load:
    """What keeps the engines busy. batch: images of a call. streams: engines at once. calls: of each stream."""

    batch: int
    streams: int
    calls: int


@dataclass(frozen=True)
class Throughput:
    """What a load came to, from when all streams were warm until the last had ended.

    in_flight: batches that an engine had at once. usage: of the GPU meanwhile.
    """

    load: Load
    in_flight: int
    seconds: float
    usage: Usage

    @property
    def frames_per_second(self) -> float:
        """Frames of all streams together."""
        return self.load.batch * self.load.streams * self.load.calls / self.seconds


def some_batches(images: NDArray[np.uint8], batch: int, most: int = 8) -> list[NDArray[np.uint8]]:
    """Return the first few batches [batch, H, W, 3] of images [F, H, W, 3], which are gone through round and round."""
    order = itertools.cycle(range(len(images)))
    return [np.ascontiguousarray(images[list(itertools.islice(order, batch))]) for _ in range(most)]


def measure_throughput(open_engine: Callable[[int], Engine], images: NDArray[np.uint8], load: Load, meter: Meter) -> Throughput:
    """Return what `load` comes to on images uint8 [F, H, W, 3]. open_engine: opens another engine for a batch size.

    Raises what opening and running an engine raises, once every stream has ended.
    """
    ends: list[float] = []
    starts: list[float] = []
    in_flight: list[int] = []
    ready, given_up = some_batches(images, load.batch), threading.Event()
    all_warm = threading.Barrier(load.streams, action=lambda: starts.append(time.perf_counter()))

    def stream() -> None:
        ended = False
        try:
            with open_engine(load.batch) as engine:
                source = itertools.cycle(ready)
                _run(engine, itertools.islice(source, WARMUP_CALLS))
                all_warm.wait()
                _run(engine, itertools.takewhile(lambda _: not given_up.is_set(), itertools.islice(source, load.calls)))
                ends.append(time.perf_counter())
                in_flight.append(IN_FLIGHT if isinstance(engine, TensorRTEngine) else 1)
            ended = True
        finally:
            if not ended:
                given_up.set()
                all_warm.abort()  # those that wait for this one would do so for ever

    with ThreadPoolExecutor(load.streams, thread_name_prefix="stream") as pool:
        futures = [pool.submit(stream) for _ in range(load.streams)]
        try:
            errors = [future.exception() for future in futures]
        finally:
            given_up.set()
    for error in sorted((e for e in errors if e is not None), key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error  # the first cause, not that another stream has gone
    return Throughput(load, in_flight[0], max(ends) - starts[0], meter.over(starts[0], max(ends)))


def _run(engine: Engine, work: Iterator[NDArray[np.uint8]]) -> None:
    if not isinstance(engine, TensorRTEngine):
        for images in work:
            engine.infer(images)
        return
    tickets: list[Ticket] = []
    for images in work:
        if len(tickets) == IN_FLIGHT:
            engine.collect(tickets.pop(0))
        tickets.append(engine.submit(images))
    for ticket in tickets:
        engine.collect(ticket)


def throughput_table(points: Sequence[Throughput]) -> str:
    """Return what a person reads."""
    lines = ["throughput, letterboxed frames until their boxes are on the host",
             f"{'batch':>7}{'streams':>9}{'in flight':>11}{'frames/s':>12}{'GPU MiB':>10}{'watts':>8}"]  # fmt: skip
    for p in points:
        figures = f"{p.load.batch:>7}{p.load.streams:>9}{p.in_flight:>11}{p.frames_per_second:>12.1f}"
        lines.append(f"{figures}{figure(p.usage.memory_mib, 0) or '-':>10}{figure(p.usage.power_w, 1) or '-':>8}")
    return "\n".join(lines)


def throughput_csv(identity: dict[str, str], points: Sequence[Throughput]) -> str:
    """Return one row a load, each with `identity`: what ran and on what."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*identity, "batch", "streams", "in_flight", "calls", "seconds", "frames_per_second", "gpu_memory_mib", "power_w"])
    for p in points:
        load = [p.load.batch, p.load.streams, p.in_flight, p.load.calls * p.load.streams]
        results = [f"{p.seconds:.4f}", f"{p.frames_per_second:.3f}", figure(p.usage.memory_mib, 0), figure(p.usage.power_w, 1)]
        table.writerow([*identity.values(), *load, *results])
    return text.getvalue()
