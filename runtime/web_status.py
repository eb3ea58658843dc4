"""The state of a stream as JSON, and its health in a word."""

from __future__ import annotations

import math
from collections.abc import Mapping

from retinanet_edge.runtime.camera import CameraState, CameraStatus
from retinanet_edge.runtime.detection_filter import DetectionFilter
from retinanet_edge.runtime.draw import class_color
from retinanet_edge.runtime.sink import SinkStatus
from retinanet_edge.runtime.stream_status import StreamControl, StreamStatus
from retinanet_edge.runtime.web_frames import LatestFrames

OK, STARTING, STALLED, NO_CAMERA = "ok", "starting", "stalled", "no camera"
_SILENT_S = 10.0  # so long may the engine finish nothing, or the cameras take to start

Json = dict[str, object]


def health(status: StreamStatus) -> str:
    """Return OK; STARTING in the first seconds; NO_CAMERA where none runs; STALLED where the engine has finished nothing for 10 s."""
    if status.inferred_age_s is None and status.seconds < _SILENT_S:
        return STARTING
    if not any(camera.state is CameraState.RUNNING for camera in status.cameras):
        return NO_CAMERA
    return OK if status.inferred_age_s is not None and status.inferred_age_s < _SILENT_S else STALLED


def status_json(control: StreamControl, frames: LatestFrames, viewers: int, events_dropped: int) -> Json:
    """Return how the stream is, ready for JSON: what is not known yet is null.

    stage_ms is since the start, recent_latency_ms of the last frames; viewers and events_dropped are the web server's own.
    """
    status = control.status()
    return {
        "health": health(status),
        "model": status.model,
        "engine": status.engine,
        "seconds": round(status.seconds, 3),
        "inferred": status.inferred,
        "failed": status.failed,
        "rate": _finite(status.rate),
        "inferred_age_s": _finite(status.inferred_age_s),
        "stage_ms": {stage: _percentiles(values) for stage, values in status.stage_ms.items()},
        "recent_latency_ms": _percentiles(frames.recent_latency_ms()),
        "detections": dict(status.detections),
        "classes": [{"name": name, "color": _hex_color(index)} for index, name in enumerate(control.class_names)],
        "least_threshold": control.least_threshold,
        "filter": filter_json(control.detection_filter),
        "cameras": [_camera_json(camera) for camera in status.cameras],
        "sinks": [_sink_json(sink) for sink in status.sinks],
        "viewers": viewers,
        "events_dropped": events_dropped,
    }


def filter_json(used: DetectionFilter) -> Json:
    """Return what of a filter can be changed while the stream runs."""
    return {
        "threshold": used.threshold,
        "class_thresholds": dict(used.class_thresholds),
        "only": None if used.only is None else list(used.only),
    }


def _camera_json(camera: CameraStatus) -> Json:
    return {
        "name": camera.name,
        "state": camera.state.value,
        "live": camera.live,
        "captured": camera.captured,
        "dropped": camera.dropped,
        "failed": camera.failed,
        "reconnects": camera.reconnects,
        "fps": _finite(camera.fps),
        "height_width": camera.size,
        "age_s": _finite(camera.age_s),
        "message": camera.message,
    }


def _sink_json(sink: SinkStatus) -> Json:
    return {
        "name": sink.name,
        "written": sink.written,
        "dropped": sink.dropped,
        "failed": sink.failed,
        "queued": sink.queued,
        "message": sink.message,
        "age_ms": _percentiles(sink.age_ms),
    }


def _percentiles(values: tuple[float, float, float]) -> Mapping[str, float | None]:
    return dict(zip(("p50", "p95", "p99"), map(_finite, values), strict=True))


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 3)


def _hex_color(index: int) -> str:
    blue, green, red = class_color(index)
    return f"#{red:02x}{green:02x}{blue:02x}"
