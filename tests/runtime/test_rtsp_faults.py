"""A real RTSP server on loopback that dies, changes, goes silent and is cut, and cameras that read it as the stream does."""

import logging
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from retinanet_edge.runtime.camera import CameraState, RestartLimits, SourceOptions
from retinanet_edge.runtime.errors import CameraFault
from retinanet_edge.runtime.network_source import NetworkSource
from retinanet_edge.runtime.supervised_camera import SupervisedCamera
from tests.runtime.cutting_proxy import CuttingProxy
from tests.runtime.rtsp_server import PATH, RtspServer, missing_parts

LONG_S = 60.0  # for what must happen
LIMITS = RestartLimits(stale_s=8.0, first_wait_s=0.1, longest_wait_s=0.2, restarts=None)
IMPATIENT = RestartLimits(stale_s=4.0, first_wait_s=0.1, longest_wait_s=0.2, restarts=None)  # FFmpeg needs nearly 2 s to connect

MISSING = missing_parts()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture(scope="module")
def server():
    """A server that is well; what goes wrong, goes wrong in a proxy."""
    with RtspServer() as started:
        yield started


@pytest.fixture
def proxy(server):
    with CuttingProxy(server.port) as started:
        yield started


@contextmanager
def camera_at(port, limits=LIMITS, user="", name="gate"):
    source = NetworkSource(f"rtsp://{user}127.0.0.1:{port}{PATH}", SourceOptions(), timeout_s=20.0)
    camera = SupervisedCamera(name, source, limits, frame_ready=threading.Event())
    try:
        yield camera
    finally:
        camera.close()


def wait_until(condition):
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def frames_more(camera, count=5):
    """Wait for so many frames from now on, and return the newest."""
    goal = camera.status.captured + count
    wait_until(lambda: camera.status.captured >= goal)
    return camera.take()


def test_a_server_that_dies_and_returns_with_another_size():
    with RtspServer(size="160x120") as server, camera_at(server.port) as camera:
        before = frames_more(camera)
        server.kill()
        wait_until(lambda: camera.status.state is CameraState.BACKOFF)
        assert camera.status.message
        server.start(size="320x240")
        wait_until(lambda: camera.status.size == (240, 320))
        after = frames_more(camera)
        assert (before.image.shape, after.image.shape) == ((120, 160, 3), (240, 320, 3))
        assert after.index > before.index
        assert after.timestamp_s > before.timestamp_s
        assert (camera.status.state, camera.status.message) == (CameraState.RUNNING, None)
        assert camera.status.reconnects >= 1


def test_a_connection_cut_in_the_middle_of_a_frame(proxy):
    with camera_at(proxy.port) as camera:
        frames_more(camera)
        proxy.cut()
        wait_until(lambda: camera.status.reconnects == 1 and camera.status.state is CameraState.RUNNING)
        assert frames_more(camera).image.shape == (120, 160, 3)
        assert proxy.cuts == 1


def test_a_network_that_is_away_for_a_while(proxy, caplog):
    caplog.set_level(logging.INFO, "retinanet_edge.camera")
    with camera_at(proxy.port, IMPATIENT) as camera:
        frames_more(camera)
        proxy.stall()
        wait_until(lambda: camera.status.reconnects >= 1)
        assert "camera gate: running -> stale: gave no image for 4 s" in caplog.text
        assert camera.status.age_s >= 4
        proxy.resume()
        frames_more(camera)
        assert camera.status.age_s < 4
        assert camera.error is None


def test_damaged_packets(proxy):
    with camera_at(proxy.port) as camera:
        frames_more(camera)
        proxy.damage()
        frames_more(camera, 30)
        assert proxy.damaged > 20
        proxy.resume()
        assert frames_more(camera).image.shape == (120, 160, 3)
        assert (camera.status.state, camera.error) == (CameraState.RUNNING, None)


def test_a_wrong_password_is_told_and_never_shown(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with RtspServer(auth="user:richtig") as server:
        with camera_at(server.port, user="user:richtig@") as camera:
            frames_more(camera, 1)
        with camera_at(server.port, RestartLimits(stale_s=8.0, first_wait_s=0.01, restarts=1), "user:geheim@") as camera:
            wait_until(lambda: camera.status.state is CameraState.FAILED)
            assert camera.error.fault is CameraFault.AUTHENTICATION
            assert not camera.connected_once
            shown = f"{camera.status} {camera.error!r} {camera.last_failure} {camera.name} {caplog.text} {''.join(capfd.readouterr())}"
    assert "user or password" in shown
    assert "geheim" not in shown
    assert "richtig" not in shown


def test_one_dead_camera_takes_nothing_from_the_other(server):
    with camera_at(1, name="dead") as dead, camera_at(server.port, name="alive") as alive:  # nothing listens at port 1
        first = frames_more(alive, 1)
        last = frames_more(alive, 50)
        rate = (last.index - first.index) / (last.arrived_s - first.arrived_s)
        assert 20 < rate < 30  # it sends 25 a second
        assert dead.status.reconnects >= 2
        assert (dead.last_failure.fault, dead.connected_once) == (CameraFault.REFUSED, False)


def test_nothing_is_left_of_connections_cut_at_all_stages(server):
    def held():
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    before = held()
    with CuttingProxy(server.port) as proxy, camera_at(proxy.port) as camera:
        for chunks in (0, 1, 2, 3, 4, 5, 8) * 3:  # the server's four answers, then video
            cuts = proxy.cuts
            proxy.cut(after=chunks)
            wait_until(lambda known=cuts: proxy.cuts > known)
        frames_more(camera)
        assert camera.status.reconnects >= 21
    wait_until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
