"""A stream that is none: a StreamControl whose state a test sets, and results to give to the web server's sink."""

import math
import threading

import numpy as np

from retinanet_edge.runtime.camera import CameraState, CameraStatus
from retinanet_edge.runtime.detection_filter import DetectionFilter
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.frame import Frame
from retinanet_edge.runtime.sink import FrameResult, SinkStatus
from retinanet_edge.runtime.stream_status import StreamStatus

CLASSES = ("balloon", "boat", 'a "quoted" <b>class</b>\\')


def camera(name="yard", state=CameraState.RUNNING, **changes):
    values = {"live": True, "captured": 120, "dropped": 7, "failed": 2, "reconnects": 1, "fps": 25.0, "size": (48, 64), "age_s": 0.04,
              "message": None, **changes}  # fmt: skip
    return CameraStatus(name, state, **values)


def sink(name="jsonl", **changes):
    values = {"written": 100, "dropped": 3, "failed": 1, "queued": 2, "message": None, "age_ms": (10.0, 20.0, 40.0), **changes}
    return SinkStatus(name, **values)


class FakeControl:
    """Says what it was told to say; the filter is the real one."""

    class_names = CLASSES
    least_threshold = 0.05

    def __init__(self, cameras=None, sinks=None, *, seconds=100.0, inferred_age_s=0.1):
        self.cameras, self.sinks = cameras or (camera(),), sinks or (sink(),)
        self.seconds, self.inferred_age_s, self.inferred = seconds, inferred_age_s, 100
        self.detection_filter = DetectionFilter(0.5, min_size=(2, 2))
        self.threads = set()

    def status(self):
        self.threads.add(threading.current_thread().name)
        stages = {"infer": (10.0, 20.0, 30.0), "latency": (12.5, math.nan, math.nan)}
        return StreamStatus("demo", "fp16 <engine>", self.seconds, self.inferred, 4, 24.9, self.inferred_age_s, stages, {CLASSES[0]: 42},
                            tuple(self.cameras), tuple(self.sinks))  # fmt: skip

    def change_filter(self, wanted):
        warnings = wanted.resolved(self.class_names, self.least_threshold).warnings
        self.detection_filter = wanted
        return list(warnings)


def result(index=0, camera="yard", size=(48, 64), latency_ms=12.5, gray=None):
    """A frame of one gray, by which it can be told from others, with one box."""
    image = np.full((*size, 3), index % 200 if gray is None else gray, np.uint8)
    found = Detections(np.array([[4, 20, 40.126, 40]], np.float32), np.array([0.91234], np.float32), np.array([1]))
    return FrameResult(Frame(image, index, index / 25, 0.0, camera), found, CLASSES, latency_ms, np.array([7]))
