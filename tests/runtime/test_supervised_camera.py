"""Cameras with scripted sources: each connection is a generator function, the last one of a script is used again and again."""

import logging
import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from retinanet_edge.runtime.camera import CameraState, RestartLimits, SourceImage
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.supervised_camera import SupervisedCamera

LONG_S = 60.0  # for what must happen
QUICK = RestartLimits(stale_s=LONG_S, first_wait_s=0.001, longest_wait_s=0.001, healthy_s=1000)
OVER = (CameraState.ENDED, CameraState.FAILED)


class Script:
    name, fps = "script", 25.0

    def __init__(self, *connections, live=True):
        self.connections, self.live, self.opened = connections, live, 0

    def images(self):
        self.opened += 1
        return self.connections[min(self.opened, len(self.connections)) - 1]()


def picture(value, height=4, width=6):
    return np.full((height, width, 3), value, np.uint8)


def gives(*values, then=None):
    """A connection that gives plain images of these values, and then raises or ends."""

    def images():
        for value in values:
            yield SourceImage(picture(value))
        if then is not None:
            raise then

    return images


def gives_until(event, *, gave=None):
    """A connection that gives new images until the event is set, and sets `gave` with the first."""

    def images():
        for value in range(1 << 30):
            yield SourceImage(picture(value % 251))
            if gave is not None:
                gave.set()
            if event.wait(0.002):
                return

    return images


def gone(text="gone", fault=CameraFault.LOST):
    return CameraError(text, fault)


@contextmanager
def camera_of(source, limits=QUICK, **options):
    options.setdefault("frame_ready", threading.Event())
    camera = SupervisedCamera("door", source, limits, **options)
    try:
        yield camera
    finally:
        camera.close()


def wait_until(condition):
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def take_all(camera):
    """Take frames as a consumer would, until the camera is over."""
    frames = []
    while True:
        over = camera.status.state in OVER
        while frame := camera.take():
            frames.append(frame)
        if over:
            return frames
        camera._frame_ready.wait(LONG_S)
        camera._frame_ready.clear()


def given_up(camera):
    """Whether it is FAILED; takes what it gave."""
    while camera.take():
        pass
    return camera.status.state is CameraState.FAILED


@pytest.fixture
def changes(caplog):
    """The changes of state so far, as logged."""
    caplog.set_level(logging.INFO, "retinanet_edge.camera")
    return lambda: [record.getMessage().removeprefix("camera door: ") for record in caplog.records]


def values_of(frames):
    return [int(frame.image[0, 0, 0]) for frame in frames]


