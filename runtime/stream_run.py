"""A stream from its options to its end: open everything, run the pipeline, tell how it goes, close, and begin anew on SIGHUP."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import FrameType

from retinanet_edge.runtime.camera import CameraState
from retinanet_edge.runtime.detector import Detector
from retinanet_edge.runtime.engine import Engine
from retinanet_edge.runtime.errors import RetinaNetEdgeError, UserInputError
from retinanet_edge.runtime.frame_analysis import Analysis
from retinanet_edge.runtime.frame_gather import FrameGather
from retinanet_edge.runtime.model_card import ModelCard
from retinanet_edge.runtime.model_folder import find_model_folder, read_card
from retinanet_edge.runtime.pipeline import Pipeline
from retinanet_edge.runtime.regions import check_regions
from retinanet_edge.runtime.service_notify import ready, reloading, stopping
from retinanet_edge.runtime.sink_runner import SinkRunner
from retinanet_edge.runtime.source_address import NamedSource, parse_source
from retinanet_edge.runtime.stream_log import stream_log
from retinanet_edge.runtime.stream_monitor import StreamMonitor
from retinanet_edge.runtime.stream_options import StreamOptions
from retinanet_edge.runtime.stream_report import StreamReport
from retinanet_edge.runtime.stream_sinks import StreamSinks, check_outputs
from retinanet_edge.runtime.stream_status import StreamStatus
from retinanet_edge.runtime.supervised_camera import SupervisedCamera
from retinanet_edge.runtime.tracker import DEFAULT_LOST_S

_LOG = logging.getLogger("retinanet_edge.stream")
_CAMERA_LOG = logging.getLogger("retinanet_edge.camera")
_DEMO = "demo"
_DEMO_FRAMES = 300  # the demo's scenes have no end of their own
_FIRST_CHECK_S = 0.05
_LOST_FRAMES = 5  # after so many frames without it a thing has gone, with slow cameras, whose tracks would end between any two


def stream(
    options: StreamOptions,
    read_again: Callable[[], StreamOptions] | None = None,
    at_end: Callable[[StreamStatus], None] = lambda _: None,
) -> None:
    """Stream until every camera has ended, `frames` are done, the window is closed, or SIGINT or SIGTERM comes.

    read_again: gives the options to go on with after SIGHUP; None: SIGHUP has its usual effect. at_end: is given the last status.
    Raises UserInputError for what the user got wrong, RetinaNetEdgeError where every camera is given up or the engine fails,
    KeyboardInterrupt after SIGINT or SIGTERM.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # before OpenCV is first imported: our own messages say it all
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's hold addresses with their passwords
    next_options: StreamOptions | None = options
    proven: StreamOptions | None = None  # with which a stream has run
    with _Signals(read_again is not None) as signals:
        while next_options is not None and not signals.ended:
            with stream_log(next_options.log), ExitStack() as stack:
                try:
                    running = _open(stack, next_options, signals, wait=next_options.wait_for_cameras or next_options is proven)
                except RetinaNetEdgeError as error:
                    if next_options is proven or proven is None:
                        raise
                    _LOG.error("the new configuration cannot be followed, the one before goes on: %s", error)
                    next_options = proven
                    continue
                next_options = running.run(signals, read_again)
                proven = running.options
                at_end(running.status())
            if next_options is None and not signals.ended:
                running.raise_failure()
        if signals.ended:
            raise KeyboardInterrupt


def _checked(options: StreamOptions) -> tuple[list[NamedSource], ModelCard]:
    """Return sources and card. Raises UserInputError for what can be seen to be wrong while nothing is open yet."""
    check_outputs(options)
    named = _named_sources(options)
    check_regions(options.lines, options.zones, [one.name for one in named])
    card = read_card(find_model_folder(options.model))
    options.filter.resolved(card.classes, card.nms.score_threshold)
    return named, card


