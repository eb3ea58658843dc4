"""Checks of the machine: memory, swap, disk, clock and the cameras on its ports."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from retinanet_edge.runtime.health_check import Check, run_tool
from retinanet_edge.runtime.jetson import jetson_linux

_MEMORY = Path("/proc/meminfo")
_LITTLE_MEMORY_MIB = 1024  # a stream takes about half of it
_LITTLE_SWAP_MIB = 2048  # building an engine on a Jetson of 8 GB runs out of memory without
_LITTLE_DISK_GIB, _NO_DISK_GIB = 2.0, 0.1
_FIRST_YEAR = 2026  # of this code: before it, the clock is wrong, as on a Jetson without a battery
_DEVICES, _NAMES = Path("/dev"), Path("/sys/class/video4linux")


def memory() -> Check:
    """Check that there is memory to spare."""
    figures = memory_mib(_MEMORY.read_text())
    found = f"{figures['MemAvailable']} of {figures['MemTotal']} MiB free"
    if figures["MemAvailable"] < _LITTLE_MEMORY_MIB:
        return Check("memory", "warning", found, "end what else uses it, which ps aux --sort=-rss shows; on a Jetson the desktop, with "
                     "sudo systemctl set-default multi-user.target and a restart")  # fmt: skip
    return Check("memory", "ok", found)


def swap() -> Check:
    """Check that a Jetson has swap, which it needs where it builds engines."""
    figures = memory_mib(_MEMORY.read_text())
    found = f"{figures['SwapFree']} of {figures['SwapTotal']} MiB free"
    if jetson_linux() is not None and figures["SwapTotal"] < _LITTLE_SWAP_MIB:
        return Check("swap", "warning", f"{found}, little for building engines here", "run sudo fallocate -l 8G /swap && sudo chmod 600 "
                     "/swap && sudo mkswap /swap && sudo swapon /swap")  # fmt: skip
    if not figures["SwapTotal"]:
        return Check("swap", "absent", "none, and none is needed")
    return Check("swap", "ok", found)


def memory_mib(text: str) -> dict[str, int]:
    """Return the figures of /proc/meminfo in MiB."""
    return {name: int(kib) // 1024 for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}


def disk() -> Check:
    """Check that the disk of this folder has space."""
    free, total = shutil.disk_usage(".").free / 2**30, shutil.disk_usage(".").total / 2**30
    found = f"{free:.1f} of {total:.0f} GiB free where {Path.cwd()} is"
    if free < _LITTLE_DISK_GIB:
        return Check("disk", "failed" if free < _NO_DISK_GIB else "warning", found, "delete old recordings, or bound them with --keep-gb")
    return Check("disk", "ok", found)


def clock() -> Check:
    """Check that the clock is right: times in results and TLS need it."""
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if time.gmtime().tm_year < _FIRST_YEAR:
        return Check("clock", "failed", f"{now}, which is in the past", "run sudo timedatectl set-ntp true, with a network")
    said = run_tool(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    if said.code == 0 and said.out.strip() == "no":
        return Check("clock", "warning", f"{now}, not synchronised", "run sudo timedatectl set-ntp true, with a network")
    return Check("clock", "ok", f"{now}, {'synchronised' if said.out.strip() == 'yes' else 'whether synchronised is not known'}")


def cameras() -> Check:
    """Check that the video devices may be used by this user."""
    devices = sorted(_DEVICES.glob("video*"), key=lambda path: (len(path.name), path.name))
    if not devices:
        return Check("cameras", "absent", f"no {_DEVICES}/video* device")
    found = ", ".join(f"{device} ({_title(device.name)})" for device in devices)
    closed = [device for device in devices if not os.access(device, os.R_OK | os.W_OK)]
    if closed:
        fix = "run sudo usermod -aG video $USER, then log in again (in a container, start it with --group-add video)"
        return Check("cameras", "failed", f"{found}; no permission to use {', '.join(map(str, closed))}", fix)
    return Check("cameras", "ok", found)


def _title(name: str) -> str:
    label = _NAMES / name / "name"
    return label.read_text(encoding="utf-8", errors="replace").strip() if label.is_file() else "no name"