class TestLive:
    def test_from_connecting_over_backoff_to_running_again(self, changes):
        end, gave = threading.Event(), threading.Event()
        source = Script(gives(1, then=gone("cable pulled")), gives_until(end, gave=gave))
        with camera_of(source) as camera:
            assert gave.wait(LONG_S)
            wait_until(lambda: camera.status.state is CameraState.RUNNING)
            assert (camera.status.reconnects, camera.status.message, camera.last_failure, camera.error) == (1, None, None, None)
            end.set()
        assert changes()[:4] == [
            "connecting -> running", "running -> backoff: cable pulled; next try in 0.0 s",
            "backoff -> connecting", "connecting -> running",
        ]  # fmt: skip

    def test_a_slow_consumer_sees_the_newest_frame_and_the_counters_add_up(self):
        go_on = threading.Semaphore(0)

        def images():
            for value in range(40):
                if value % 8 == 0:
                    go_on.acquire()
                yield SourceImage(picture(value))
            raise gone()

        with camera_of(Script(images), replace(QUICK, restarts=0)) as camera:
            taken = []
            for burst in range(1, 6):
                go_on.release()
                wait_until(lambda count=8 * burst: camera.status.captured == count)
                taken.append(camera.take())
            assert values_of(taken) == [7, 15, 23, 31, 39]
            assert [frame.index for frame in taken] == [7, 15, 23, 31, 39]
            wait_until(lambda: camera.status.state is CameraState.FAILED)
            assert (camera.status.captured, camera.status.dropped, camera.take()) == (40, 35, None)

    def test_index_and_time_go_on_over_reconnections(self):
        end = threading.Event()
        before = time.time()
        source = Script(gives(1, 2, then=gone()), gives(3, then=gone()), gives_until(end))
        with camera_of(source) as camera:
            frames = []
            while len(frames) < 5:
                if frame := camera.take():
                    frames.append(frame)
            end.set()
        assert all(one.index < other.index and one.timestamp_s < other.timestamp_s for one, other in pairwise(frames))
        for frame in frames:
            assert frame.camera == "door"
            assert frame.timestamp_s == pytest.approx(frame.arrived_s - frames[0].arrived_s + frames[0].timestamp_s)
            assert before <= frame.unix_s <= time.time()
        assert frames[0].index == 0 or frames[0].timestamp_s > 0

    def test_the_size_may_change(self):
        def sized(height, width):
            def images():
                yield SourceImage(picture(1, height, width))
                taken.acquire()
                raise gone()

            return images

        taken = threading.Semaphore(0)
        with camera_of(Script(sized(4, 6), sized(8, 10)), replace(QUICK, restarts=1)) as camera:
            shapes = []
            while len(shapes) < 2:
                if frame := camera.take():
                    shapes.append((frame.image.shape[:2], camera.status.size))
                    taken.release()
            assert shapes == [((4, 6), (4, 6)), ((8, 10), (8, 10))]

    def test_what_is_no_image_counts_as_failed_and_goes_no_further(self):
        bad = (None, "text", picture(1).astype(np.float32), picture(1)[..., 0], picture(1)[..., :2], np.zeros((0, 6, 3), np.uint8))

        def images():
            for image in bad:
                yield SourceImage(image)
            yield SourceImage(picture(7), failed=3)  # and three packets that did not decode
            raise gone()

        with camera_of(Script(images), replace(QUICK, restarts=0)) as camera:
            frames = take_all(camera)
            assert values_of(frames) == [7]
            assert (camera.status.captured, camera.status.failed) == (1, len(bad) + 3)

    def test_nothing_but_bad_images_is_silence(self, changes):
        end = threading.Event()

        def images():
            while not end.wait(0.001):
                yield SourceImage(None)

        with camera_of(Script(images, gives_until(end)), replace(QUICK, stale_s=0.1)) as camera:
            wait_until(lambda: camera.connected_once)
            end.set()
        assert changes()[0] == "connecting -> stale: gave no image for 0.1 s"

    def test_the_end_of_a_live_source_is_a_failure(self):
        with camera_of(Script(gives(1)), replace(QUICK, restarts=0)) as camera:
            assert len(take_all(camera)) == 1
            assert camera.error.fault is CameraFault.LOST
            assert "camera door has ended" in str(camera.error)

    def test_stop_from_a_signal_handler_interrupts_a_long_wait(self):
        limits = replace(QUICK, first_wait_s=1000, longest_wait_s=1000)
        ready = threading.Event()
        with camera_of(Script(gives(then=gone())), limits, frame_ready=ready) as camera:
            wait_until(lambda: camera.status.state is CameraState.BACKOFF)
            usual = signal.signal(signal.SIGALRM, lambda *_: camera.stop())
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                while camera.status.state is not CameraState.ENDED:
                    ready.clear()
                    ready.wait(0.01)
            finally:
                signal.signal(signal.SIGALRM, usual)
            assert camera.error is None


