"""The three stages: order, overlap, loss, failures."""

import runpy
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from retinanet_edge.runtime.camera import CameraState, CameraStatus
from retinanet_edge.runtime.detection_filter import DetectionFilter
from retinanet_edge.runtime.detector import Detector
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.frame import Frame
from retinanet_edge.runtime.frame_analysis import Analysis
from retinanet_edge.runtime.frame_gather import FrameGather
from retinanet_edge.runtime.pipeline import Pipeline
from retinanet_edge.runtime.sink_runner import SinkRunner
from retinanet_edge.runtime.stream_monitor import StreamMonitor

bright = runpy.run_path(str(Path(__file__).with_name("bright_engine.py")))
BrightEngine, write_model, bright_image = (bright[name] for name in ("BrightEngine", "write_model", "bright_image"))


class Collector:
    """A sink that keeps what it is given."""

    name = "collector"

    def __init__(self):
        self.results = []

    def write(self, result):
        self.results.append(result)

    def close(self):
        pass


class Recorded:
    """A camera with `count` images that lie ready. made: how many have been taken."""

    live, remark, error = False, None, None

    def __init__(self, name, count):
        self.name, self.fps, self._count, self.made = name, 25.0, count, 0

    def take(self):
        if self.made == self._count:
            return None
        self.made += 1
        return Frame(bright_image(self.made - 1), self.made - 1, (self.made - 1) / 25, time.perf_counter(), self.name)

    @property
    def status(self):
        state = CameraState.ENDED if self.made == self._count else CameraState.RUNNING
        return CameraStatus(self.name, state, False, self.made, 0, 0, 0, 25.0, None, None, None)


class Flow:
    """A pipeline over cameras and an engine, with a sink that collects."""

    def __init__(self, folder, cameras, engine):
        self.sink = Collector()
        self.runner = SinkRunner(self.sink, lossless=True)
        self.detector = Detector(write_model(folder / "model"), engine, 0.0, max_batch=engine.max_batch)
        analyses = {camera.name: Analysis(self.detector.classes, 0.05, DetectionFilter(0.5)) for camera in cameras}
        self.monitor = StreamMonitor("m", "e", self.detector.classes, 0.05, cameras, [self.runner], list(analyses.values()))
        self.gather = FrameGather(cameras, threading.Event(), engine.max_batch)
        self.pipeline = Pipeline(self.gather, self.detector, analyses, [self.runner], self.monitor)

    def run(self, limit=None):
        try:
            self.pipeline.run(limit)
        finally:
            self.runner.close()
        return [(result.frame.camera, result.frame.index) for result in self.sink.results]


def test_every_frame_of_every_camera_in_order_with_its_own_boxes(tmp_path):
    engine = BrightEngine(max_batch=2)
    flow = Flow(tmp_path, [Recorded("a", 20), Recorded("b", 15)], engine)
    given = flow.run()
    assert [index for camera, index in given if camera == "a"] == list(range(20))
    assert [index for camera, index in given if camera == "b"] == list(range(15))
    assert engine.calls == [2] * 15 + [1] * 5
    for result in flow.sink.results:  # bright_image: a square of 12 at (4 + index, 8)
        left = 4.0 + result.frame.index
        assert result.detections.xyxy.tolist() == [[left, 8.0, left + 12, 20.0]]
    status = flow.monitor.status()
    assert (status.inferred, status.failed, status.detections) == (35, 0, {"large": 35})


@pytest.mark.parametrize(("limit", "cameras", "expected"), [(7, 1, 7), (7, 2, 7), (1, 2, 1), (50, 2, 40)])
def test_a_limit_is_kept_to_the_frame(tmp_path, limit, cameras, expected):
    flow = Flow(tmp_path, [Recorded(name, 20) for name in "ab"[:cameras]], BrightEngine(max_batch=2))
    assert len(flow.run(limit)) == expected
    assert flow.monitor.inferred == expected


def test_a_limit_ends_it_where_the_camera_gives_nothing_more(tmp_path):
    class Silent(Recorded):
        """Waits for ever for its next image."""

        @property
        def status(self):
            return CameraStatus(self.name, CameraState.RUNNING, False, self.made, 0, 0, 0, 25.0, None, None, None)

    flow = Flow(tmp_path, [Silent("a", 3)], BrightEngine(max_batch=1))
    running = threading.Thread(target=flow.run, args=(3,), daemon=True)
    running.start()
    running.join(30)
    ended = not running.is_alive()
    flow.gather.stop()
    running.join(30)
    assert ended
    assert [result.frame.index for result in flow.sink.results] == [0, 1, 2]


