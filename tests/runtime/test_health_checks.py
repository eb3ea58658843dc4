"""The doctor's checks on machines that are put together from files and tools of a folder."""

import os
import sys
import time
import types

import pytest

from retinanet_edge.runtime import health_gpu, health_machine, health_software, jetson
from retinanet_edge.runtime.health_check import Check
from retinanet_edge.runtime.opencv_build import OpenCVFeatures

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"


def write_tool(folder, name, script):
    """Put a tool first on the PATH of the checks."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def on_jetson(tmp_path, monkeypatch):
    """A Jetson as its files and tools show it; returns the folder of its tools."""
    (tmp_path / "nv_tegra_release").write_text(RELEASE)
    monkeypatch.setattr(jetson, "_RELEASE", tmp_path / "nv_tegra_release")
    monkeypatch.setenv("PATH", str(tmp_path / "tools"), prepend=os.pathsep)
    return tmp_path / "tools"


@pytest.fixture
def no_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(jetson, "_RELEASE", tmp_path / "none")
    monkeypatch.setattr(health_gpu, "_DEVICE", tmp_path / "none")
    monkeypatch.setattr(health_gpu, "_PCI", tmp_path / "pci")
    return tmp_path / "pci"


def add_pci_device(pci, slot, vendor, kind):
    (pci / slot).mkdir(parents=True)
    (pci / slot / "vendor").write_text(f"{vendor}\n")
    (pci / slot / "class").write_text(f"{kind}\n")


# --- Jetson


@pytest.mark.usefixtures("no_gpu")
def test_no_jetson():
    assert [check().status for check in (jetson.jetpack, jetson.power_mode, jetson.csi_camera)] == ["absent"] * 3


def test_jetpack_by_its_package_or_without(on_jetson):
    write_tool(on_jetson, "dpkg-query", "printf 6.2+b77")
    assert jetson.jetpack() == Check("jetpack", "ok", "Jetson Linux 36.4.3, JetPack 6.2+b77")
    write_tool(on_jetson, "dpkg-query", "echo 'no packages found' >&2; exit 1")
    assert jetson.jetpack() == Check("jetpack", "ok", "Jetson Linux 36.4.3, package nvidia-jetpack is not installed")


@pytest.mark.usefixtures("on_jetson")
def test_jetpack_5_is_not_supported():
    jetson._RELEASE.write_text(RELEASE.replace("R36", "R35"))
    assert (jetson.jetpack().status, jetson.jetpack().found.split(",")[0]) == ("failed", "Jetson Linux 35.4.3")


MODES = """\
< PM_CONFIG DEFAULT=1 >
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME={} >
"""


@pytest.mark.parametrize(
    ("mode", "highest", "expected"),
    [
        ("25W", "MAXN_SUPER", Check("power mode", "warning", "25W, below MAXN_SUPER", "run sudo nvpmodel -m 2")),
        ("MAXN_SUPER", "MAXN_SUPER", Check("power mode", "ok", "MAXN_SUPER")),
        ("MAXN", "MAXN", Check("power mode", "ok", "MAXN")),
        ("25W", "40W", Check("power mode", "ok", "25W")),  # which of them is the highest is not known
    ],
)
def test_power_mode(on_jetson, tmp_path, monkeypatch, mode, highest, expected):
    write_tool(on_jetson, "nvpmodel", f"echo 'NV Power Mode: {mode}'; echo 1")
    (tmp_path / "nvpmodel.conf").write_text(MODES.format(highest))
    monkeypatch.setattr(jetson, "_MODES", tmp_path / "nvpmodel.conf")
    assert jetson.power_mode() == expected


def test_power_mode_that_cannot_be_asked(on_jetson):
    write_tool(on_jetson, "nvpmodel", "exit 1")
    assert jetson.power_mode().status == "warning"


def test_csi_camera(on_jetson, tmp_path, monkeypatch):
    monkeypatch.setattr(jetson, "_SENSORS", tmp_path / "video4linux")
    monkeypatch.setattr(jetson, "_ARGUS", tmp_path / "argus_socket")
    (tmp_path / "video4linux/video1").mkdir(parents=True)
    (tmp_path / "video4linux/video1/name").write_text("HD Webcam C920\n")
    assert jetson.csi_camera().status == "absent"
    (tmp_path / "video4linux/video0").mkdir()
    (tmp_path / "video4linux/video0/name").write_text("vi-output, imx219 9-0010\n")
    write_tool(on_jetson, "gst-inspect-1.0", "exit 1")
    assert jetson.csi_camera().found == "imx219 9-0010; GStreamer has no nvarguscamerasrc"
    write_tool(on_jetson, "gst-inspect-1.0", '[ "$*" = "--exists nvarguscamerasrc" ]')
    without_daemon = jetson.csi_camera()
    assert (without_daemon.status, without_daemon.fix) == ("failed", "run sudo systemctl restart nvargus-daemon")
    (tmp_path / "argus_socket").touch()
    assert jetson.csi_camera().status == "ok"


# --- GPU


def test_a_gpu_is_seen_without_its_driver(no_gpu):
    add_pci_device(no_gpu, "0000:00:01.0", "0x8086", "0x030000")  # Intel's graphics
    add_pci_device(no_gpu, "0000:00:02.0", "0x10de", "0x040300")  # the sound of a graphics card
    assert not health_gpu.has_nvidia_gpu()
    assert health_gpu.gpu().status == "absent"
    add_pci_device(no_gpu, "0000:00:03.0", "0x10de", "0x030200")  # a 3D controller, as in a server
    assert health_gpu.has_nvidia_gpu()


def fake_cuda(free_mib, fails=False):
    class Error(Exception):
        pass

    def init():
        if fails:
            raise Error("cuInit failed: unknown error")

    context = types.SimpleNamespace(push=lambda: None, pop=lambda: None)
    device = types.SimpleNamespace(name=lambda: "Orin", compute_capability=lambda: (8, 7), retain_primary_context=lambda: context)
    driver = types.ModuleType("pycuda.driver")
    vars(driver).update(
        Error=Error, init=init, Device=lambda _: device, get_driver_version=lambda: 12060,
        mem_get_info=lambda: (free_mib << 20, 7620 << 20),
    )  # fmt: skip
    return {"pycuda": types.ModuleType("pycuda"), "pycuda.driver": driver}


@pytest.mark.parametrize(("free_mib", "fails", "status"), [(5000, False, "ok"), (500, False, "warning"), (0, True, "failed")])
def test_a_gpu_with_its_driver(no_gpu, monkeypatch, free_mib, fails, status):
    add_pci_device(no_gpu, "0000:00:03.0", "0x10de", "0x030000")
    for name, module in fake_cuda(free_mib, fails).items():
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["pycuda"].driver = sys.modules["pycuda.driver"]
    check = health_gpu.gpu()
    assert check.status == status
    if fails:
        assert check.fix == "install NVIDIA's driver, in a container start it with --gpus all"
    else:
        assert check.found == f"Orin, compute capability 8.7, driver of CUDA 12.6, {free_mib} of 7620 MiB free"


def test_a_gpu_without_its_libraries(no_gpu, monkeypatch):
    add_pci_device(no_gpu, "0000:00:03.0", "0x10de", "0x030000")
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert health_gpu.gpu().fix == health_gpu.tensorrt().fix == "run pip install -e '.[gpu]'"
    assert health_gpu.nms_plugin().status == "absent"


@pytest.mark.usefixtures("on_jetson")
def test_a_jetson_whose_environment_does_not_see_jetpacks_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "--system-site-packages" in health_gpu.tensorrt().fix


@pytest.mark.parametrize(("version", "status"), [("8.4.1.5", "failed"), ("8.5.2.2", "ok"), ("10.3.0", "ok"), ("11.4.0.1", "ok")])
def test_versions_of_tensorrt(monkeypatch, version, status):
    module = types.ModuleType("tensorrt")
    module.__version__ = version
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    assert health_gpu.tensorrt().status == status


def test_openvino_is_needed_where_there_is_no_gpu(no_gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert health_gpu.openvino().fix == "run pip install -e '.[cpu]'"
    add_pci_device(no_gpu, "0000:00:03.0", "0x10de", "0x030000")
    assert health_gpu.openvino().status == "absent"


# --- libraries

FULL = OpenCVFeatures("4.8.0", gstreamer=True, ffmpeg=True, v4l2=True, gui="GTK3")
WHEEL = OpenCVFeatures("4.12.0", gstreamer=False, ffmpeg=True, v4l2=True, gui=None)


@pytest.mark.parametrize(
    ("features", "installed", "on_a_jetson", "status", "fix"),
    [
        (FULL, [], True, "ok", None),
        (WHEEL, ["opencv-python-headless"], False, "ok", None),
        (WHEEL, ["opencv-python"], True, "warning", "run pip uninstall -y opencv-python"),
        (WHEEL, [], True, "warning", "run sudo apt install --reinstall libopencv libopencv-python"),
        (WHEEL, ["opencv-python", "opencv-python-headless"], False, "failed",
         "run pip uninstall -y opencv-python opencv-python-headless, then install one of them again"),
    ],
)  # fmt: skip
def test_which_opencv_it_is(features, installed, on_a_jetson, status, fix):
    check = health_software.judged("4.8.0", features, installed, jetson=on_a_jetson)
    assert (check.status, check.fix) == (status, fix)


def test_abilities_in_words():
    assert health_software.describe(FULL) == "4.8.0 with GStreamer, FFmpeg, V4L2 and windows"
    assert health_software.describe(WHEEL) == "4.12.0 with FFmpeg and V4L2, without GStreamer and windows"
    without_cameras = OpenCVFeatures("4.1", gstreamer=False, ffmpeg=True, v4l2=False, gui="QT")
    assert health_software.describe(without_cameras) == "4.1 with FFmpeg and windows, without GStreamer and V4L2"


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("numpy.core.multiarray failed to import", "run pip install 'numpy<2': this OpenCV was compiled for NumPy 1"),
        ("libGL.so.1: cannot open shared object file: No such file or directory",
         "run pip uninstall -y opencv-python, then pip install opencv-python-headless, which needs no display"),
        ("libtbb.so.12: cannot open shared object file",
         "install the package that has libtbb.so.12, which apt-file search libtbb.so.12 names"),
        ("/usr/lib/aarch64-linux-gnu/libgomp.so.1: cannot allocate memory in static TLS block",
         "run export LD_PRELOAD=/usr/lib/aarch64-linux-gnu/libgomp.so.1, and set it in the service too"),
    ],
)  # fmt: skip
def test_an_opencv_that_does_not_load(reason, fix):
    assert health_software.load_fix(reason) == fix


def test_libraries_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "av", None)
    assert (health_software.opencv().status, health_software.pyav().status) == ("failed", "failed")


# --- the machine

MEMINFO = """\
MemTotal:        7802880 kB
MemFree:             100 kB
MemAvailable:   {} kB
SwapTotal:      {} kB
SwapFree:       {} kB
HugePages_Total:       0
"""


@pytest.mark.parametrize(("available", "status"), [(3 << 20, "ok"), (1 << 19, "warning")])
def test_memory(tmp_path, monkeypatch, available, status):
    monkeypatch.setattr(health_machine, "_MEMORY", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(MEMINFO.format(available, 0, 0))
    check = health_machine.memory()
    assert (check.status, check.found) == (status, f"{available // 1024} of 7620 MiB free")  # 7802880 / 1024


@pytest.mark.usefixtures("no_gpu")
def test_swap_is_asked_for_on_a_jetson_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(health_machine, "_MEMORY", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(MEMINFO.format(1, 0, 0))
    assert health_machine.swap().status == "absent"
    (tmp_path / "nv_tegra_release").write_text(RELEASE)
    monkeypatch.setattr(jetson, "_RELEASE", tmp_path / "nv_tegra_release")
    assert health_machine.swap().status == "warning"
    (tmp_path / "meminfo").write_text(MEMINFO.format(1, 8 << 20, 8 << 20))
    assert health_machine.swap() == Check("swap", "ok", "8192 of 8192 MiB free")


@pytest.mark.parametrize(
    ("said", "status"), [("echo yes", "ok"), ("echo no", "warning"), ("echo 'Failed to connect to bus' >&2; exit 1", "ok")]
)
def test_clock(tmp_path, monkeypatch, said, status):
    write_tool(tmp_path / "tools", "timedatectl", said)
    monkeypatch.setenv("PATH", str(tmp_path / "tools"), prepend=os.pathsep)
    assert health_machine.clock().status == status


def test_a_clock_that_starts_at_nothing(monkeypatch):
    epoch = time.gmtime(0)
    monkeypatch.setattr(health_machine.time, "gmtime", lambda: epoch)
    assert health_machine.clock().status == "failed"


def test_cameras(tmp_path, monkeypatch):
    monkeypatch.setattr(health_machine, "_DEVICES", tmp_path)
    monkeypatch.setattr(health_machine, "_NAMES", tmp_path / "names")
    assert health_machine.cameras().status == "absent"
    for number in (10, 2):
        (tmp_path / f"video{number}").touch()
    (tmp_path / "names/video2").mkdir(parents=True)
    (tmp_path / "names/video2/name").write_text("HD Webcam\n")
    assert health_machine.cameras() == Check("cameras", "ok", f"{tmp_path}/video2 (HD Webcam), {tmp_path}/video10 (no name)")
    closed = {tmp_path / "video10"}  # to root nothing is closed
    monkeypatch.setattr(health_machine.os, "access", lambda path, _: path not in closed)
    assert health_machine.cameras().found.endswith(f"no permission to use {tmp_path}/video10")