def _open(stack: ExitStack, options: StreamOptions, signals: _Signals, wait: bool) -> _Running:
    """Open cameras, engine and outputs, which the stack closes. wait: for cameras that are not there."""
    named, card = _checked(options)
    frame_ready = threading.Event()
    with ExitStack() as starting:
        if not wait:
            starting.enter_context(_quiet(_CAMERA_LOG))
        cameras_open = starting.enter_context(ExitStack())
        cameras: list[SupervisedCamera] = []
        for one in named:
            camera = SupervisedCamera(
                one.name, one.source, options.limits, frame_ready=frame_ready, others_run=partial(_another_runs, cameras, one.name)
            )
            cameras_open.callback(camera.close)
            cameras.append(camera)
        cameras_open.callback(_stop_all, cameras)  # at once: each may take its time to close
        if not wait:
            _wait_for_first(cameras, signals)
        stack.push(cameras_open.pop_all())
    batch = _batch(options.engine, card, len(cameras))
    detector = stack.enter_context(Detector(options.model, options.engine, 0.0, max_batch=batch))
    for warning in options.filter.resolved(card.classes, card.nms.score_threshold).warnings:
        _LOG.warning("%s", warning)
    running = _Running(options, cameras, frame_ready, detector, card.nms.score_threshold)
    stack.callback(running.close)
    running.serve()
    return running


class _Running:
    """A stream whose cameras and engine are open."""

    def __init__(
        self, options: StreamOptions, cameras: list[SupervisedCamera], frame_ready: threading.Event, detector: Detector,
        least_threshold: float,
    ) -> None:  # fmt: skip
        self.options, self._cameras = options, cameras
        analyses = {
            camera.name: Analysis(
                detector.classes, least_threshold, options.filter,
                tracking=options.track, lines=options.lines, zones=options.zones, camera=camera.name,
                lost_s=max(DEFAULT_LOST_S, _LOST_FRAMES / camera.fps),
            )
            for camera in cameras
        }  # fmt: skip
        self._gather = FrameGather(cameras, frame_ready, detector.max_batch)
        self.runners: list[SinkRunner] = []
        self._monitor = StreamMonitor(
            options.model.name, detector.engine.name, detector.classes, least_threshold,
            cameras, self.runners, list(analyses.values()),
        )  # fmt: skip
        self._pipeline = Pipeline(self._gather, detector, analyses, self.runners, self._monitor)
        self._sinks = StreamSinks(options, cameras, self._monitor, self._gather.stop)
        self.runners += self._sinks.runners

    def serve(self) -> None:
        """Serve the page, if there is one. Raises UserInputError where it cannot be."""
        self._sinks.start()

    def run(self, signals: _Signals, read_again: Callable[[], StreamOptions] | None) -> StreamOptions | None:
        """Run to the end, and return the options to go on with after a SIGHUP that the stream cannot follow as it is."""
        changed: list[StreamOptions] = []

        def reload() -> None:
            reloading()
            if (options := self._read(read_again)) is not None:
                changed.append(options)
                self._gather.stop()
            ready()

        limit = self.options.frames or (_DEMO_FRAMES if self.options.cameras == (_DEMO,) else None)
        report = StreamReport(self._monitor, by_json=self.options.log == "json")
        self._monitor.start()
        self._gather.skip_waiting()
        with signals.handled_by(self._gather.stop, reload), report:
            ready()
            try:
                self._pipeline.run(limit)
            finally:
                self._monitor.end()
                _stop_all(self._cameras)
                if not changed:
                    stopping()
                self._sinks.close()
        report.print_summary([camera.remark for camera in self._cameras], self._sinks.files())
        return changed[-1] if changed else None

    def close(self) -> None:
        """Finish the outputs; may be called twice."""
        self._sinks.close()

    def status(self) -> StreamStatus:
        """Return how the stream is now."""
        return self._monitor.status()

    def raise_failure(self) -> None:
        """Raise what a supervisor or a script has to know: a camera given up, an output that died, results of a recording that
        could not be written."""
        for camera in self._cameras:
            if camera.error is not None:  # a live one ran: it is not what the user typed that is wrong
                raise RetinaNetEdgeError(f"camera {camera.name}: {camera.error}") if camera.live else camera.error
        if dead := [runner.status.name for runner in self.runners if runner.died]:
            raise RetinaNetEdgeError(f"{dead[0]} ended by an unexpected error, which stands above: start again, and report it")
        if any(camera.live for camera in self._cameras):
            return  # its results are for the moment, and what became of them has been counted
        for status in (runner.status for runner in self.runners):
            if status.failed and status.message:
                raise RetinaNetEdgeError(f"{status.name}: {status.failed} frames could not be written: {status.message}")

    def _read(self, read_again: Callable[[], StreamOptions] | None) -> StreamOptions | None:
        """Follow the configuration where only the filter differs; return other options, for which everything is opened anew."""
        if read_again is None:
            return None
        try:
            options = read_again()
            if replace(options, filter=self.options.filter) != self.options:
                _checked(options)
                return options
            self._monitor.change_filter(options.filter)
        except (RetinaNetEdgeError, OSError, ValueError) as error:  # in a signal handler, where nothing else may come out
            _LOG.error("the configuration is not read again: %s", error)
            return None
        self.options = options
        _LOG.info("the configuration is read again: thresholds and classes are as it says")
        return None


