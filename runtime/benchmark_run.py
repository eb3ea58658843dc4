"""What benchmark.py does: times of each stage, throughput over batch sizes and streams, and peers in turn; tables now, CSV files beside.

    <name>.csv               a row a stage (report_page.py shows it)
    <name>-throughput.csv    a row a batch size and number of streams
    <name>-peers.csv         a row a contender and batch size
"""

from __future__ import annotations

import datetime
import itertools
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detector import Detector
from retinanet_edge.runtime.engine import Engine, image_size, open_engine
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.model_card import ModelCard
from retinanet_edge.runtime.model_folder import find_model_folder, read_card, write_atomically
from retinanet_edge.runtime.peer_comparison import (
    Contender,
    Result,
    best_throughputs,
    compare,
    comparison_csv,
    comparison_table,
    engine_contender,
)
from retinanet_edge.runtime.peers import PeerError, PeerProcess, check_interpreter, peer_script
from retinanet_edge.runtime.power import gpu_of_tensorrt, open_meter
from retinanet_edge.runtime.speed import Speed, first_frames, measure_speed, runs_on_gpu, usual_name
from retinanet_edge.runtime.tensorrt_engine import TensorRTEngine
from retinanet_edge.runtime.throughput import (
    WARMUP_CALLS,
    Load,
    Throughput,
    measure_throughput,
    some_batches,
    throughput_csv,
    throughput_table,
)

PEERS = ("PyTorch eager", "torch.compile", "torchvision", "ONNX Runtime")  # benchmarks/peer_process.py has them