class TestStale:
    def test_silence(self, changes):
        end = threading.Event()

        def silent():
            yield SourceImage(picture(1))
            end.wait(LONG_S)

        with camera_of(Script(silent, gives_until(end)), replace(QUICK, stale_s=0.1)) as camera:
            wait_until(lambda: camera.status.reconnects == 1 and camera.status.captured > 1)
            assert camera.status.state is not CameraState.FAILED
            end.set()
        assert changes()[:4] == [
            "connecting -> running", "running -> stale: gave no image for 0.1 s",
            "stale -> backoff: camera door gave no image for 0.1 s: check it and its cable; next try in 0.0 s", "backoff -> connecting",
        ]  # fmt: skip

    def test_one_image_again_and_again(self, changes):
        end = threading.Event()

        def frozen():
            while not end.is_set():
                yield SourceImage(picture(9))

        with camera_of(Script(frozen, gives_until(end)), replace(QUICK, identical_frames=20)) as camera:
            wait_until(lambda: camera.status.reconnects == 1 and camera.status.state is CameraState.RUNNING)
            end.set()
        assert changes()[1] == "running -> stale: gave the same image 20 times in a row"

    def test_a_camera_that_stays_frozen_is_given_up_however_long_it_gives_frames(self):
        """Its image does not change, so that no connection of it is ever healthy."""

        def frozen():
            for _ in range(100):
                time.sleep(0.001)  # 20 images take far longer than healthy_s
                yield SourceImage(picture(9))

        with camera_of(Script(frozen), replace(QUICK, identical_frames=20, restarts=2, healthy_s=0.002)) as camera:
            wait_until(lambda: given_up(camera))
            assert camera.error.fault is CameraFault.LOST
            assert camera.status.reconnects == 2

    def test_age_grows_while_the_image_stays_the_same(self):
        repeated, end = threading.Event(), threading.Event()

        def frozen():
            for _ in range(50):
                yield SourceImage(picture(9))
            repeated.set()
            end.wait(LONG_S)

        with camera_of(Script(frozen)) as camera:
            assert repeated.wait(LONG_S)
            frame = camera.take()
            assert frame.index == 49
            assert camera.status.age_s > time.perf_counter() - frame.arrived_s  # of the first, not of the last
            end.set()


class TestHangingDriver:
    def test_it_is_left_behind_and_what_it_gives_later_is_thrown_away(self):
        wake, end, closed = threading.Event(), threading.Event(), threading.Event()

        def hanging():
            try:
                wake.wait(LONG_S)
                yield SourceImage(picture(255))
            finally:
                closed.set()

        with camera_of(Script(hanging, gives_until(end)), replace(QUICK, stale_s=0.1)) as camera:
            wait_until(lambda: camera.connected_once)
            captured = camera.status.captured
            wake.set()
            assert closed.wait(LONG_S)  # it closes its connection itself
            wait_until(lambda: camera.status.captured > captured + 5)
            assert max(values_of([frame for frame in [camera.take()] if frame]), default=0) < 255
            assert camera.status.failed == 0
            end.set()
        wait_until(lambda: not [thread for thread in threading.enumerate() if "door" in thread.name])

    def test_so_many_and_no_more(self):
        wake = threading.Event()

        def hanging():
            wake.wait(LONG_S)
            yield SourceImage(picture(1))

        source = Script(hanging)
        with camera_of(source, replace(QUICK, stale_s=0.05)) as camera:
            wait_until(lambda: camera.status.state is CameraState.FAILED)
            assert source.opened == 3
            assert "camera door hangs: 3 connections" in camera.status.message
            assert sum("door reader" in thread.name for thread in threading.enumerate()) == 3
            wake.set()
        wait_until(lambda: not [thread for thread in threading.enumerate() if "door" in thread.name])

    def test_close_returns_though_the_driver_hangs(self):
        wake, opened = threading.Event(), threading.Event()

        def hanging():
            opened.set()
            wake.wait(LONG_S)
            yield SourceImage(picture(1))

        with camera_of(Script(hanging)) as camera:
            assert opened.wait(LONG_S)
            camera.close()
            assert not wake.is_set()  # it has returned, and the driver still hangs
            wait_until(lambda: camera.status.state is CameraState.ENDED)
            camera.close()
            wake.set()