class _Signals:
    """SIGINT and SIGTERM stop the stream, so that frames at hand reach every sink; a second one has its usual effect. SIGHUP reloads."""

    def __init__(self, reloads: bool) -> None:
        self.ended = self._missed_reload = False
        self._numbers = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if reloads else [])
        self._stop: Callable[[], None] = lambda: None
        self._reload: Callable[[], None] = self._miss_reload

    def __enter__(self) -> _Signals:
        self._usual = {number: signal.signal(number, self._handle) for number in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)

    @contextmanager
    def handled_by(self, stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
        """Call these meanwhile."""
        before, self._stop, self._reload = (self._stop, self._reload), stop, reload
        try:
            if self.ended:
                stop()
            if self._missed_reload:
                self._missed_reload = False
                reload()
            yield
        finally:
            self._stop, self._reload = before

    def _miss_reload(self) -> None:
        self._missed_reload = True

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload()
            return
        self.ended = True
        self._stop()
        signal.signal(number, self._usual[signal.Signals(number)])


def _named_sources(options: StreamOptions) -> list[NamedSource]:
    named = [parse_source(camera, options.source) if isinstance(camera, str) else camera for camera in options.cameras]
    names = [one.name for one in named]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserInputError(f"every --camera must have a name of its own, got {twice[0]} twice: write --camera NAME=SOURCE")
    return named


def _another_runs(cameras: list[SupervisedCamera], name: str) -> bool:
    return any(camera.status.state is CameraState.RUNNING for camera in cameras if camera.name != name)


def _stop_all(cameras: list[SupervisedCamera]) -> None:
    for camera in cameras:
        camera.stop()


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep it from speaking: what goes wrong at the start is one line, the error that ends the command."""
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _wait_for_first(cameras: list[SupervisedCamera], signals: _Signals) -> None:
    """Wait until a camera gives a frame. Raises the error of the first where each of them has failed to open: most likely a wrong name."""
    waiting = threading.Event()
    while not any(camera.connected_once for camera in cameras):
        if signals.ended:
            raise KeyboardInterrupt
        failures = [camera.last_failure for camera in cameras]
        if failures[0] and all(failures):
            raise failures[0]
        if all(camera.status.state is CameraState.ENDED for camera in cameras):
            return
        waiting.wait(_FIRST_CHECK_S)
    for camera in cameras:
        if not camera.connected_once and camera.last_failure:
            _LOG.warning("camera %s does not open yet: %s", camera.name, camera.last_failure)


def _batch(engine: str | Engine, card: ModelCard, cameras: int) -> int:
    """Return how many frames are to go through the engine together: no more than cameras, or than an engine of the model takes."""
    if not isinstance(engine, str):
        return min(cameras, engine.max_batch)
    return min(cameras, max((record.max_batch for record in card.engines), default=1))
