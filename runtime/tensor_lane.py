"""One set of buffers for every tensor of an engine, with the events that order its copies and time its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.device_memory import Buffer, DeviceMemory
from retinanet_edge.runtime.growing_output import GrowingOutput

STAGES = ("upload", "engine", "download")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of an engine. shape: -1 where dynamic. largest: its shape at the largest batch; -1 where it depends on the data."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    largest: tuple[int, ...]

    @property
    def depends_on_data(self) -> bool:
        """Whether its size is known only when it has been computed."""
        return min(self.largest, default=0) < 0


class Streams:
    """One stream for copies in, one for the engine, one for copies out: what different lanes do in them overlaps.

    All that the engine does stays in one stream, in order: its lanes share one execution context, and with it one scratch memory.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self.upload, self.engine, self.download = (memory.stream() for _ in STAGES)

    def synchronize(self) -> None:
        """Wait for all three."""
        for stream in (self.upload, self.engine, self.download):
            stream.synchronize()


class Lane:
    """Buffers of all inputs and outputs. One batch at a time passes: upload, begin, computed, collect."""

    def __init__(self, memory: DeviceMemory, streams: Streams, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
        self._streams = streams
        self.inputs = {name: memory.buffer(spec.largest, spec.dtype) for name, spec in inputs.items()}
        self.outputs: dict[str, Buffer] = {}
        self.growing: dict[str, GrowingOutput] = {}
        for name, spec in outputs.items():
            if spec.depends_on_data:
                self.growing[name] = GrowingOutput(memory, spec.dtype)
            else:
                self.outputs[name] = memory.buffer(spec.largest, spec.dtype)
        self._begun, self._uploaded, self._started, self._computed, self._done = (memory.event() for _ in range(5))
        self._results: dict[str, NDArray[Any]] = {}

    def upload(self, inputs: Mapping[str, NDArray[Any]], batch: int) -> None:
        """Start copying the inputs, `batch` rows of each, and let the engine's stream wait for them."""
        self._begun.record(self._streams.upload)
        for name, values in inputs.items():
            self.inputs[name].upload(values, batch, self._streams.upload)
        self._uploaded.record(self._streams.upload)
        self._streams.engine.wait_for_event(self._uploaded)
        self._started.record(self._streams.engine)

    def download(self, rows: Mapping[str, int]) -> None:
        """When the engine's stream has got as far as it is now, copy the outputs; `rows` of those whose sizes are known."""
        self._computed.record(self._streams.engine)
        self._streams.download.wait_for_event(self._computed)
        stream = self._streams.download
        self._results = {name: buffer.download(rows[name], stream) for name, buffer in self.outputs.items()}
        self._results |= {name: output.download(stream) for name, output in self.growing.items()}
        self._done.record(stream)

    def collect(self) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
        """Wait for the copies. Return copies of the outputs and the milliseconds of each stage."""
        self._done.synchronize()
        pairs = ((self._begun, self._uploaded), (self._started, self._computed), (self._computed, self._done))
        times = {stage: float(start.time_till(end)) for stage, (start, end) in zip(STAGES, pairs, strict=True)}
        return {name: values.copy() for name, values in self._results.items()}, times


def checked_count(inputs: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec]) -> int:
    """Return the batch size of inputs by name. Raises ValueError where they are not those of the specs."""
    if inputs.keys() != specs.keys():
        raise ValueError(f"inputs must be {sorted(specs)}, got {sorted(inputs)}")
    for name, values in inputs.items():
        most, *rest = specs[name].largest
        if values.dtype != specs[name].dtype or values.shape[1:] != tuple(rest) or not 1 <= len(values) <= most:
            expected = f"{specs[name].dtype} [1..{most}, {', '.join(map(str, rest))}]"
            raise ValueError(f"{name} must be {expected}, got {values.dtype} {list(values.shape)}")
    counts = {name: len(values) for name, values in inputs.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"inputs must have one batch size, got {counts}")
    return next(iter(counts.values()))
