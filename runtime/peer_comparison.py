"""Our engine against others in the same run: each makes some calls in turn, round after round, so that what else the machine does slows
all of them alike. A call takes letterboxed images in the host's memory to boxes there.
"""

from __future__ import annotations

import csv
import io
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.engine import Engine
from retinanet_edge.runtime.peers import PeerError
from retinanet_edge.runtime.progress import Progress


@dataclass(frozen=True)
class Contender:
    """What is timed. take: makes so many calls and returns the milliseconds of each; raises PeerError. batch: images of a call."""

    name: str
    contents: str
    batch: int
    take: Callable[[int], list[float]]


@dataclass(frozen=True)
class Result:
    """What a contender came to. rounds: milliseconds of its calls in each round; empty where `missing` says why it has none."""

    name: str
    contents: str
    batch: int
    rounds: tuple[tuple[float, ...], ...] = ()
    missing: str = ""

    @property
    def calls_ms(self) -> list[float]:
        """Milliseconds of every call."""
        return [milliseconds for of_round in self.rounds for milliseconds in of_round]

    @property
    def p50_ms(self) -> float:
        """Median of all calls."""
        return statistics.median(self.calls_ms)

    @property
    def p95_ms(self) -> float:
        """What 95 % of the calls do not exceed, nearest rank."""
        return float(np.percentile(self.calls_ms, 95, method="inverted_cdf"))

    @property
    def least_ms(self) -> float:
        """The fastest call: what else the machine does touches it least."""
        return min(self.calls_ms)

    @property
    def frames_per_second(self) -> float:
        """Of the median call."""
        return self.batch * 1e3 / self.p50_ms


@dataclass(frozen=True)
class Ratio:
    """How many times as long one takes as another: median, least and most of the rounds' ratios of medians."""

    median: float
    least: float
    most: float


def compare(contenders: Sequence[Contender], rounds: int, calls: int) -> list[Result]:
    """Return a result for each contender, after `rounds` rounds of `calls` calls each, with one that does not count before them.

    One that fails is left out from then on.
    """
    times: list[list[tuple[float, ...]]] = [[] for _ in contenders]
    missing = [""] * len(contenders)
    with Progress("comparing", rounds * len(contenders), "turn") as progress:
        for _ in range(rounds):
            for index, contender in enumerate(contenders):
                if not missing[index]:
                    try:
                        # Not the first, which finds another's data in the caches and a GPU that has rested.
                        times[index].append(tuple(contender.take(calls + 1)[1:]))
                    except PeerError as error:
                        missing[index] = str(error)
                progress.advance()
    return [
        Result(c.name, c.contents, c.batch, () if why else tuple(of_rounds), why)
        for c, of_rounds, why in zip(contenders, times, missing, strict=True)
    ]


def ratio(theirs: Result, ours: Result) -> Ratio:
    """Return how many times as long `theirs` takes as `ours`, each round against the same one. Both have the same rounds."""
    pairs = zip(theirs.rounds, ours.rounds, strict=True)
    ratios = [statistics.median(of_theirs) / statistics.median(of_ours) for of_theirs, of_ours in pairs]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def engine_contender(name: str, engine: Engine, ready: Sequence[NDArray[np.uint8]]) -> Contender:
    """Return an engine of ours, run on batches [N, H, W, 3] in turn, each from the first at its turn, as peers run them."""

    def take(calls: int) -> list[float]:
        times = []
        for call in range(calls):
            start = time.perf_counter()
            engine.infer(ready[call % len(ready)])
            times.append((time.perf_counter() - start) * 1e3)
        return times

    return Contender(name, f"{engine.name}, {engine.precision.upper()}", len(ready[0]), take)


def comparison_table(results: Sequence[Result]) -> str:
    """Return what a person reads; the first result is ours, which the others are compared with."""
    ours = results[0]
    rounds, calls = len(ours.rounds), len(ours.rounds[0])
    lines = [f"in turn, {rounds} rounds of {calls} calls of {ours.batch} letterboxed frames until the boxes are on the host",
             f"{'':<22}{'p50 ms':>10}{'p95 ms':>10}{'least':>10}{'frames/s':>11}{'x ours':>9}{'least - most':>17}  what"]  # fmt: skip
    for result in results:
        if result.missing:
            lines.append(f"{result.name:<22}not measured: {result.missing}")
            continue
        times = ratio(result, ours)
        spread = f"{times.least:.2f} - {times.most:.2f}"
        calls_ms = "".join(f"{value:>10.2f}" for value in (result.p50_ms, result.p95_ms, result.least_ms))
        ratios = f"{times.median:>9.2f}{spread:>17}"
        lines.append(f"{result.name:<22}{calls_ms}{result.frames_per_second:>11.1f}{ratios}  {result.contents}")
    return "\n".join(lines)


def best_throughputs(comparisons: Iterable[Sequence[Result]]) -> str:
    """Return, for comparisons at several batch sizes, what each contender's best batch gives, and how many times that ours gives."""
    best: dict[str, Result] = {}
    for result in (result for results in comparisons for result in results if not result.missing):
        if result.name not in best or result.frames_per_second > best[result.name].frames_per_second:
            best[result.name] = result
    ours, lines = next(iter(best.values())), ["at the best batch of each"]
    for name, result in best.items():
        times = ours.frames_per_second / result.frames_per_second
        lines.append(f"{name:<22}{result.frames_per_second:>10.1f} frames/s at batch {result.batch}; ours gives {times:.2f} times that")
    return "\n".join(lines)


def comparison_csv(identity: dict[str, str], comparisons: Iterable[Sequence[Result]]) -> str:
    """Return one row a contender and batch, each with `identity`; what could not be measured has a reason and no figures."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*identity, "name", "contents", "batch", "rounds", "calls", "p50_ms", "p95_ms", "least_ms",
                    "frames_per_second", "times_ours", "times_ours_least", "times_ours_most", "not_measured"])  # fmt: skip
    for results in comparisons:
        ours = results[0]
        for result in results:
            figures: list[object] = [""] * 9
            if not result.missing:
                times = ratio(result, ours)
                values = (result.p50_ms, result.p95_ms, result.least_ms, result.frames_per_second, times.median, times.least, times.most)
                figures = [len(result.rounds), len(result.rounds[0]), *(f"{value:.3f}" for value in values)]
            table.writerow([*identity.values(), result.name, result.contents, result.batch, *figures, result.missing])
    return text.getvalue()
