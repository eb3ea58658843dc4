"""Checks of what runs a model: GPU and driver, TensorRT and its NMS plugin, OpenVINO."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from retinanet_edge.runtime.health_check import Check
from retinanet_edge.runtime.jetson import jetson_linux

_NVIDIA = "0x10de"  # vendor of PCI devices
_FIRST_TENSORRT = (8, 5)
_LITTLE_MIB = 1024
_DISPLAY_CLASS = "0x03"
_PCI, _DEVICE = Path("/sys/bus/pci/devices"), Path("/dev/nvidia0")


def has_nvidia_gpu() -> bool:
    """Say whether this machine has an NVIDIA GPU, with or without a driver."""
    if jetson_linux() is not None or _DEVICE.exists():
        return True
    return any(
        (device / "vendor").read_text().strip() == _NVIDIA and (device / "class").read_text().startswith(_DISPLAY_CLASS)
        for device in _PCI.glob("*")
    )


def gpu() -> Check:
    """Check that CUDA finds a GPU with memory to spare."""
    if not has_nvidia_gpu():
        return Check("gpu", "absent", "no NVIDIA GPU: models run on the CPU")
    try:
        import pycuda.driver as cuda
    except ModuleNotFoundError:
        extra = "jetson" if jetson_linux() else "gpu"
        return Check("gpu", "failed", "an NVIDIA GPU, but no pycuda in this environment", f"run pip install -e '.[{extra}]'")
    except ImportError as error:  # libcuda comes with the driver
        return Check("gpu", "failed", f"an NVIDIA GPU, but its driver does not load: {error}", _driver_fix())
    try:
        cuda.init()
        return _gpu_of(cuda)
    except cuda.Error as error:
        return Check("gpu", "failed", f"an NVIDIA GPU, but CUDA does not start: {error}", _driver_fix())


def _gpu_of(cuda: Any) -> Check:
    device = cuda.Device(0)
    context = device.retain_primary_context()
    context.push()
    free, total = cuda.mem_get_info()
    context.pop()
    free_mib, total_mib = free >> 20, total >> 20
    driver = cuda.get_driver_version()
    capability = ".".join(map(str, device.compute_capability()))
    found = (f"{device.name()}, compute capability {capability}, driver of CUDA {driver // 1000}.{driver % 1000 // 10}, "
             f"{free_mib} of {total_mib} MiB free")  # fmt: skip
    if free_mib < _LITTLE_MIB:
        return Check("gpu", "warning", found, "end what else uses the GPU, which nvidia-smi or on a Jetson tegrastats shows")
    return Check("gpu", "ok", found)


def _driver_fix() -> str:
    if jetson_linux():
        return "run sudo apt install --reinstall nvidia-l4t-cuda, in a container start it with --runtime nvidia"
    return "install NVIDIA's driver, in a container start it with --gpus all"


def tensorrt() -> Check:
    """Check that TensorRT is of a version that this project knows."""
    try:
        installed = importlib.import_module("tensorrt").__version__
    except ModuleNotFoundError:
        if not has_nvidia_gpu():
            return Check("tensorrt", "absent", "not installed, and of no use without an NVIDIA GPU")
        return Check("tensorrt", "failed", "not in this environment", _tensorrt_fix())
    except (ImportError, OSError) as error:
        return Check("tensorrt", "failed", f"does not load: {error}", _tensorrt_fix())
    version = tuple(int(number) for number in re.findall(r"\d+", installed)[:2])
    if version < _FIRST_TENSORRT:
        return Check("tensorrt", "failed", f"{installed}, older than 8.5", _tensorrt_fix())
    return Check("tensorrt", "ok", installed)


def nms_plugin() -> Check:
    """Check that TensorRT has the plugin that engines end in."""
    from retinanet_edge.runtime.tensorrt_library import has_plugin

    try:
        there = has_plugin("EfficientNMS_TRT", "1")
    except (ImportError, OSError):
        return Check("nms plugin", "absent", "no TensorRT")
    if there:
        return Check("nms plugin", "ok", "EfficientNMS_TRT version 1")
    return Check("nms plugin", "warning", "no EfficientNMS_TRT in this TensorRT", "build engines with --nms native")


def _tensorrt_fix() -> str:
    if jetson_linux():
        return "make the environment anew with python3 -m venv --system-site-packages, so that it sees JetPack's TensorRT"
    return "run pip install -e '.[gpu]'"


def openvino() -> Check:
    """Check that OpenVINO is there, which runs models without a GPU."""
    try:
        from openvino import __version__ as version
    except ModuleNotFoundError:
        if has_nvidia_gpu():
            return Check("openvino", "absent", "not installed: models run on the GPU alone")
        return Check("openvino", "failed", "not installed, and there is no NVIDIA GPU", "run pip install -e '.[cpu]'")
    except ImportError as error:
        return Check("openvino", "failed", f"does not load: {error}", "run pip install --force-reinstall openvino")
    return Check("openvino", "ok", str(version).split("-")[0])