def test_no_more_than_one_batch_lies_ready_for_the_engine(tmp_path):
    camera, ahead = Recorded("a", 30), []

    class Watching(BrightEngine):
        def infer(self, images):
            time.sleep(0.005)  # long enough for whatever is prepared meanwhile
            ahead.append(camera.made - len(self.calls))
            return super().infer(images)

    Flow(tmp_path, [camera], Watching(max_batch=1)).run()
    assert max(ahead) == 2  # the one in the engine, and the next


def test_preparing_inferring_and_finishing_overlap(tmp_path):
    """Each stage waits until the other two are at work as well: without overlap nobody ever would."""
    together = threading.Barrier(2, timeout=30)

    class Meeting(BrightEngine):
        def infer(self, images):
            if len(self.calls) == 2:
                together.wait()
            return super().infer(images)

    class MeetingSink(Analysis):
        met = False

        def apply(self, *given):
            if not self.met:
                together.wait()
                MeetingSink.met = True
            return super().apply(*given)

    flow = Flow(tmp_path, [Recorded("a", 6)], Meeting(max_batch=1))
    flow.pipeline._analyses["a"] = MeetingSink(flow.detector.classes, 0.05, DetectionFilter(0.5))
    assert len(flow.run()) == 6


def failing(at):
    class Failing(BrightEngine):
        def infer(self, images):
            super().infer(images)
            if len(self.calls) in at:
                raise EngineError("no memory")
            return super().infer(images)

    return Failing(max_batch=1)


def test_a_frame_that_the_engine_refuses_is_counted_and_the_rest_goes_on(tmp_path, caplog):
    flow = Flow(tmp_path, [Recorded("a", 5)], failing({3}))
    # Calls are counted twice for each frame that goes well: the third is the second frame's first.
    assert flow.run() == [("a", 0), ("a", 2), ("a", 3), ("a", 4)]
    assert (flow.monitor.status().inferred, flow.monitor.status().failed) == (4, 1)
    assert "no memory" in caplog.text


def test_an_engine_that_fails_again_and_again_ends_the_stream(tmp_path):
    camera = Recorded("a", 50)
    flow = Flow(tmp_path, [camera], failing(range(3, 99)))
    with pytest.raises(EngineError, match="no memory"):
        flow.run()
    assert [result.frame.index for result in flow.sink.results] == [0]
    assert camera.made < 8  # nobody goes on preparing
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stream")]


def test_an_error_in_the_finishing_stage_ends_the_stream(tmp_path):
    flow = Flow(tmp_path, [Recorded("a", 50)], BrightEngine(max_batch=1))
    del flow.pipeline._analyses["a"]
    with pytest.raises(KeyError):
        flow.run()


def test_stopping_lets_frames_that_were_taken_through(tmp_path):
    camera = Recorded("a", 10_000)

    class Stopping(BrightEngine):
        def infer(self, images):
            if len(self.calls) == 5:
                flow.gather.stop()
            return super().infer(images)

    flow = Flow(tmp_path, [camera], Stopping(max_batch=1))
    assert flow.run() == [("a", index) for index in range(camera.made)]
    assert 6 <= camera.made <= 7


def test_a_changed_filter_holds_from_then_on(tmp_path):
    class Changing(BrightEngine):
        def infer(self, images):
            if len(self.calls) == 4:
                (warning,) = flow.monitor.change_filter(DetectionFilter(0.01, only=("small",)))
                assert warning.startswith("threshold 0.01 raised to 0.05: ")
            return super().infer(images)

    flow = Flow(tmp_path, [Recorded("a", 10)], Changing(max_batch=1))
    flow.run()
    counts = [len(result.detections) for result in flow.sink.results]
    assert counts[:2] == [1, 1]
    assert counts[5:] == [0] * 5
    assert flow.monitor.detection_filter.only == ("small",)


def test_stage_times_and_latency_are_there(tmp_path):
    flow = Flow(tmp_path, [Recorded("a", 8)], BrightEngine(max_batch=1, pause_s=0.03))
    flow.run()
    stages = flow.monitor.status().stage_ms
    assert list(stages) == ["wait", "letterbox", "network", "nms", "boxes", "analysis", "latency"]
    assert stages["network"] == pytest.approx([2.0] * 3, rel=0.011)  # as the engine says
    assert all(p50 <= p95 <= p99 for p50, p95, p99 in stages.values())
    assert all(result.latency_ms >= 30 for result in flow.sink.results)
    assert np.isfinite(flow.runner.status.age_ms).all()
