"""Power and memory of the GPU while something runs: what nvidia-smi, or on a Jetson tegrastats, says ten times a second.

A Jetson's CPU and GPU share power supply and memory, so that tegrastats' figures are of the whole module. Where neither tool is there,
there are no figures.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason

INTERVAL_MS = 100
_FIRST_READING_S = 5.0  # nvidia-smi takes a second to start on a box with many GPUs
_NVIDIA_FORMAT = "--format=csv,noheader,nounits"
# A Jetson's rail that all power comes in by; AGX Orin has none, its three separate ones add up (VDDQ_VDD2_1V8AO is within VIN_SYS_5V0).
_WHOLE_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
_PART_RAILS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


@dataclass(frozen=True)
class Usage:
    """power_w: watts. memory_mib: MiB in use, by all processes. None where the tool does not say."""

    power_w: float | None
    memory_mib: float | None


NO_USAGE = Usage(None, None)


@dataclass(frozen=True)
class Reading:
    """What was said at `at_s`, by time.perf_counter()."""

    at_s: float
    usage: Usage


def parse_nvidia_smi(line: str) -> Usage:
    """Return what a line of `nvidia-smi --query-gpu=power.draw,memory.used --format=csv,noheader,nounits` says."""
    power, _, memory = line.partition(",")
    return Usage(_number(power), _number(memory))


def parse_tegrastats(line: str) -> Usage:
    """Return what a line of tegrastats says; its figures are "now/average", in mW, which older ones leave out."""
    rails = {name: int(milliwatts) / 1000 for name, milliwatts in re.findall(r"\b(V[A-Z0-9_]+|POM_[A-Z0-9_]+) (\d+)(?:mW)?/\d+", line)}
    whole = [rails[name] for name in _WHOLE_RAILS if name in rails]
    parts = [rails[name] for name in _PART_RAILS if name in rails]
    memory = re.search(r"\bRAM (\d+)/\d+MB", line)
    power = whole[0] if whole else sum(parts) if len(parts) == len(_PART_RAILS) else None
    return Usage(power, float(memory[1]) if memory else None)


def usage_over(readings: Sequence[Reading], start_s: float, end_s: float) -> Usage:
    """Return mean power and largest memory of the readings between two times of time.perf_counter()."""
    within = [reading.usage for reading in readings if start_s <= reading.at_s <= end_s]
    powers = [usage.power_w for usage in within if usage.power_w is not None]
    memories = [usage.memory_mib for usage in within if usage.memory_mib is not None]
    return Usage(statistics.fmean(powers) if powers else None, max(memories) if memories else None)


class Meter:
    """Reads the lines of a tool that runs on and on, in a thread. A context manager; without a command it says nothing.

    before: the first reading, from when nothing ran yet.
    """

    def __init__(self, command: Sequence[str] | None, parse: Callable[[str], Usage]) -> None:
        self._readings: list[Reading] = []
        self._has_read = threading.Event()
        self._parse, self._process, self._thread = parse, None, None
        if command is not None:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace",
                start_new_session=True,  # so that, where it is a script, what it started ends with it
            )  # fmt: skip
            self._thread = threading.Thread(target=self._read, name="meter", daemon=True)
            self._thread.start()
            self._has_read.wait(_FIRST_READING_S)
        self.before = self._readings[0].usage if self._readings else NO_USAGE

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._readings.append(Reading(time.perf_counter(), self._parse(line)))
            self._has_read.set()
        self._has_read.set()  # a tool that ends without a word is not waited for

    def over(self, start_s: float, end_s: float) -> Usage:
        """Return mean power between two times of time.perf_counter(), and the most memory that was in use beyond `before`."""
        usage = usage_over(list(self._readings), start_s, end_s)
        if usage.memory_mib is None or self.before.memory_mib is None:
            return usage
        return Usage(usage.power_w, max(0.0, usage.memory_mib - self.before.memory_mib))

    def close(self) -> None:
        """End the tool; may be called twice."""
        if self._process is None or self._thread is None:
            return
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_meter(gpu: str | None) -> Meter:
    """Start the tool of this machine. gpu: PCI bus id of the GPU, as CUDA gives it; None where no GPU is used."""
    if gpu is not None and (tool := shutil.which("tegrastats")):
        return Meter([tool, "--interval", str(INTERVAL_MS)], parse_tegrastats)
    if gpu is not None and (tool := shutil.which("nvidia-smi")):
        for power in ("power.draw.instant", "power.draw"):  # drivers before 525 know only the latter; on some GPUs it is an average
            query = [tool, f"--query-gpu={power},memory.used", _NVIDIA_FORMAT, f"--id={gpu}"]
            if subprocess.run(query, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False).returncode == 0:
                return Meter([*query, f"--loop-ms={INTERVAL_MS}"], parse_nvidia_smi)
    return Meter(None, parse_nvidia_smi)


def gpu_of_tensorrt() -> str | None:
    """Return the PCI bus id of the GPU that TensorRT uses, None where there is no TensorRT or no GPU."""
    if tensorrt_unavailable_reason() is not None:
        return None
    import pycuda.driver as cuda

    return str(cuda.Device(0).pci_bus_id())


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]", "[Not Supported]"
        return None
