"""Whether an engine file can run on a machine, from what its card says of it. Pure: asks no GPU."""

from __future__ import annotations

import re

from retinanet_edge.runtime.model_card import EngineRecord
from retinanet_edge.runtime.tensorrt_library import Machine

# NVIDIA's documentation, "Version Compatibility": from 8.6 on, and a newer TensorRT runs the engines of an older one, not the other way
# round. It also promises some later majors; there, names that we use may be missing from the runtime that the engine brings.
_FIRST_COMPATIBLE = (8, 6)
_AMPERE = (8, 0)  # "Hardware Compatibility": Ampere and newer


def machine_of(record: EngineRecord) -> Machine:
    """Return what an engine was built for."""
    return Machine(record.tensorrt, record.gpu, record.compute_capability)


def difference(record: EngineRecord, here: Machine) -> str | None:
    """Return None where an engine runs on the machine `here`, else in words what differs."""
    built = machine_of(record)
    if record.options.get("input") == "fp32-nchw":
        return f"{record.file} takes float32 images that are normalised already, as DeepStream and Triton give them, not camera frames"
    if not (_version_fits(record, here) and _gpu_fits(record, here)):
        return f"{record.file} was built for {built}{_range_of(record)}, but here is {here}"
    return None


def needs_plugin(record: EngineRecord) -> bool:
    """Say whether an engine holds the NMS plugin."""
    return record.options.get("nms", "efficient") == "efficient"


def dla_core_of(record: EngineRecord) -> int | None:
    """Return the DLA core that an engine was built for, None for the GPU."""
    core = record.options.get("dla_core", "None")
    return int(core) if core.isdecimal() else None


def is_version_compatible(record: EngineRecord) -> bool:
    """Say whether an engine brings a runtime of its own for newer versions."""
    return record.options.get("version_compatible") == "True"


def _is_hardware_compatible(record: EngineRecord) -> bool:
    return record.options.get("hardware_compatible") == "True"


def _version_fits(record: EngineRecord, here: Machine) -> bool:
    if record.tensorrt == here.tensorrt:
        return True
    built, found = _numbers(record.tensorrt), _numbers(here.tensorrt)
    return is_version_compatible(record) and _FIRST_COMPATIBLE <= built <= found and built[:1] == found[:1]


def _gpu_fits(record: EngineRecord, here: Machine) -> bool:
    if (record.gpu, record.compute_capability) == (here.gpu, here.compute_capability):
        return True
    capabilities = (_numbers(record.compute_capability), _numbers(here.compute_capability))
    return _is_hardware_compatible(record) and min(capabilities) >= _AMPERE


def _range_of(record: EngineRecord) -> str:
    ranges = []
    if is_version_compatible(record):
        ranges.append("newer ones of its major version")
    if _is_hardware_compatible(record):
        ranges.append("GPUs from compute capability 8.0 on")
    return f" and {' and '.join(ranges)}" if ranges else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