class TestGivingUp:
    def test_the_cap_of_restarts(self, changes):
        source = Script(gives(then=gone("Connection refused", CameraFault.REFUSED)))
        with camera_of(source, replace(QUICK, restarts=4)) as camera:
            wait_until(lambda: camera.status.state is CameraState.FAILED)
            assert (source.opened, camera.status.reconnects, camera.connected_once) == (5, 4, False)
            assert str(camera.error) == camera.status.message == "Connection refused; gave up after 4 restarts"
            assert camera.error.fault is CameraFault.REFUSED
        assert changes()[-1] == "connecting -> failed: Connection refused; gave up after 4 restarts"

    def test_while_another_camera_runs_it_is_not_given_up(self):
        other_runs = threading.Event()
        other_runs.set()
        source = Script(gives(then=gone()))
        with camera_of(source, replace(QUICK, restarts=2), others_run=other_runs.is_set) as camera:
            wait_until(lambda: source.opened > 10)
            assert camera.status.state is not CameraState.FAILED
            other_runs.clear()
            wait_until(lambda: camera.status.state is CameraState.FAILED)
            assert camera.status.message == "gone; gave up after 2 restarts"

    def test_a_healthy_connection_starts_the_count_again(self):
        source = Script(*[gives(value, then=gone()) for value in range(6)], gives(then=gone()))
        with camera_of(source, replace(QUICK, restarts=1, healthy_s=0.0)) as camera:
            wait_until(lambda: given_up(camera))
            # Six connections with a frame, each of them healthy, each followed by a restart, the first in a row. The seventh fails: 2 > 1.
            assert source.opened == 7

    def test_waits_grow_as_the_limits_say(self, changes):
        limits = RestartLimits(first_wait_s=0.01, longest_wait_s=0.03, restarts=4)
        with camera_of(Script(*[gives(then=gone(f"failure {number}")) for number in range(5)]), limits, random=lambda: 1.0) as camera:
            wait_until(lambda: camera.status.state is CameraState.FAILED)
        # 0.01, 0.02, then 0.04 cut to 0.03, shown with one decimal place
        waits = [change.split("; ")[1] for change in changes() if "-> backoff" in change]
        assert waits == ["next try in 0.0 s"] * 4

    @pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("odd height"), RuntimeError("driver"), StopIteration()])
    def test_whatever_a_driver_raises_is_followed_by_another_try(self, error):
        end = threading.Event()
        with camera_of(Script(gives(then=error), gives_until(end))) as camera:
            wait_until(lambda: camera.connected_once)
            assert camera.status.reconnects == 1
            end.set()

    def test_a_mistake_in_the_program_is_no_reason_to_try_again(self, caplog):
        source = Script(gives(1, then=KeyError("no such thing")))
        with camera_of(source) as camera:
            assert len(take_all(camera)) == 1
            assert (source.opened, str(camera.error)) == (1, "camera door failed (KeyError: 'no such thing'): check it")
        assert "Traceback" in caplog.text

    def test_what_this_machine_cannot_do_is_not_tried_again(self):
        source = Script(gives(then=gone("no decoder", CameraFault.UNSUPPORTED)))
        with camera_of(source) as camera:
            wait_until(lambda: camera.status.state is CameraState.FAILED)
            assert (source.opened, camera.error.fault) == (1, CameraFault.UNSUPPORTED)

    def test_a_broken_supervisor_is_no_silent_one(self, monkeypatch):
        reported = []
        monkeypatch.setattr(threading, "excepthook", reported.append)
        with camera_of(Script(gives(then=gone())), random=lambda: 1 / 0) as camera:
            wait_until(lambda: camera.status.state is CameraState.FAILED)
            wait_until(lambda: reported)
            assert camera.error is not None
        assert reported[0].exc_type is ZeroDivisionError

    def test_no_password_anywhere(self, caplog):
        caplog.set_level(logging.DEBUG)
        error = OSError(111, "Connection refused", "rtsp://user:geheim@10.0.0.1/live")
        with camera_of(Script(gives(then=error)), replace(QUICK, restarts=1)) as camera:
            wait_until(lambda: camera.status.state is CameraState.FAILED)
            shown = f"{camera.status} {camera.error!r} {camera.last_failure} {caplog.text}"
        assert "Connection refused" in shown
        assert "geheim" not in shown


