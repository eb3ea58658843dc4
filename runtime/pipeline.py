"""The stream: camera -> letterbox -> engine -> boxes in frame pixels -> filter -> sinks, until it ends or is ended."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType

from retinanet_edge.runtime.camera import DEFAULT_FPS, DEMO, Camera, open_camera
from retinanet_edge.runtime.detector import Detector
from retinanet_edge.runtime.engine import Engine
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_folder import DEFAULT_MODEL
from retinanet_edge.runtime.sinks import FrameResult, JsonlSink, Sink, WindowSink, check_output
from retinanet_edge.runtime.stream_report import StreamReport
from retinanet_edge.runtime.video_sink import VideoSink

_DEMO_FRAMES = 300  # the demo's scenes have no end of their own


@dataclass(frozen=True)
class StreamOptions:
    """What to stream. camera: see camera.open_camera. frames: None for all. The rest: see Detector and the sinks."""

    camera: str
    model: Path = DEFAULT_MODEL
    engine: str | Engine = "auto"
    threshold: float = 0.5
    classes: tuple[str, ...] | None = None
    video: Path | None = None
    jsonl: Path | None = None
    frames: int | None = None
    fps: float = DEFAULT_FPS
    window: bool = True


def stream(options: StreamOptions) -> None:
    """Stream until the camera ends, `frames` are done, the window is closed, or SIGINT or SIGTERM comes.

    What a user may have got wrong is found in order of cost: outputs, camera, classes, model, then the engine, which may take long to
    load. Outputs are closed and the summary is printed however it ends. Raises UserInputError for all of these and for a full disk,
    RetinaNetEdgeError where the camera goes away, KeyboardInterrupt after a signal.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # before OpenCV is first imported: our own messages say it all
    _check_outputs(options)
    limit = _DEMO_FRAMES if options.frames is None and options.camera == DEMO else options.frames
    report = StreamReport()
    with (
        open_camera(options.camera, options.fps) as camera,
        Detector(options.model, options.engine, options.threshold, only=options.classes) as detector,
        _stopping_on_signals(camera) as signals,
    ):
        print(f"{camera.name} through {detector.engine.name}", file=sys.stderr)
        try:
            with ExitStack() as stack:
                run(camera, detector, _open_sinks(options, camera, stack), report, limit)
        finally:
            _print_summary(report, camera, options)
        if signals:
            raise KeyboardInterrupt


def run(camera: Camera, detector: Detector, sinks: Sequence[Sink], report: StreamReport, limit: int | None = None) -> None:
    """Take `limit` frames (None: all) from the camera through the detector to every sink, and count them in the report."""
    report.start()
    asked = time.perf_counter()
    for frame in islice(camera.frames(), limit):
        given = time.perf_counter()
        found = detector.detect_timed([frame.image])
        detected = time.perf_counter()
        latency_ms = (detected - frame.arrived_s) * 1e3
        result = FrameResult(frame, found.detections[0], detector.classes, latency_ms)
        for sink in sinks:
            sink.write(result)
        done = time.perf_counter()
        stage_ms = {"wait": (given - asked) * 1e3, **found.stage_ms, "output": (done - detected) * 1e3}
        report.add(latency_ms, stage_ms, camera.dropped)
        asked = done


def _check_outputs(options: StreamOptions) -> None:
    if options.video and options.video.suffix.lower() != ".mp4":
        raise UserInputError(f"--video must end in .mp4, got {options.video}")
    outputs = {"--video": options.video, "--jsonl": options.jsonl}
    for flag, path in outputs.items():
        if path is None:
            continue
        check_output(path, flag)
        if path.exists() and Path(options.camera).exists() and path.samefile(options.camera):
            raise UserInputError(f"{flag} must not be what --camera reads, got {path}: name another file")
    if options.video and options.jsonl and options.video.absolute() == options.jsonl.absolute():
        raise UserInputError(f"--video and --jsonl must be two files, got {options.video} for both")


def _open_sinks(options: StreamOptions, camera: Camera, stack: ExitStack) -> list[Sink]:
    sinks: list[Sink] = []
    if options.video:
        sinks.append(VideoSink(options.video, camera.fps))
    if options.jsonl:
        sinks.append(JsonlSink(options.jsonl))
    if options.window:
        try:
            sinks.append(WindowSink(camera.stop))
        except UserInputError as obstacle:
            if not sinks:
                print(obstacle, file=sys.stderr)
    for sink in sinks:
        stack.callback(sink.close)
    return sinks


def _print_summary(report: StreamReport, camera: Camera, options: StreamOptions) -> None:
    report.end()
    if camera.remark:
        print(camera.remark)
    print(report.table())
    for path in (options.video, options.jsonl):
        if path is not None and report.frames:
            print(f"wrote {path}")


@contextmanager
def _stopping_on_signals(camera: Camera) -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM stop the camera, so that the frame at hand reaches every sink. Gives the list of signals that came.

    A second one has its usual effect, should the first take too long.
    """
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        camera.stop()
        signal.signal(number, usual[signal.Signals(number)])

    usual = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