@dataclass(frozen=True)
class PeerOptions:
    """How peers are timed. python: interpreter that they run in. timeout_s: the longest that one may take for an answer."""

    python: Path = Path(sys.executable)
    rounds: int = 10
    calls: int = 5
    timeout_s: float = 900.0


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure. image: file or folder to take frames from, None for generated scenes. csv: a file, or a folder for the usual name.

    batches, streams: of the throughput, which is left out where both are empty; peers run at each of `batches`, or else at `batch`.
    """

    model: Path
    engine: str = "auto"
    frames: int = 100
    warmup: int = 10
    batch: int = 1
    image: Path | None = None
    csv: Path | None = None
    batches: tuple[int, ...] = ()
    streams: tuple[int, ...] = ()
    peers: PeerOptions | None = None


@dataclass(frozen=True)
class Subject:
    """What is measured: a model folder, its card, which engine of it, and frames uint8 [H, W, 3]."""

    folder: Path
    card: ModelCard
    choice: str
    on_gpu: bool
    frames: list[NDArray[np.uint8]]

    def open(self, batch: int) -> Engine:
        """Open another engine like the one that was timed first."""
        return open_engine(self.folder, self.card, self.choice, max_batch=batch)

    def images(self, height: int, width: int) -> NDArray[np.uint8]:
        """Return the frames letterboxed, uint8 [F, height, width, 3]."""
        return np.stack([Letterbox(frame.shape[0], frame.shape[1], height, width).apply(frame) for frame in self.frames])


def run_benchmark(options: BenchmarkOptions) -> None:
    """Measure, print a table of each part as soon as it is there, and write the CSV files.

    Raises UserInputError for what a Detector refuses, a batch larger than the engine takes, a place for the CSV or an interpreter that
    are not there; EngineError where an engine fails. A peer that cannot be had is a row that says why.
    """
    _check_place(options.csv)
    if options.peers is not None:
        peer_script()
        check_interpreter(options.peers.python, min(60.0, options.peers.timeout_s))
    speed, subject = _time_stages(options)
    print(speed.table(), flush=True)
    file = options.csv / usual_name(speed) if options.csv is not None and options.csv.is_dir() else options.csv
    write = _writer(file)
    write("", speed.to_csv())
    identity = {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(), "engine": speed.engine, "precision": speed.precision,
        "machine": speed.machine, "backend": speed.backend,
    }  # fmt: skip
    if options.batches or options.streams:
        points = _measure_throughputs(subject, options)
        print(f"\n{throughput_table(points)}", flush=True)
        write("-throughput", throughput_csv(identity, points))
    if options.peers is not None:
        comparisons = []
        for batch in options.batches or (options.batch,):
            comparisons.append(compare_with_peers(subject, batch, options.peers))
            print(f"\n{comparison_table(comparisons[-1])}", flush=True)
        if len(comparisons) > 1:
            print(f"\n{best_throughputs(comparisons)}")
        write("-peers", comparison_csv(identity, comparisons))


def _check_place(csv: Path | None) -> None:
    if csv is not None and not csv.is_dir() and not csv.parent.is_dir():  # said now, not when all has been timed
        raise UserInputError(f"--csv must be a folder, or in a folder that exists, got {csv}: make {csv.parent} first")


def _writer(file: Path | None) -> Callable[[str, str], None]:
    """Return what writes text beside `file`, under its name with an ending; where that is None, what writes nothing."""

    def write(ending: str, text: str) -> None:
        if file is not None:
            write_atomically(file.with_name(f"{file.stem}{ending}{file.suffix}"), text.encode())

    return write


def _time_stages(options: BenchmarkOptions) -> tuple[Speed, Subject]:
    folder = find_model_folder(options.model)
    frames = first_frames(options.image)
    with open_meter(gpu_of_tensorrt()) as meter, Detector(folder, options.engine, max_batch=options.batch) as detector:
        engine = detector.engine
        on_gpu = runs_on_gpu(engine.backend)
        _check_batch(engine, "--batch", options.batch)
        if on_gpu:  # the CPU backend compiles for any
            _check_batch(engine, "--batches", max(options.batches, default=1))
        speed = measure_speed(detector, frames, options.frames, options.warmup, options.batch, meter)
        choice = engine.file.name if on_gpu else engine.precision  # "auto" might take another for another batch
    return speed, Subject(folder, read_card(folder), choice, on_gpu, frames)


def _check_batch(engine: Engine, flag: str, batch: int) -> None:
    if batch > engine.max_batch:
        raise UserInputError(f"{flag} must be at most {engine.max_batch} for {engine.name}, got {batch}")


def _measure_throughputs(subject: Subject, options: BenchmarkOptions) -> list[Throughput]:
    points = []
    for batch, streams in itertools.product(options.batches or (options.batch,), options.streams or (1,)):
        with open_meter(gpu_of_tensorrt() if subject.on_gpu else None) as meter:
            with subject.open(batch) as engine:
                images = subject.images(*image_size(engine, subject.card))
            load = Load(batch, streams, calls=-(-options.frames // batch))
            points.append(measure_throughput(subject.open, images, load, meter))
    return points


def compare_with_peers(subject: Subject, batch: int, options: PeerOptions) -> list[Result]:
    """Return ours first, then, on TensorRT, ours without CUDA graphs, then the peers, all on the same frames in batches of `batch`."""
    with ExitStack() as stack:
        engines = _own_engines(subject, batch)
        contenders = []
        for name, engine in engines.items():
            stack.enter_context(engine)
            contenders.append(engine_contender(name, engine, some_batches(subject.images(*image_size(engine, subject.card)), batch)))
            contenders[-1].take(WARMUP_CALLS)
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "images.npy"
        network_input = subject.card.input
        np.save(file, np.stack(some_batches(subject.images(network_input.height, network_input.width), batch)))
        wanted = {"model": str(subject.folder), "images": str(file), "batch": batch, "on_gpu": subject.on_gpu}
        contenders += [start_peer(stack, name, wanted, options) for name in PEERS]
        return compare(contenders, options.rounds, options.calls)


def _own_engines(subject: Subject, batch: int) -> dict[str, Engine]:
    ours = subject.open(batch)
    if not isinstance(ours, TensorRTEngine):
        return {"ours": ours}
    record = next(record for record in subject.card.engines if record.file == ours.file.name)
    return {"ours": ours, "ours, no CUDA graph": TensorRTEngine(ours.file, record, subject.card, graphs=False)}


def start_peer(stack: ExitStack, name: str, wanted: dict[str, object], options: PeerOptions) -> Contender:
    """Return a peer, ready and warm, that ends with `stack`; one that cannot be had raises PeerError when its turn comes."""
    process = stack.enter_context(PeerProcess([str(options.python), str(peer_script())], options.timeout_s))
    batch = wanted["batch"]
    assert isinstance(batch, int)
    try:
        return Contender(name, process.prepare({"peer": name, **wanted}), batch, process.run)
    except PeerError as error:
        process.close()
        return Contender(name, "", batch, _refusal(error))


def _refusal(error: PeerError) -> Callable[[int], list[float]]:
    def take(_: int) -> list[float]:
        raise error

    return take
