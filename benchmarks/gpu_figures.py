"""Measure what the TensorRT engines reach on this GPU, against PyTorch in the same run, and say which targets are reached.

ResNet-50 640x640 with 80 classes, ResNeXt-50 32x4d 800x800 with 264 (MLPerf's shape): random weights, whose speed is that of trained ones.
Each step (model, engines, figures) takes some minutes and is kept in --work: a run that was cut short goes on where it was.
"""

import argparse
import datetime
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from retinanet_edge.runtime.arguments import number, whole_number
    from retinanet_edge.runtime.errors import UserInputError, run_command
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[gpu]')", file=sys.stderr)
    sys.exit(2)

if TYPE_CHECKING:
    import numpy as np
    from gpu_targets import Part, Row
    from numpy.typing import NDArray

    from retinanet_edge.runtime.model_card import EngineRecord
    from retinanet_edge.runtime.peer_comparison import Contender, Result
    from retinanet_edge.runtime.tensorrt_engine import TensorRTEngine

HERE = Path(__file__).resolve().parent
WARMUP_CALLS = 5


@dataclass(frozen=True)
class Turns:
    """How contenders are timed. timeout_s: the longest that a peer may take for an answer."""

    python: Path
    rounds: int
    calls: int
    timeout_s: float


def main() -> None:
    """Parse the arguments, make what is missing, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("r50", "resnext50"), required=True, help="which network")
    parser.add_argument("--torch-python", type=Path, default=Path(sys.executable), metavar="PATH",
                        help="interpreter that has torch; default this one")  # fmt: skip
    parser.add_argument("--until", choices=("model", "engines", "figures"), default="figures", help="last step; default %(default)s")
    parser.add_argument("--work", type=Path, default=Path("build/gpu_figures"), metavar="DIR",
                        help="folder of models and engines, kept; default %(default)s")  # fmt: skip
    parser.add_argument("--batches", type=batches, default=(8, 32), metavar="N,...", help="besides batch 1; default 8,32")
    parser.add_argument("--rounds", type=whole_number(1), default=15, metavar="N", help="times that each has its turn; default %(default)s")
    parser.add_argument("--calls", type=whole_number(1), default=8, metavar="N", help="calls in a turn; default %(default)s")
    parser.add_argument("--peer-timeout", type=number(positive=True), default=300.0, metavar="SECONDS",
                        help="longest time for PyTorch to get ready; default %(default)g")  # fmt: skip
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="folder of the CSV file; default benchmarks")
    arguments = parser.parse_args()
    if not arguments.out.is_dir():
        raise UserInputError(f"--out must be a folder that exists, got {arguments.out}: make it first")
    if arguments.until != "model":
        check_gpu()
    from gpu_making import NETWORKS, build_engines, make_model

    network, folder = NETWORKS[arguments.part], arguments.work / arguments.part
    make_model(network, folder, arguments.torch_python)
    if arguments.until == "model":
        return
    engines = build_engines(folder, max(arguments.batches))
    if arguments.until == "figures":
        turns = Turns(arguments.torch_python, arguments.rounds, arguments.calls, arguments.peer_timeout)
        report(arguments.part, folder, engines, (1, *arguments.batches), turns, arguments.out)


def batches(text: str) -> tuple[int, ...]:
    """Return batch sizes from 2 on, in order."""
    return tuple(sorted({whole_number(2)(part) for part in text.split(",")}))


def check_gpu() -> None:
    """Raise UserInputError, saying what is missing, where no engine can be built."""
    from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason

    if (reason := tensorrt_unavailable_reason()) is not None:
        raise UserInputError(f"GPU figures need TensorRT, pycuda and an NVIDIA GPU, got {reason}: docs/gpu-checks.md has what they need")


def report(
    part: "Part", folder: Path, engines: "Mapping[tuple[str, int], EngineRecord]", sizes: Sequence[int], turns: Turns, out: Path
) -> None:
    """Measure, print tables, where the time goes and the targets, and write the CSV file."""
    from gpu_making import NETWORKS, run_python
    from gpu_targets import Row, csv_name, figures_of, rows_of, verdicts, where_time_goes, write_rows

    from retinanet_edge.runtime.model_folder import write_atomically
    from retinanet_edge.runtime.peer_comparison import comparison_table
    from retinanet_edge.runtime.tensorrt_library import this_machine

    if peers := NETWORKS[part].peers:
        run_python([str(turns.python), "-c", "import torch, torchvision, timm"])  # said now, not when all engines have had their turn
    machine, driver, comparisons = this_machine(), driver_version(), {}
    with clocks_meanwhile() as clocks:
        for batch in sizes:
            calls, alone = compare_calls(folder, engines, batch, turns, peers), compare_engines(folder, engines, batch, turns)
            comparisons[batch] = [*calls, *alone]
            tables = (f"\n{comparison_table(calls)}", f"\nengines on the GPU alone, {comparison_table(alone)}")
            print(*tables, where_time_goes(comparisons[batch]), sep="\n", flush=True)
        pipelined, usage = measure_pipelined(part, folder, engines, sizes)
    figures = figures_of(comparisons, pipelined)
    about = {"date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(), "gpu": machine.gpu, "driver": driver,
             "tensorrt": machine.tensorrt, "clocks": clocks.words() or "nvidia-smi does not say"}  # fmt: skip
    rows = [Row(part, name, 0, value, "") for name, value in about.items()]
    file = out / csv_name(machine.gpu, driver, machine.tensorrt)
    write_rows(file, part, [*rows, *rows_of(part, comparisons, figures), *usage], write_atomically)
    print("", *(f"{row.figure}, batch {row.batch}: {row.value or '-'} {row.unit}" for row in usage), sep="\n")
    print(f"\n{machine}, driver {driver}, {about['clocks']}", *verdicts(part, figures), f"wrote {file}", sep="\n")


def compare_calls(
    folder: Path, engines: "Mapping[tuple[str, int], EngineRecord]", batch: int, turns: Turns, peers: bool
) -> "list[Result]":
    """Return whole calls at a batch size, in turn on the same scenes: the engines, then PyTorch."""
    import numpy as np
    from gpu_targets import BOUNDED, COMPILED, EAGER, FP16, OURS, PLAIN

    from retinanet_edge.runtime.benchmark_run import PeerOptions, start_peer
    from retinanet_edge.runtime.peer_comparison import compare, engine_contender

    ready = ready_batches(folder, batch)
    with ExitStack() as stack:
        contenders = []
        for name, engine, graphs in ((OURS, OURS, True), (BOUNDED, BOUNDED, True), (PLAIN, OURS, False), (FP16, FP16, True)):
            if (record := engine_for(engines, engine, batch)) is not None:
                opened = stack.enter_context(open_record(folder, record, graphs=graphs))
                contenders.append(engine_contender(name, opened, ready))
                contenders[-1].take(WARMUP_CALLS)
        if peers:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "images.npy"
            np.save(file, np.stack(ready))
            wanted = {"model": str(folder.resolve()), "images": str(file), "batch": batch, "on_gpu": True}
            options = PeerOptions(turns.python, turns.rounds, turns.calls, turns.timeout_s)
            contenders += [start_peer(stack, name, wanted, options) for name in (EAGER, COMPILED)]
        return compare(contenders, turns.rounds, turns.calls)


def compare_engines(folder: Path, engines: "Mapping[tuple[str, int], EngineRecord]", batch: int, turns: Turns) -> "list[Result]":
    """Return the engines' own time at a batch size: with NMS of all candidates, of the best of each level, and without NMS."""
    from gpu_targets import BOUNDED, BOUNDED_ENGINE, ENGINE, HEADS_ENGINE, OURS

    from retinanet_edge.runtime.peer_comparison import compare

    ready = ready_batches(folder, batch)
    with ExitStack() as stack:
        contenders = []
        for name, engine in ((ENGINE, OURS), (BOUNDED_ENGINE, BOUNDED), (HEADS_ENGINE, HEADS_ENGINE)):
            record = engine_for(engines, engine, batch)
            assert record is not None
            contenders.append(engine_alone(name, stack.enter_context(open_record(folder, record)), ready))
            contenders[-1].take(WARMUP_CALLS)
        # Raw heads are gigabytes at a large batch, whose way to the host is not timed but takes seconds.
        return compare(contenders, *((turns.rounds, turns.calls) if batch == 1 else (min(5, turns.rounds), min(2, turns.calls))))


