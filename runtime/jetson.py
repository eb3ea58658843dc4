"""The Jetson that this is, if it is one: Jetson Linux, JetPack, power mode and the camera service. Asks NVIDIA's files and tools only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from retinanet_edge.runtime.health_check import Check, run_tool

_RELEASE = Path("/etc/nv_tegra_release")
_MODES = Path("/etc/nvpmodel.conf")
_FIRST_SUPPORTED = 36  # Jetson Linux of JetPack 6, the first with Python 3.10
_SENSORS = Path("/sys/class/video4linux")
_ARGUS = Path("/tmp/argus_socket")  # of nvargus-daemon; the socket, not the process: a container sees its host's where that is mounted


@dataclass(frozen=True)
class JetsonLinux:
    """Release of Jetson Linux (L4T): 36 and "4.3" for R36.4.3."""

    major: int
    revision: str

    def __str__(self) -> str:
        return f"Jetson Linux {self.major}.{self.revision}"


def jetson_linux() -> JetsonLinux | None:
    """Return the release that a Jetson runs, None on other machines."""
    if not _RELEASE.is_file():
        return None
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _RELEASE.read_text(encoding="utf-8", errors="replace"))
    return JetsonLinux(int(found[1]), found[2]) if found else None


def jetpack() -> Check:
    """Check that this is no Jetson, or one with JetPack 6 or newer."""
    linux = jetson_linux()
    if linux is None:
        return Check("jetpack", "absent", "this is no Jetson")
    package = run_tool(["dpkg-query", "--show", "--showformat", "${Version}", "nvidia-jetpack"])
    installed = f"JetPack {package.out}" if package.code == 0 and package.out else "package nvidia-jetpack is not installed"
    found = f"{linux}, {installed}"
    if linux.major < _FIRST_SUPPORTED:
        return Check("jetpack", "failed", found, "flash JetPack 6 or newer with NVIDIA's SDK Manager")
    return Check("jetpack", "ok", found)


def power_mode() -> Check:
    """Check that a Jetson runs at its highest power mode."""
    if jetson_linux() is None:
        return Check("power mode", "absent", "this is no Jetson")
    said = run_tool(["nvpmodel", "-q"])
    current = re.search(r"NV Power Mode: (\S+)", said.out)
    if current is None:
        return Check("power mode", "warning", "nvpmodel does not say which it is", "run sudo nvpmodel -q")
    modes = power_modes(_MODES.read_text(encoding="utf-8", errors="replace")) if _MODES.is_file() else {}
    highest = next((name for name in ("MAXN_SUPER", "MAXN") if name in modes), None)
    if highest is None or current[1] == highest:
        return Check("power mode", "ok", current[1])
    return Check("power mode", "warning", f"{current[1]}, below {highest}", f"run sudo nvpmodel -m {modes[highest]}")


def power_modes(text: str) -> dict[str, int]:
    """Return the power modes that nvpmodel.conf defines, with their numbers, which differ between Jetsons."""
    return {name: int(number) for number, name in re.findall(r"<\s*POWER_MODEL ID=(\d+) NAME=(\S+)\s*>", text)}


def csi_camera() -> Check:
    """Check that what reads a CSI camera is there, where one is fitted to a Jetson."""
    if jetson_linux() is None:
        return Check("csi camera", "absent", "this is no Jetson")
    sensors = csi_sensors(_SENSORS)
    if not sensors:
        return Check("csi camera", "absent", "no sensor found on the CSI port")
    found = ", ".join(sensors)
    if run_tool(["gst-inspect-1.0", "--exists", "nvarguscamerasrc"]).code != 0:
        return Check("csi camera", "failed", f"{found}; GStreamer has no nvarguscamerasrc",
                     "run sudo apt install --reinstall nvidia-l4t-gstreamer gstreamer1.0-tools")  # fmt: skip
    if not _ARGUS.exists():
        return Check("csi camera", "failed", f"{found}; nvargus-daemon does not run", "run sudo systemctl restart nvargus-daemon")
    return Check("csi camera", "ok", f"{found}; nvarguscamerasrc and nvargus-daemon are there")


def csi_sensors(names: Path) -> list[str]:
    """Return the sensors on the CSI ports of a Jetson, as its video input names them ("imx219 9-0010")."""
    titles = [path.read_text(encoding="utf-8", errors="replace").strip() for path in sorted(names.glob("video*/name"))]
    return [title.removeprefix("vi-output, ") for title in titles if title.startswith("vi-output, ")]
