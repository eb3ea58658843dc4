"""A result as JSON: the line of JSON lines, the payload of MQTT, the body of a webhook. docs/stream-output.md describes it."""

from __future__ import annotations

from datetime import datetime, timezone

from retinanet_edge.runtime.region_counter import RegionEvent
from retinanet_edge.runtime.sink import FrameResult

SCHEMA = 2  # 1 had no such field, and only frame, time_s, latency_ms and detections


def as_json(result: FrameResult) -> dict[str, object]:
    """Return a result: frame pixels to 0.01, scores to 0.0001. `events` and `counts` are there where there are any."""
    frame = result.frame
    line: dict[str, object] = {
        **_origin(result),
        "time_s": round(frame.timestamp_s, 6),
        "latency_ms": round(result.latency_ms, 3),
        "size": [frame.image.shape[1], frame.image.shape[0]],
        "detections": _detections(result),
    }
    if result.events:
        line["events"] = [_event(event) for event in result.events]
    if result.counts:
        line["counts"] = dict(result.counts)
    return line


def events_as_json(result: FrameResult) -> list[dict[str, object]]:
    """Return each event of a result by itself, with where and when it was."""
    return [{**_origin(result), **_event(event)} for event in result.events]


def utc(unix_s: float) -> str:
    """Return a time of day as ISO 8601: 2026-11-21T14:01:02.123Z."""
    return datetime.fromtimestamp(unix_s, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _origin(result: FrameResult) -> dict[str, object]:
    frame = result.frame
    time_of_day = {"utc": utc(frame.unix_s)} if frame.unix_s > 0 else {}
    return {"schema": SCHEMA, "camera": frame.camera, "frame": frame.index, **time_of_day}


def _detections(result: FrameResult) -> list[dict[str, object]]:
    found = result.detections
    tracks = [-1] * len(found) if result.track_ids is None else result.track_ids.tolist()
    return [
        {
            "class": result.class_names[index],
            "score": round(float(score), 4),
            "xyxy": [round(float(side), 2) for side in box],
            **({"track": track} if track >= 0 else {}),
        }
        for box, score, index, track in zip(found.xyxy, found.scores, found.classes, tracks, strict=True)
    ]


def _event(event: object) -> dict[str, object]:
    assert isinstance(event, RegionEvent)
    stay = {} if event.stay_s is None else {"stay_s": round(event.stay_s, 3)}
    return {
        "event": event.kind,
        "region": event.region,
        "track": event.track_id,
        "class": event.class_name,
        "time_s": round(event.timestamp_s, 6),
        **stay,
    }
