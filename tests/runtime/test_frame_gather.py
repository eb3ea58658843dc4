import threading
import time
from dataclasses import dataclass, field

import numpy as np

from retinanet_edge.runtime.camera import CameraState, CameraStatus
from retinanet_edge.runtime.frame import Frame
from retinanet_edge.runtime.frame_gather import FrameGather

IMAGE = np.zeros((2, 2, 3), np.uint8)


@dataclass
class ScriptedCamera:
    """Gives its frames one by one, then the state that it was given."""

    name: str
    indexes: list[int]
    live: bool = False
    at_end: CameraState = CameraState.ENDED
    taken: list[int] = field(default_factory=list)

    def take(self):
        if not self.indexes:
            return None
        self.taken.append(self.indexes[0])
        return Frame(IMAGE, self.indexes.pop(0), 0.0, 0.0, self.name)

    @property
    def status(self):
        state = CameraState.RUNNING if self.indexes else self.at_end
        return CameraStatus(self.name, state, False, 0, 0, 0, 0, 25.0, None, None, None)


def batches(gather):
    found = []
    while frames := gather.next():
        found.append([(frame.camera, frame.index) for frame in frames])
    return found


def test_one_frame_of_each_camera_until_all_have_ended():
    cameras = [ScriptedCamera("a", [0, 1, 2]), ScriptedCamera("b", [0]), ScriptedCamera("c", [])]
    assert batches(FrameGather(cameras, threading.Event(), 3)) == [[("a", 0), ("b", 0)], [("a", 1)], [("a", 2)]]


def test_a_smaller_batch_takes_cameras_in_turn():
    cameras = [ScriptedCamera(name, [0, 1]) for name in "abc"]
    assert batches(FrameGather(cameras, threading.Event(), 2)) == [
        [("a", 0), ("b", 0)], [("c", 0), ("a", 1)], [("b", 1), ("c", 1)],
    ]  # fmt: skip


def test_a_dead_camera_holds_up_nothing():
    cameras = [ScriptedCamera("dead", [], at_end=CameraState.FAILED), ScriptedCamera("alive", [0, 1])]
    assert batches(FrameGather(cameras, threading.Event(), 2)) == [[("alive", 0)], [("alive", 1)]]


def test_a_recordings_frame_is_as_old_as_its_taking_a_live_cameras_as_its_arrival():
    before = time.perf_counter()
    live, recorded = FrameGather([ScriptedCamera("a", [0], live=True), ScriptedCamera("b", [0])], threading.Event(), 2).next()
    assert live.arrived_s == 0.0
    assert before <= recorded.arrived_s <= time.perf_counter()


def test_what_live_cameras_gave_before_anybody_took_is_skipped_and_nothing_of_a_recording():
    cameras = [ScriptedCamera("a", [0, 1], live=True), ScriptedCamera("b", [0])]
    gather = FrameGather(cameras, threading.Event(), 2)
    gather.skip_waiting()
    assert batches(gather) == [[("a", 1), ("b", 0)]]


def test_it_waits_for_a_camera_that_may_come_back_and_ends_when_stopped():
    camera, ready = ScriptedCamera("a", [], at_end=CameraState.BACKOFF), threading.Event()
    gather, found = FrameGather([camera], ready, 1), []
    thread = threading.Thread(target=lambda: found.extend(batches(gather)))
    thread.start()
    camera.indexes.append(7)
    ready.set()
    while not found and thread.is_alive() and not camera.taken:
        time.sleep(0.001)
    gather.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert found == [[("a", 7)]]