def engine_for(engines: "Mapping[tuple[str, int], EngineRecord]", name: str, batch: int) -> "EngineRecord | None":
    """Return the smallest engine of a name that takes a batch, None where there is none."""
    fitting = sorted(most for known, most in engines if known == name and most >= batch)
    return engines[name, fitting[0]] if fitting else None


def ready_batches(folder: Path, batch: int) -> "list[NDArray[np.uint8]]":
    """Return a few batches of generated scenes of the network's size."""
    from gpu_model import scenes

    from retinanet_edge.runtime.model_folder import read_card
    from retinanet_edge.runtime.throughput import some_batches

    card = read_card(folder)
    return some_batches(scenes(8, card.input.height, card.input.width), batch, most=4)


def open_record(folder: Path, record: "EngineRecord", *, graphs: bool = True) -> "TensorRTEngine":
    """Open an engine of the folder, whose hash is checked."""
    from retinanet_edge.runtime.model_folder import read_card
    from retinanet_edge.runtime.tensorrt_engine import TensorRTEngine

    return TensorRTEngine(folder / record.file, record, read_card(folder), graphs=graphs)


def engine_alone(name: str, engine: "TensorRTEngine", ready: Sequence[Any]) -> "Contender":
    """Return a contender whose milliseconds are those of the engine on the GPU, by CUDA's events, without copies."""
    from retinanet_edge.runtime.peer_comparison import Contender

    def take(calls: int) -> list[float]:
        return [engine.session.run({"images": ready[call % len(ready)]}).stage_ms["engine"] for call in range(calls)]

    return Contender(name, f"{engine.name}, {engine.precision.upper()}, on the GPU alone", len(ready[0]), take)


