"""Results as the stream makes them, and what sinks made of them, for the tests of sinks."""

from __future__ import annotations

import time
from types import SimpleNamespace

import av
import numpy as np

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.frame import Frame
from retinanet_edge.runtime.region_counter import RegionEvent
from retinanet_edge.runtime.sink import FrameResult, SinkError

CLASSES = ("cat", "dog")
UNIX_S = 1_795_269_662.123  # 2026-11-21T14:01:02.123Z: 20778 days and 50462.123 s


def image_of(index=0, height=48, width=64):
    """A picture whose brightness tells its number."""
    return np.full((height, width, 3), 20 + index * 37 % 200, np.uint8)


def result_of(index=0, *, image=None, timestamp_s=None, camera="front", unix_s=UNIX_S, found=None, tracks=None, events=(), counts=None):
    frame = Frame(
        image_of(index) if image is None else image, index, index / 25 if timestamp_s is None else timestamp_s,
        time.perf_counter(), camera, unix_s,
    )  # fmt: skip
    tracks = None if tracks is None else np.array(tracks, np.int64)
    return FrameResult(frame, found or Detections.empty(), CLASSES, 12.3456, tracks, tuple(events), counts or {})


def two_found():
    return Detections(
        np.array([[1.234, 2, 30, 40.567], [5, 6, 17, 18]], np.float32), np.array([0.98768, 0.5], np.float32), np.array([1, 0])
    )


def crossing(track=7):
    return RegionEvent("crossed_in", "gate", track, "dog", 0.12)


def camera_of(name="front", fps=25.0):
    return SimpleNamespace(name=name, fps=fps)


def written(sink, results):
    for result in results:
        sink.write(result)
    sink.close()
    sink.close()


def refused(sink, result):
    """Return what the sink says where it does not take a result, None where it does."""
    try:
        sink.write(result)
    except SinkError as error:
        return str(error)
    return None


def decoded(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def wait_until(condition, seconds=30.0):
    """Return whether the condition came true in so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
