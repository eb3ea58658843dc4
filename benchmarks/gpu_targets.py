"""What gpu_figures.py is to reach, whether it did, and its results as CSV. Pure: asks no GPU."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retinanet_edge.runtime.peer_comparison import Result, ratio

Part = Literal["r50", "resnext50"]
OURS, PLAIN, BOUNDED, FP16 = "INT8", "INT8, no CUDA graph", "INT8, top-K", "FP16"
EAGER, COMPILED = "PyTorch eager", "torch.compile"
# Contenders whose time is that of the engine alone, on the GPU.
ENGINE, BOUNDED_ENGINE, HEADS_ENGINE = "INT8, engine", "INT8, top-K, engine", "INT8, no NMS, engine"


@dataclass(frozen=True)
class Target:
    """What a figure must at least or at most be. figures: by name; where there are several, one that reaches it is enough."""

    part: Part
    figures: tuple[str, ...]
    words: str
    relation: Literal[">=", "<="]
    limit: float

    def is_reached(self, value: float) -> bool:
        """Say whether a figure reaches it."""
        return value >= self.limit if self.relation == ">=" else value <= self.limit


TARGETS = (
    Target("r50", ("times_eager_batch1",), "times as fast as PyTorch eager FP16 with post-processing, batch 1", ">=", 8.0),
    Target("r50", ("engine_ms_batch1",), "ms of the engine, NMS included, batch 1", "<=", 1.0),
    Target("r50", ("times_plain",), "times as fast with a CUDA graph as without, batch 1", ">=", 1.0),
    Target("r50", ("times_eager_best",), "times the throughput of PyTorch eager FP16, channels last, each at its best batch", ">=", 2.5),
    Target("r50", ("times_compile_best",), "times the throughput of torch.compile, each at its best batch", ">=", 2.0),
    Target("r50", ("nms_percent", "nms_percent_top_k"), "% of the engine's time for NMS, all candidates or top-K, batch 1", "<=", 15.0),
    Target("resnext50", ("samples_per_s_best",), "samples/s at the best batch (MLPerf on an H200, TensorRT 10)", ">=", 1805.0),
    Target("resnext50", ("samples_per_s_best",), "samples/s at the best batch (MLPerf on an H100, TensorRT 8.5)", ">=", 960.0),
)


def verdicts(part: Part, figures: Mapping[str, float]) -> list[str]:
    """Return a line for each target of a part: reached or not, the figure, the target."""
    lines = []
    for target in TARGETS:
        if target.part != part:
            continue
        found = [figures[name] for name in target.figures if name in figures]
        if not found:
            lines.append(f"{'not measured':<13}{'-':>10} {target.relation} {target.limit:<7g} {target.words}")
            continue
        best = max(found) if target.relation == ">=" else min(found)
        word = "reached" if target.is_reached(best) else "not reached"
        lines.append(f"{word:<13}{best:>10.3f} {target.relation} {target.limit:<7g} {target.words}")
    return lines


def figures_of(comparisons: Mapping[int, Sequence[Result]], pipelined: Mapping[int, float]) -> dict[str, float]:
    """Return the figures that the targets are about, of what was measured. comparisons, pipelined (samples/s): by batch size."""
    at_one = {result.name: result for result in comparisons.get(1, ()) if not result.missing}
    figures = _of_batch_1(at_one)
    best = {name: _best(comparisons, names) for name, names in
            (("ours", (OURS, BOUNDED)), ("eager", (EAGER,)), ("compile", (COMPILED,)))}  # fmt: skip
    for peer in ("eager", "compile"):
        if best[peer] and best["ours"]:
            figures[f"times_{peer}_best"] = best["ours"] / best[peer]
            figures[f"{peer}_per_s_best"] = best[peer]
    if samples := max((best["ours"], *pipelined.values())):
        figures["samples_per_s_best"] = samples
    return figures


def _of_batch_1(results: Mapping[str, Result]) -> dict[str, float]:
    figures = {}
    pairs = {"times_eager_batch1": (EAGER, OURS), "times_compile_batch1": (COMPILED, OURS), "times_plain": (PLAIN, OURS)}
    for name, (theirs, ours) in pairs.items():
        if {theirs, ours} <= results.keys():
            figures[name] = ratio(results[theirs], results[ours]).median
    if ENGINE in results:
        figures["engine_ms_batch1"] = results[ENGINE].p50_ms
    for name, engine in (("nms_percent", ENGINE), ("nms_percent_top_k", BOUNDED_ENGINE)):
        if {HEADS_ENGINE, engine} <= results.keys():
            figures[name] = 100 * (1 - ratio(results[HEADS_ENGINE], results[engine]).median)
    return figures


def _best(comparisons: Mapping[int, Sequence[Result]], names: Sequence[str]) -> float:
    """Return the most frames per second that one of `names` has at any batch, 0 for none."""
    found = (result for results in comparisons.values() for result in results if result.name in names and not result.missing)
    return max((result.frames_per_second for result in found), default=0.0)


def where_time_goes(results: Sequence[Result]) -> str:
    """Return in words what of a call at a batch size is the network, NMS, and copies with what the host does; "" where that is unknown."""
    found = {result.name: result.p50_ms for result in results if not result.missing}
    parts = [f"network {found[HEADS_ENGINE]:.2f} ms"] if HEADS_ENGINE in found else []
    for call, engine in ((OURS, ENGINE), (BOUNDED, BOUNDED_ENGINE)):
        if engine in found and HEADS_ENGINE in found:
            parts.append(f"NMS of {call} {found[engine] - found[HEADS_ENGINE]:.2f} ms")
        if {call, engine} <= found.keys():
            parts.append(f"copies and host of {call} {found[call] - found[engine]:.2f} ms")
    return f"batch {results[0].batch}: {', '.join(parts)}" if parts else ""


def csv_name(gpu: str, driver: str, tensorrt: str) -> str:
    """Return gpu_figures_<gpu>_<driver>_trt<version>.csv."""
    parts = (re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") or "unknown" for part in (gpu, driver, f"trt{tensorrt}"))
    return f"gpu_figures_{'_'.join(parts)}.csv"


COLUMNS = ("part", "figure", "batch", "value", "unit", "what")


@dataclass(frozen=True)
class Row:
    """A figure of the file. batch: 0 where it is of no batch size. what: of which it is, in words."""

    part: Part
    figure: str
    batch: int
    value: str
    unit: str
    what: str = ""


def rows_of(part: Part, comparisons: Mapping[int, Sequence[Result]], figures: Mapping[str, float]) -> list[Row]:
    """Return the medians of all contenders, a reason for those that have none, and the figures."""
    rows = []
    for batch, results in comparisons.items():
        for result in results:
            value, what = ("", f"not measured: {result.missing}") if result.missing else (f"{result.p50_ms:.4f}", result.contents)
            rows.append(Row(part, result.name, batch, value, "ms", what))
    return rows + [Row(part, name, 0, f"{value:.4f}", "") for name, value in figures.items()]


def write_rows(file: Path, part: Part, rows: Sequence[Row], write: Callable[[Path, bytes], None]) -> None:
    """Write a part's rows, in place of its former ones; those of other parts in `file` stay."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    if file.is_file():
        with file.open(encoding="utf-8", newline="") as former:
            table.writerows([row[name] for name in COLUMNS] for row in csv.DictReader(former) if row["part"] != part)
    table.writerows([getattr(row, name) for name in COLUMNS] for row in rows)
    write(file, text.getvalue().encode())