def measure_pipelined(
    part: "Part", folder: Path, engines: "Mapping[tuple[str, int], EngineRecord]", sizes: Sequence[int]
) -> "tuple[dict[int, float], list[Row]]":
    """Return the most samples/s at each batch size, copies overlapping with computing, and rows of that, of memory and of power."""
    from gpu_targets import BOUNDED, OURS, Row

    from retinanet_edge.runtime.power import gpu_of_tensorrt, open_meter
    from retinanet_edge.runtime.speed import figure
    from retinanet_edge.runtime.throughput import Load, measure_throughput

    best, rows = dict.fromkeys(sizes, 0.0), []
    for batch in sizes:
        images = ready_batches(folder, 8)[0]
        for name in (OURS, BOUNDED):
            record = engine_for(engines, name, batch)
            assert record is not None
            with open_meter(gpu_of_tensorrt()) as meter:
                load = Load(batch, streams=1, calls=max(50, 2000 // batch))
                found = measure_throughput(lambda _, record=record: open_record(folder, record), images, load, meter)
            best[batch] = max(best[batch], found.frames_per_second)
            rows += [Row(part, f"{name}, pipelined", batch, f"{found.frames_per_second:.1f}", "samples/s", "copies overlap with computing"),
                     Row(part, f"{name}, GPU memory", batch, figure(found.usage.memory_mib, 0), "MiB"),
                     Row(part, f"{name}, power", batch, figure(found.usage.power_w, 1), "W")]  # fmt: skip
    return best, rows


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Return the driver's version, "unknown" where the kernel does not say."""
    found = re.search(r"(\d+\.\d+(?:\.\d+)?)", file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1] if found else "unknown"


@dataclass(frozen=True)
class Clocks:
    """What nvidia-smi said again and again: lines of SM clock, the highest it may have, and memory clock, MHz."""

    lines: list[str]

    def words(self) -> str:
        """Return the medians in words, "" for none."""
        read = [[float(part) for part in line.split(",")] for line in self.lines if re.fullmatch(r"(\s*\d+\s*,){2}\s*\d+\s*", line)]
        if not read:
            return ""
        sm, highest, memory = (statistics.median(column) for column in zip(*read, strict=True))
        return f"SM clock {sm:.0f} of {highest:.0f} MHz, memory {memory:.0f} MHz (medians of {len(read)})"


@contextmanager
def clocks_meanwhile() -> Iterator[Clocks]:
    """Give clocks that are filled when the block ends, of what nvidia-smi said meanwhile; of nothing where it is not there."""
    tool, clocks = shutil.which("nvidia-smi"), Clocks([])
    if tool is None:
        yield clocks
        return
    query = [tool, "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem", "--format=csv,noheader,nounits", "--id=0", "--loop-ms=500"]
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(query, stdout=said, stderr=subprocess.DEVNULL) as process:
        try:
            yield clocks
        finally:
            process.terminate()
            process.wait()
            said.seek(0)
            clocks.lines.extend(said.read().splitlines())


if __name__ == "__main__":
    sys.exit(run_command(main))
