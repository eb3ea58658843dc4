"""What the stream costs beyond its engine: throughput against calling the engine in a loop, and the age of frames at a sink.

    python benchmarks/stream_overhead.py [--csv FILE]

The engine takes a fixed 20 ms and finds nothing. Recordings show throughput (target: at least 95 % of the loop's); live cameras show how
old a frame is when a sink has it (target: at most one frame of the engine later than the loop's own).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import platform
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retinanet_edge.runtime.camera import SourceImage
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.engine import Inference
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, ModelCard, NetworkSpec
from retinanet_edge.runtime.model_folder import write_card
from retinanet_edge.runtime.source_address import NamedSource
from retinanet_edge.runtime.stream_options import OutputOptions, StreamOptions
from retinanet_edge.runtime.stream_run import stream
from retinanet_edge.runtime.stream_status import StreamStatus
from retinanet_edge.runtime.supervised_camera import SupervisedCamera

ENGINE_S, FRAMES, SIZE = 0.020, 500, 640


class FixedEngine:
    """Takes 20 ms for a call, whatever it is given."""

    name, backend, precision, file, frame_size = "fixed 20 ms", "none", "fp32", Path("fixed"), None

    def __init__(self, max_batch: int = 1) -> None:
        self.max_batch = max_batch

    def infer(self, images):
        time.sleep(ENGINE_S)
        return Inference([Detections.empty() for _ in images], {"network": ENGINE_S * 1e3})

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class CheapSource:
    """Gives one image again and again, with a number in it: live at 100 frames a second, or as a recording as fast as it is asked."""

    def __init__(self, live: bool) -> None:
        self.name, self.live, self.fps = "cheap", live, 100.0
        self._image = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)

    def images(self):
        start = time.perf_counter()
        for index in itertools.count():
            if self.live:
                time.sleep(max(0.0, start + index / self.fps - time.perf_counter()))
            image = self._image.copy()
            image[0, 0] = index % 256, index // 256 % 256, 0
            yield SourceImage(image)


@dataclass(frozen=True)
class Row:
    what: str
    frames_per_second: float
    ratio: float
    age_p50_ms: float
    age_p99_ms: float


def loop_rate() -> float:
    engine, images = FixedEngine(), np.zeros((1, SIZE, SIZE, 3), np.uint8)
    start = time.perf_counter()
    for _ in range(FRAMES):
        engine.infer(images)
    return FRAMES / (time.perf_counter() - start)


def live_loop() -> Row:
    """Take the newest frame, call the engine, again and again in one thread: what the stream's ages compare with."""
    ready, engine, images, ages = threading.Event(), FixedEngine(), np.zeros((1, SIZE, SIZE, 3), np.uint8), []
    camera = SupervisedCamera("loop", CheapSource(True), frame_ready=ready)
    start = time.perf_counter()
    while len(ages) < FRAMES:
        ready.clear()
        if frame := camera.take():
            engine.infer(images)
            ages.append((time.perf_counter() - frame.arrived_s) * 1e3)
        else:
            ready.wait(1)
    rate = FRAMES / (time.perf_counter() - start)
    camera.close()
    return Row("live camera, 100 frames/s, engine in a loop", rate, 1.0, float(np.percentile(ages, 50)), float(np.percentile(ages, 99)))


def measured(what: str, live: bool, count: int, model: Path, outputs: OutputOptions, loop: float, max_batch: int = 1) -> Row:
    seen: list[StreamStatus] = []
    cameras = tuple(NamedSource(f"camera {index}", CheapSource(live)) for index in range(count))
    options = StreamOptions(cameras, model=model, engine=FixedEngine(max_batch), frames=FRAMES * max_batch, outputs=outputs)
    stream(options, at_end=seen.append)
    status = seen[0]
    rate = status.inferred / status.seconds / max_batch
    ages = next((sink.age_ms for sink in status.sinks), (float("nan"),) * 3)
    return Row(what, rate, rate / loop, ages[0], ages[2])


def write_model(folder: Path) -> Path:
    folder.mkdir()
    write_card(folder, ModelCard(
        classes=("thing",), input=InputSpec(SIZE, SIZE, (0.0,) * 3, (1.0,) * 3), anchors=AnchorSpec((8,), (16.0,), (1.0,), (1.0,)),
        network=NetworkSpec("none", 1, 1, 0, "none"),
    ))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="file for the results; default none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        model, loop = write_model(folder / "model"), loop_rate()
        lines = OutputOptions(jsonl=folder / "a.jsonl", window=False)
        video = OutputOptions(video=folder / "a.mp4", jsonl=folder / "b.jsonl", window=False)
        rows = [
            Row("engine in a loop", loop, 1.0, ENGINE_S * 1e3, ENGINE_S * 1e3),
            measured("recording, JSON lines", False, 1, model, lines, loop),
            measured("recording, JSON lines and video", False, 1, model, video, loop),
            live_loop(),
            measured("live camera, 100 frames/s, JSON lines", True, 1, model, lines, loop),
            measured("live camera, 100 frames/s, JSON lines and video", True, 1, model, video, loop),
            measured("4 live cameras in batches of 4", True, 4, model, lines, loop, 4),
        ]
    for row in rows:
        print(f"{row.what:50} {row.frames_per_second:7.2f}/s {row.ratio:7.3f}   age p50 {row.age_p50_ms:6.1f} p99 {row.age_p99_ms:6.1f} ms")
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["what", "calls_per_second", "ratio", "age_p50_ms", "age_p99_ms", "machine"])
            for row in rows:
                figures = (row.frames_per_second, row.ratio, row.age_p50_ms, row.age_p99_ms)
                writer.writerow([row.what, *(f"{figure:.3f}" for figure in figures), platform.machine()])


if __name__ == "__main__":
    main()
