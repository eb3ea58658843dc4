"""The sinks that a stream's options ask for, each behind its own queue, and the web page."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from retinanet_edge.runtime.camera import Camera
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.output_paths import check_output, check_output_folder
from retinanet_edge.runtime.rotation import KEEP_ALL, Keep, Rotation
from retinanet_edge.runtime.sink import Sink
from retinanet_edge.runtime.sink_runner import SinkRunner
from retinanet_edge.runtime.stream_options import OutputOptions, StreamOptions
from retinanet_edge.runtime.stream_status import StreamControl

_LOG = logging.getLogger("retinanet_edge.stream")
_WAITING = 8  # results of a queue: each may hold a plain and a drawn image
_FOR_EYES = ("window", "web")  # sinks that show the newest: nothing waits for them


def check_outputs(options: StreamOptions) -> None:
    """Raise UserInputError for outputs that could not be written, before anything costly is opened."""
    outputs = options.outputs
    files = {"--video": outputs.video, "--jsonl": outputs.jsonl, "--csv": outputs.csv}
    if outputs.video and outputs.video.suffix.lower() != ".mp4":
        raise UserInputError(f"--video must end in .mp4, got {outputs.video}")
    written: dict[Path, str] = {}
    for flag, path in files.items():
        if path is None:
            continue
        check_output(path, flag)
        if path.exists() and any(path.samefile(source) for source in _files_read(options)):
            raise UserInputError(f"{flag} must not be what --camera reads, got {path}: name another file")
        if (other := written.setdefault(path.absolute(), flag)) != flag:
            raise UserInputError(f"{other} and {flag} must be two files, got {path} for both")
    if outputs.snapshots:
        check_output_folder(outputs.snapshots, "--snapshots")
    for flag, needed, value in (
        ("--segment-seconds", "--video", outputs.segment_seconds and not outputs.video),
        ("--rotate-mb", "--jsonl or --csv", outputs.rotate_mb and not (outputs.jsonl or outputs.csv)),
        ("--keep-gb", "--rotate-mb, --video or --snapshots",
         outputs.keep_gb and not (outputs.rotate_mb or outputs.video or outputs.snapshots)),
        ("--mqtt-ca", "--mqtt", outputs.mqtt_ca and not outputs.mqtt),
        ("--webhook-token-file", "--webhook", outputs.webhook_token_file and not outputs.webhook),
        ("--web-token-file", "--web", options.web_token_file and not options.web),
    ):  # fmt: skip
        if value:
            raise UserInputError(f"{flag} says how {needed} is written, got none: give {needed} as well")


class StreamSinks:
    """Open sinks and the web page of one stream. `close` finishes them; it may be called twice."""

    def __init__(self, options: StreamOptions, cameras: Sequence[Camera], control: StreamControl, stop: Callable[[], None]) -> None:
        recorded = not any(camera.live for camera in cameras)
        self._outputs, self._several, self._closing = options.outputs, len(cameras) > 1, False
        self._server = _Page(options, control) if options.web else None
        sinks = _sinks(options, cameras, stop) + ([self._server.frames] if self._server else [])
        self.runners = [
            SinkRunner(sink, capacity=_WAITING, lossless=recorded and sink.name not in _FOR_EYES, on_death=stop) for sink in sinks
        ]

    def start(self) -> None:
        """Serve the page. Raises UserInputError where it cannot be."""
        if self._server:
            self._server.start()

    def close(self) -> None:
        """Finish what is queued, then the outputs. Where that was interrupted, it is not begun again: somebody wants the end."""
        if self._closing:
            return
        self._closing = True
        if self._server:
            self._server.close()
        closing = [threading.Thread(target=runner.close, name="closing", daemon=True) for runner in self.runners]
        for thread in closing:  # each may take its time: they take it together
            thread.start()
        for thread in closing:
            thread.join()

    def files(self) -> list[str]:
        """Return where something was written, for people."""
        outputs, video = self._outputs, self._outputs.video
        if video and (self._several or outputs.segment_seconds):
            video = video.with_name(f"{video.stem}-*{video.suffix}")
        paths = {"video": video, "jsonl": outputs.jsonl, "csv": outputs.csv, "snapshots": outputs.snapshots}
        written = [status.name for status in (runner.status for runner in self.runners) if status.written]
        return [str(path) for name, path in paths.items() if path is not None and name in written]


class _Page:
    def __init__(self, options: StreamOptions, control: StreamControl) -> None:
        from retinanet_edge.runtime.web_frames import LatestFrames
        from retinanet_edge.runtime.web_server import WebServer

        host, port = _web_address(options.web or "")
        self.frames = LatestFrames()
        self._server = WebServer(control, self.frames, host=host, port=port, token=_token(options.web_token_file))

    def start(self) -> None:
        self._server.start()
        _LOG.info("live page at %s", self._server.url)

    def close(self) -> None:
        self._server.close()


def _sinks(options: StreamOptions, cameras: Sequence[Camera], stop: Callable[[], None]) -> list[Sink]:
    outputs = options.outputs
    keep = KEEP_ALL if outputs.keep_gb is None else Keep(size=round(outputs.keep_gb * 1e9))
    follows = options.track or bool(options.lines or options.zones)
    sinks = _files(outputs, cameras, keep)
    if outputs.snapshots:
        from retinanet_edge.runtime.snapshot_sink import KEEP_1000, SnapshotSink

        sinks.append(SnapshotSink(outputs.snapshots, "tracks" if follows else "detections", keep=keep if outputs.keep_gb else KEEP_1000))
    if outputs.mqtt:
        from retinanet_edge.runtime.mqtt_sink import MqttSink

        sinks.append(MqttSink(outputs.mqtt, qos=outputs.mqtt_qos, ca_file=outputs.mqtt_ca))
    if outputs.webhook:
        from retinanet_edge.runtime.webhook_sink import WebhookSink

        on = "events" if options.lines or options.zones else "detections"
        sinks.append(WebhookSink(outputs.webhook, on, token_file=outputs.webhook_token_file))
    return sinks + _windows(outputs, stop, bool(sinks) or options.web is not None)


def _files(outputs: OutputOptions, cameras: Sequence[Camera], keep: Keep) -> list[Sink]:
    sinks: list[Sink] = []
    rotation = Rotation(max_size=round(outputs.rotate_mb * 1e6), keep=keep) if outputs.rotate_mb else None
    if outputs.video:
        from retinanet_edge.runtime.video_segments import VideoSink

        sinks.append(VideoSink(outputs.video, cameras, segment_seconds=outputs.segment_seconds, keep=keep))
    if outputs.jsonl:
        from retinanet_edge.runtime.jsonl_sink import JsonlSink

        sinks.append(JsonlSink(outputs.jsonl, rotation))
    if outputs.csv:
        from retinanet_edge.runtime.csv_sink import CsvSink

        sinks.append(CsvSink(outputs.csv, rotation))
    return sinks


def _windows(outputs: OutputOptions, stop: Callable[[], None], seen_elsewhere: bool) -> list[Sink]:
    if not outputs.window:
        return []
    from retinanet_edge.runtime.window_sink import WindowSink

    try:
        return [WindowSink(stop)]
    except UserInputError as obstacle:
        if not seen_elsewhere:
            _LOG.warning("%s", obstacle)
        return []


def _web_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise UserInputError(f"--web must be PORT or HOST:PORT, as 8080 or 0.0.0.0:8080, got {text}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UserInputError(f"--web-token-file must be a readable text file, got {path} ({reason}): "
                             "run openssl rand -hex 24 > FILE to make one") from None  # fmt: skip


def _files_read(options: StreamOptions) -> list[Path]:
    texts = [camera for camera in options.cameras if isinstance(camera, str)]
    return [Path(path) for text in texts for path in (text, text.partition("=")[2]) if _exists(path)]


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):
        return False
