"""What to stream: every flag of stream.py as one value."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retinanet_edge.runtime.camera import RestartLimits, SourceOptions
from retinanet_edge.runtime.detection_filter import DetectionFilter
from retinanet_edge.runtime.engine import Engine
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_folder import DEFAULT_MODEL
from retinanet_edge.runtime.regions import Line, Zone, parse_lines, parse_zones
from retinanet_edge.runtime.source_address import NamedSource


@dataclass(frozen=True)
class OutputOptions:
    """Where results go; None: not there. The sinks say what each of them is."""

    video: Path | None = None
    segment_seconds: float | None = None
    jsonl: Path | None = None
    csv: Path | None = None
    rotate_mb: float | None = None
    snapshots: Path | None = None
    keep_gb: float | None = None
    mqtt: str | None = None
    mqtt_qos: int = 0
    mqtt_ca: Path | None = None
    webhook: str | None = None
    webhook_token_file: Path | None = None
    window: bool = True


@dataclass(frozen=True)
class StreamOptions:
    """What to stream. cameras: as parse_source takes them, or sources of one's own. frames: None for all. lines, zones: see regions."""

    cameras: tuple[str | NamedSource, ...] = ("0",)
    source: SourceOptions = field(default_factory=SourceOptions)
    limits: RestartLimits = field(default_factory=RestartLimits)
    wait_for_cameras: bool = False
    frames: int | None = None
    model: Path = DEFAULT_MODEL
    engine: str | Engine = "auto"
    filter: DetectionFilter = field(default_factory=lambda: DetectionFilter(0.5))
    track: bool = False
    lines: tuple[Line, ...] = ()
    zones: tuple[Zone, ...] = ()
    outputs: OutputOptions = field(default_factory=OutputOptions)
    web: str | None = None
    web_token_file: Path | None = None
    log: str = "text"


def options_from(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> StreamOptions:
    """Return what parsed arguments ask for. Raises UserInputError where ${NAME} in an address is not in the environment."""

    def filled(text: str) -> str:
        return _filled(text, environment)

    return StreamOptions(
        cameras=tuple(map(filled, arguments.camera or ["0"])),
        source=SourceOptions(
            arguments.size, arguments.fps, arguments.pixel_format, arguments.decode, arguments.transport, arguments.loop
        ),
        limits=RestartLimits(
            stale_s=arguments.stale_after, identical_frames=arguments.identical_frames, longest_wait_s=arguments.longest_wait,
            restarts=arguments.restarts,
        ),
        wait_for_cameras=arguments.wait_for_cameras, frames=arguments.frames, model=arguments.model, engine=arguments.engine,
        filter=DetectionFilter(arguments.threshold, arguments.class_threshold, arguments.classes, arguments.min_size),
        track=arguments.track, lines=parse_lines(arguments.line or ()), zones=parse_zones(arguments.zone or ()),
        outputs=OutputOptions(
            arguments.video, arguments.segment_seconds, arguments.jsonl, arguments.csv, arguments.rotate_mb, arguments.snapshots,
            arguments.keep_gb, arguments.mqtt and filled(arguments.mqtt), arguments.mqtt_qos, arguments.mqtt_ca,
            arguments.webhook and filled(arguments.webhook), arguments.webhook_token_file, not arguments.no_window,
        ),
        web=arguments.web, web_token_file=arguments.web_token_file, log=arguments.log,
    )  # fmt: skip


def _filled(text: str, environment: Mapping[str, str]) -> str:
    """Return an address with ${NAME} replaced, so that passwords need not stand in files and process lists."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise UserInputError(f"${{{match[1]}}} must be in the environment, got no such variable: run export {match[1]}=...")
        return environment[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)
