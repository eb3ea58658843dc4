"""What Prometheus reads of a stream, and the stream's health in a word."""

import json
import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from retinanet_edge.runtime.camera import CameraState
from retinanet_edge.runtime.web_frames import LatestFrames
from retinanet_edge.runtime.web_metrics import metrics_text
from retinanet_edge.runtime.web_status import health, status_json
from tests.runtime.fake_control import FakeControl, camera, result, sink


def parsed(control):
    """(name, labels) -> value of every sample."""
    samples = [sample for family in text_string_to_metric_families(metrics_text(control).decode()) for sample in family.samples]
    found = {(sample.name.removeprefix("retinanet_edge_"), tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
    assert len(found) == len(samples)
    assert all(sample.name.startswith("retinanet_edge_") for sample in samples)
    return found


def test_counters_gauges_and_quantiles():
    metrics = parsed(FakeControl())
    yard, jsonl = (("camera", "yard"),), (("sink", "jsonl"),)
    assert metrics["frames_captured_total", yard] == 120
    assert metrics["frames_dropped_total", yard] == 7
    assert metrics["frames_undecoded_total", yard] == 2
    assert metrics["camera_reconnects_total", yard] == 1
    assert metrics["camera_frame_age_seconds", yard] == 0.04
    assert metrics["frames_inferred_total", ()] == 100
    assert metrics["frames_refused_total", ()] == 4
    assert metrics["inferred_age_seconds", ()] == 0.1
    assert metrics["stage_seconds", (("quantile", "0.95"), ("stage", "infer"))] == 0.02  # 20 ms
    assert [metrics[f"sink_{what}_total", jsonl] for what in ("written", "dropped", "failed")] == [100, 3, 1]
    assert metrics["sink_queued", jsonl] == 2
    assert metrics["sink_frame_age_seconds", (("quantile", "0.99"), ("sink", "jsonl"))] == 0.04
    assert metrics["stream_info", (("engine", "fp16 <engine>"), ("model", "demo"))] == 1


def test_one_camera_state_is_1_and_all_are_there():
    metrics = parsed(FakeControl((camera(state=CameraState.BACKOFF),)))
    states = {state: metrics["camera_state", (("camera", "yard"), ("state", state.value))] for state in CameraState}
    assert states == {state: float(state is CameraState.BACKOFF) for state in CameraState}


def test_what_is_not_known_yet_is_left_out():
    control = FakeControl((camera(age_s=None),), (sink(age_ms=(math.nan,) * 3),), inferred_age_s=None)
    names = {name for name, _ in parsed(control)}
    assert not names & {"camera_frame_age_seconds", "sink_frame_age_seconds", "inferred_age_seconds"}
    assert ("stage_seconds", (("quantile", "0.5"), ("stage", "latency"))) in parsed(control)
    assert ("stage_seconds", (("quantile", "0.95"), ("stage", "latency"))) not in parsed(control)


def test_labels_are_escaped():
    evil = 'door"\\\n} 1\nfake_metric 2'
    control = FakeControl((camera(evil),))
    assert parsed(control)["frames_captured_total", (("camera", evil),)] == 120


def test_messages_are_no_labels():
    control = FakeControl((camera(message="something private"),), (sink(message="something private"),))
    assert b"private" not in metrics_text(control)
    assert parsed(control)["sink_failing", (("sink", "jsonl"),)] == 1
    assert parsed(FakeControl())["sink_failing", (("sink", "jsonl"),)] == 0


GONE = camera(state=CameraState.BACKOFF)


@pytest.mark.parametrize(
    ("cameras", "seconds", "age_s", "word"),
    [
        ((camera(),), 100, 0.1, "ok"),
        ((camera(), GONE), 100, 0.1, "ok"),
        ((camera(),), 1, None, "starting"),
        ((camera(state=CameraState.CONNECTING),), 1, None, "starting"),
        ((camera(),), 100, None, "stalled"),
        ((camera(),), 100, 11, "stalled"),
        ((GONE,), 100, 0.1, "no camera"),
        ((camera(state=CameraState.STALE), GONE), 100, 60, "no camera"),
        ((camera(state=CameraState.CONNECTING),), 100, None, "no camera"),
        ((), 100, 0.1, "no camera"),
    ],
)
def test_health(cameras, seconds, age_s, word):
    control = FakeControl(cameras, seconds=seconds, inferred_age_s=age_s)
    control.cameras = cameras
    assert health(control.status()) == word


def test_status_is_strict_json():
    frames = LatestFrames()
    before = status_json(FakeControl((camera(age_s=None, fps=math.inf),)), frames, 3, 5)
    assert json.loads(json.dumps(before, allow_nan=False)) == json.loads(json.dumps(before))
    assert before["recent_latency_ms"] == {"p50": None, "p95": None, "p99": None}
    assert before["stage_ms"]["latency"] == {"p50": 12.5, "p95": None, "p99": None}
    assert before["cameras"][0]["fps"] is None
    assert (before["viewers"], before["events_dropped"]) == (3, 5)
    assert before["filter"] == {"threshold": 0.5, "class_thresholds": {}, "only": None}
    frames.write(result(latency_ms=33.0))
    assert status_json(FakeControl(), frames, 0, 0)["recent_latency_ms"]["p50"] == 33.0
