"""What reaches systemd, read from a real datagram socket in its place."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time

import pytest

from retinanet_edge.runtime import service_notify
from retinanet_edge.runtime.service_notify import Watchdog


class Manager:
    """systemd's end of the socket."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(30)

    def next(self):
        return self.socket.recv(4096).decode()

    def is_empty(self):
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(30)


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    name = str(tmp_path / "notify") if request.param == "path" else f"\0retinanet-edge-{secrets.token_hex(8)}"
    manager = Manager(name)
    monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield manager
    manager.socket.close()


def test_a_service_from_start_to_end(manager):
    assert service_notify.ready()
    assert service_notify.status("25.0 frames/s,\n2 cameras")
    assert service_notify.stopping()
    # One line each: a line break in the text would be a state of its own.
    assert [manager.next() for _ in range(3)] == ["READY=1", "STATUS=25.0 frames/s, 2 cameras", "STOPPING=1"]


def test_a_reload_says_when_it_began(manager):
    before = time.monotonic_ns() // 1000
    assert service_notify.reloading()
    state, stamp = manager.next().splitlines()
    assert state == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_without_a_manager_nothing_is_said(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not service_notify.ready()


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1234", "/nobody/listens/here", "@nobody-listens-here", "/" + "x" * 200])
def test_a_manager_that_is_not_there_stops_nothing(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not service_notify.ready()


def test_a_manager_that_does_not_read_holds_nothing_up_for_ever(manager):
    sent = 0
    while service_notify.notify("STATUS=x"):  # until the queue is full
        sent += 1
        assert sent < 100_000
    assert manager.next() == "STATUS=x"
    assert service_notify.notify("STATUS=y")  # there is room again


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_the_watchdog_pings_while_inference_advances_at_most_twice_an_interval(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    clock = Clock()
    watchdog = Watchdog(clock)
    assert watchdog.interval_s == 10
    pinged = []
    for second in range(30):
        clock.now = 1000.0 + second
        if watchdog.advance(frames_inferred=25 * (second + 1)):
            pinged.append(second)
            assert manager.next() == "WATCHDOG=1"
    assert pinged == [0, 5, 10, 15, 20, 25]  # 10 s / 2 apart
    assert manager.is_empty()


def test_the_watchdog_is_silent_while_inference_stands_still(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    clock = Clock()
    watchdog = Watchdog(clock)
    assert not watchdog.advance(0)  # nothing yet
    assert watchdog.advance(1)
    clock.now += 1000
    assert not watchdog.advance(1)
    assert watchdog.advance(2)
    assert [manager.next(), manager.next()] == ["WATCHDOG=1"] * 2
    assert manager.is_empty()


def test_a_ping_that_was_not_delivered_is_made_up_for(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    watchdog = Watchdog(Clock())
    there = os.environ["NOTIFY_SOCKET"]
    monkeypatch.setenv("NOTIFY_SOCKET", "/nobody/listens/here")
    assert not watchdog.advance(1)
    monkeypatch.setenv("NOTIFY_SOCKET", there)
    assert watchdog.advance(1)
    assert manager.next() == "WATCHDOG=1"


@pytest.mark.parametrize(
    ("microseconds", "process", "interval_s"),
    [
        ("30000000", None, 30.0), ("500000", str(os.getpid()), 0.5), ("30000000", "1", None), (None, None, None), ("0", None, None),
        ("soon", None, None), ("-5", None, None),
    ],
)  # fmt: skip
def test_the_watchdog_watches_what_the_unit_says(manager, monkeypatch, microseconds, process, interval_s):
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", process)):
        if value is not None:
            monkeypatch.setenv(name, value)
    watchdog = Watchdog()
    assert watchdog.interval_s == interval_s
    assert watchdog.advance(1) == (interval_s is not None)
    assert manager.is_empty() == (interval_s is None)


def test_it_says_what_systemds_own_tool_says(manager):
    tool = shutil.which("systemd-notify")
    if tool is None:
        pytest.skip("no systemd-notify here")
    subprocess.run([tool, "--no-block", "--ready", "--status=a word"], check=True, timeout=60)
    theirs = manager.next().splitlines()
    subprocess.run(
        [sys.executable, "-c", "from retinanet_edge.runtime import service_notify as s; s.notify('READY=1\\nSTATUS=a word')"],
        check=True, timeout=60,
    )  # fmt: skip
    ours = manager.next().splitlines()
    # It also names a process, since it is not the service itself.
    assert [line for line in theirs if not line.startswith(("MAINPID=", "MONOTONIC_USEC="))] == ours
