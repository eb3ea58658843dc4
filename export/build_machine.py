"""The machine that is to build: its TensorRT, its GPU and how much of the GPU's memory is free; or what it lacks."""

from __future__ import annotations

from dataclasses import dataclass

from retinanet_edge.export.nms import has_nms_plugin
from retinanet_edge.runtime.tensorrt_library import Machine, tensorrt_unavailable_reason, this_machine


@dataclass(frozen=True)
class BuildMachine:
    """What is here. machine: None where no engine can be built, `lacking` then says why. tensorrt: its version, None where there is none.

    weakly_typed: whether its TensorRT takes precisions from builder flags; has_plugin: whether it has the NMS plugin; None without one.
    free_bytes, total_bytes: memory of the GPU.
    """

    machine: Machine | None = None
    lacking: str | None = None
    tensorrt: str | None = None
    weakly_typed: bool | None = None
    has_plugin: bool | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None


def this_build_machine() -> BuildMachine:
    """Look at what is here. Raises EngineError where the GPU fails."""
    lacking = tensorrt_unavailable_reason()
    if lacking is None:
        machine = this_machine()
        free, total = gpu_memory()
        return BuildMachine(machine, None, machine.tensorrt, is_weakly_typed(), has_nms_plugin(), free, total)
    try:
        import tensorrt as trt
    except (ImportError, OSError):
        return BuildMachine(lacking=lacking)
    return BuildMachine(None, lacking, trt.__version__, is_weakly_typed(), has_nms_plugin())


def is_weakly_typed() -> bool:
    """Say whether builder flags allow this TensorRT other precisions than FP32, as they do below 11."""
    import tensorrt as trt

    return hasattr(trt.BuilderFlag, "FP16")


def gpu_memory() -> tuple[int, int]:
    """Return free and total memory of GPU 0, bytes; on a Jetson the CPU's, too. Raises EngineError where the GPU fails."""
    import pycuda.driver as cuda

    from retinanet_edge.runtime.device_memory import DeviceMemory

    memory = DeviceMemory()
    try:
        with memory.current():
            free, total = cuda.mem_get_info()
    finally:
        memory.close()
    return int(free), int(total)


def default_workspace_mib(free_bytes: int) -> int:
    """Return half of the free memory, MiB: the other half is for weights, activations and what else runs there."""
    return max(1, free_bytes // 2 >> 20)
