"""The state of a stream in Prometheus' text format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from retinanet_edge.runtime.camera import CameraState, CameraStatus
from retinanet_edge.runtime.sink import SinkStatus
from retinanet_edge.runtime.stream_status import StreamControl, StreamStatus

_PREFIX = "retinanet_edge_"
_QUANTILES = ("0.5", "0.95", "0.99")

Samples = Iterable[tuple[tuple[str, ...], float | None]]  # label values, value; None and NaN: not known, left out


class StreamCollector(Collector):
    """Asks the stream how it is with each scrape, and keeps nothing."""

    def __init__(self, control: StreamControl) -> None:
        self._control = control

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        status = self._control.status()
        yield from _stream_metrics(status)
        yield from _camera_metrics(status.cameras)
        yield from _sink_metrics(status.sinks)


def metrics_text(control: StreamControl) -> bytes:
    """Return all metrics in the text format, UTF-8."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StreamCollector(control))
    return generate_latest(registry)


def _stream_metrics(status: StreamStatus) -> Iterator[Metric]:
    yield InfoMetricFamily(f"{_PREFIX}stream", "Model and engine.", value={"model": status.model, "engine": status.engine})
    yield _gauge("uptime_seconds", "Time since the stream's start.", (), [((), status.seconds)])
    yield _counter("frames_inferred", "Frames through the engine.", (), [((), status.inferred)])
    yield _counter("frames_refused", "Frames that the engine refused.", (), [((), status.failed)])
    yield _gauge("frames_per_second", "Frames through the engine a second, lately.", (), [((), status.rate)])
    yield _gauge("inferred_age_seconds", "Time since the engine last finished a frame.", (), [((), status.inferred_age_s)])
    yield _gauge("stage_seconds", "Time a frame spends in a stage; latency: arrival until detections are known.",
                 ("stage", "quantile"), _quantiles(status.stage_ms))  # fmt: skip
    yield _counter("detections", "Detections kept.", ("class",), (((name,), count) for name, count in status.detections.items()))


def _camera_metrics(cameras: tuple[CameraStatus, ...]) -> Iterator[Metric]:
    def each(field: str) -> Samples:
        return (((camera.name,), getattr(camera, field)) for camera in cameras)

    label = ("camera",)
    states = (((camera.name, state.value), float(camera.state is state)) for camera in cameras for state in CameraState)
    yield _counter("frames_captured", "Frames that came from a camera.", label, each("captured"))
    yield _counter("frames_dropped", "Captured frames overwritten by newer ones before they were inferred.", label, each("dropped"))
    yield _counter("frames_undecoded", "Packets or images that did not decode.", label, each("failed"))
    yield _counter("camera_reconnects", "Connections after the first.", label, each("reconnects"))
    yield _gauge("camera_frame_age_seconds", "Time since a camera's last new frame.", label, each("age_s"))
    yield _gauge("camera_state", "1 for the state that a camera is in.", ("camera", "state"), states)


def _sink_metrics(sinks: tuple[SinkStatus, ...]) -> Iterator[Metric]:
    def each(field: str) -> Samples:
        return (((sink.name,), getattr(sink, field)) for sink in sinks)

    label = ("sink",)
    ages = {sink.name: sink.age_ms for sink in sinks}
    failing = (((sink.name,), float(sink.message is not None)) for sink in sinks)
    yield _counter("sink_written", "Results that a sink has taken.", label, each("written"))
    yield _counter("sink_dropped", "Results dropped because a sink's queue was full.", label, each("dropped"))
    yield _counter("sink_failed", "Results that a sink could not take.", label, each("failed"))
    yield _gauge("sink_queued", "Results that wait for a sink.", label, each("queued"))
    yield _gauge("sink_failing", "1 while a sink's last error lasts.", label, failing)
    yield _gauge("sink_frame_age_seconds", "Age of frames when a sink was done with them.", ("sink", "quantile"), _quantiles(ages))


def _quantiles(by_name: Mapping[str, tuple[float, float, float]]) -> Samples:
    for name, milliseconds in by_name.items():
        for quantile, value in zip(_QUANTILES, milliseconds, strict=True):
            yield (name, quantile), value / 1e3


def _counter(name: str, meaning: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    return _filled(CounterMetricFamily(_PREFIX + name, meaning, labels=labels), samples)


def _gauge(name: str, meaning: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    return _filled(GaugeMetricFamily(_PREFIX + name, meaning, labels=labels), samples)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, samples: Samples) -> Metric:
    for labels, value in samples:
        if value is not None and not math.isnan(value):
            family.add_metric(labels, value)
    return family