class TestRecording:
    def test_every_frame_comes_in_order_under_a_slow_consumer(self):
        made = []

        def images():
            for value in range(200):
                made.append(value)
                yield SourceImage(picture(value), value / 10)
            return "as long as it says"

        with camera_of(Script(images, live=False)) as camera:
            taken = []
            while camera.status.state not in OVER:
                if frame := camera.take():
                    taken.append(frame)
                    if len(taken) % 20 == 0:
                        wait_until(lambda: len(made) in (200, len(taken) + 5))  # four wait, and the reader with one more
                assert len(made) <= len(taken) + 5
            assert values_of(taken) == [frame.index for frame in taken] == list(range(200))
            assert [frame.timestamp_s for frame in taken] == [value / 10 for value in range(200)]
            assert (camera.status.captured, camera.status.dropped, camera.remark) == (200, 0, "as long as it says")

    def test_it_has_not_ended_before_the_last_frame_is_taken(self):
        with camera_of(Script(gives(1, 2, 3), live=False)) as camera:
            wait_until(lambda: camera._state is CameraState.ENDED)
            states = []
            while camera.take():
                states.append(camera.status.state)
            assert states == [CameraState.RUNNING, CameraState.RUNNING, CameraState.ENDED]

    def test_times_are_counted_where_it_has_none(self):
        with camera_of(Script(gives(1, 2, 3), live=False)) as camera:
            assert [frame.timestamp_s for frame in take_all(camera)] == [0, 0.04, 0.08]  # 25 a second

    def test_equal_frames_and_a_slow_disk_are_no_fault_of_it(self):
        def images():
            for _ in range(30):
                time.sleep(0.003)  # beyond stale_s
                yield SourceImage(picture(9))

        with camera_of(Script(images, live=False), replace(QUICK, identical_frames=5, stale_s=0.001)) as camera:
            assert len(take_all(camera)) == 30
            assert camera.status.state is CameraState.ENDED

    def test_its_error_comes_after_its_frames_and_is_final(self):
        source = Script(gives(1, 2, then=gone("ends early", CameraFault.LOST)), live=False)
        with camera_of(source) as camera:
            assert values_of(take_all(camera)) == [1, 2]
            assert (source.opened, camera.status.state, str(camera.error)) == (1, CameraState.FAILED, "ends early")

    def test_stop_ends_reading_and_leaves_what_was_captured(self):
        with camera_of(Script(gives(*range(100)), live=False)) as camera:
            wait_until(lambda: camera.status.captured == 4)
            camera.stop()
            wait_until(lambda: camera._state is CameraState.ENDED)
            assert values_of(take_all(camera)) == [0, 1, 2, 3]
            assert (camera.status.captured, camera.status.dropped, camera.status.state) == (4, 0, CameraState.ENDED)

    def test_whether_it_is_one_may_be_known_only_when_it_is_connected(self):
        """As of a video whose address does not end in .mp4."""

        def images():
            source.live = False
            for value in range(50):
                yield SourceImage(picture(value))

        source = Script(images)
        with camera_of(source) as camera:
            assert values_of(take_all(camera)) == list(range(50))
            assert (camera.live, camera.status.state) == (False, CameraState.ENDED)


def test_nothing_is_left_of_200_connections():
    def images():
        with Path(os.devnull).open():
            yield SourceImage(picture(1))
            raise gone()

    def held():
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    before = held()
    source = Script(images)
    with camera_of(source, replace(QUICK, restarts=200)) as camera:
        wait_until(lambda: given_up(camera))
        assert (source.opened, camera.status.captured) == (201, 201)
    assert held() == before


def test_one_event_for_two_cameras():
    ready, end = threading.Event(), threading.Event()
    with camera_of(Script(gives_until(end)), frame_ready=ready) as one, camera_of(Script(gives_until(end)), frame_ready=ready) as other:
        counts = {one: 0, other: 0}
        while min(counts.values()) < 20:
            assert ready.wait(LONG_S)
            ready.clear()
            for camera in counts:
                while camera.take():
                    counts[camera] += 1
        end.set()
