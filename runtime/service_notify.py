"""Tells systemd how a service is doing: ready, stopping, reloading, alive. Without systemd nothing is said, and nothing fails.

The protocol is that of sd_notify(3): one datagram of NAME=value lines to the socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

_PATIENCE_S = 1.0  # for a manager that is behind with its queue; a stream does not wait longer


def notify(state: str) -> bool:
    """Send `state`, lines of NAME=value, and say whether it was delivered. Never raises for a manager that is not there or has gone."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):  # unset; vsock, for virtual machines, is none of ours
        return False
    if address.startswith("@"):  # Linux's abstract names begin with a zero byte
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(_PATIENCE_S)
            connection.sendto(state.encode(), address)
    except OSError:
        return False
    return True


def ready() -> bool:
    """Say that the service runs; also that a reload is done."""
    return notify("READY=1")


def stopping() -> bool:
    """Say that the service is ending."""
    return notify("STOPPING=1")


def reloading() -> bool:
    """Say that the configuration is being read again; `ready` ends it."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def status(text: str) -> bool:
    """Set the line that `systemctl status` shows."""
    return notify(f"STATUS={' '.join(text.split())}")


class Watchdog:
    """Pings systemd's watchdog while inference advances: a stream that hangs in a driver stops pinging, and is started again.

    interval_s: what the unit gives as WatchdogSec, None where it watches nothing or another process. clock: seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval_s = _watched_interval_s()
        self._clock = clock
        self._pinged_at = -float("inf")
        self._frames = 0

    def advance(self, frames_inferred: int) -> bool:
        """Ping if more frames were inferred than at the last ping, at most twice in an interval. Return whether it was done.

        frames_inferred: counted since the start. To be called often, from one thread.
        """
        if self.interval_s is None or frames_inferred <= self._frames:
            return False
        now = self._clock()
        if now - self._pinged_at < self.interval_s / 2 or not notify("WATCHDOG=1"):
            return False
        self._pinged_at, self._frames = now, frames_inferred
        return True


def _watched_interval_s() -> float | None:
    microseconds, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or process not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6
