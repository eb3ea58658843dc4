"""A compiled plan on the GPU: NumPy arrays in, NumPy arrays out. Knows tensors by name, type and shape, not by meaning."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.device_memory import DeviceMemory
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.tensorrt_library import created, tensorrt_logger

STAGES = ("upload", "engine", "download")
# Ours, since trt.nptype of 8.5 fails with NumPy 1.24 and newer. Type of TensorRT by name -> NumPy's.
_NUMPY_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "UINT8": np.uint8}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of an engine. shape: -1 where dynamic. largest: its shape at the largest batch."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    largest: tuple[int, ...]


@dataclass(frozen=True)
class SessionRun:
    """What one run gives: outputs by name, copies of their own, and milliseconds of each stage on the GPU."""

    outputs: dict[str, NDArray[Any]]
    stage_ms: dict[str, float]


class TensorRTSession:
    """A deserialised plan with its buffers. Only the first dimension of a tensor may be dynamic. Not for two threads at once.

    plan: what the compiler wrote. name: what messages call it. inputs, outputs: specs by tensor name. Raises EngineError for
    bytes that are no plan of this TensorRT, and where CUDA fails.
    """

    def __init__(self, plan: bytes, name: str) -> None:
        self._name = name
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._memory = DeviceMemory()
        with ExitStack() as cleanup:
            cleanup.callback(self.close)
            with self._memory.current():
                self._load(plan)
                self.inputs, self.outputs = self._allocate()
            cleanup.pop_all()

    def _load(self, plan: bytes) -> None:
        import tensorrt as trt

        logger = tensorrt_logger()
        logger.take_errors()  # what earlier work left there
        trt.init_libnvinfer_plugins(logger, "")
        self._runtime = created(lambda: trt.Runtime(logger))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"TensorRT {trt.__version__} cannot load {self._name} ({logger.take_errors()}): "
                "run python export/build_engine.py to make it again"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"no memory to run {self._name} ({logger.take_errors()}): see nvidia-smi for what is left")

    def _allocate(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        """Set every input to its largest shape, then make the buffers. Return the specs of inputs and outputs."""
        import tensorrt as trt

        inputs, outputs = {}, {}
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        for name in names:
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                largest = tuple(self._engine.get_tensor_profile_shape(name, 0)[2])
                inputs[name] = self._allocate_one(name, largest)
                self._accept(self._context.set_input_shape(name, largest))
        for name in names:
            if name not in inputs:
                outputs[name] = self._allocate_one(name, tuple(self._context.get_tensor_shape(name)))
        return inputs, outputs

    def _allocate_one(self, name: str, largest: tuple[int, ...]) -> TensorSpec:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _NUMPY_TYPES or min(largest, default=0) < 0:
            raise EngineError(
                f"tensor {name} of {self._name} must have a type of {sorted(_NUMPY_TYPES)} and a bounded shape, "
                f"got {kind} {list(largest)}: run python export/build_engine.py to make it again"
            )
        dtype: np.dtype[Any] = np.dtype(_NUMPY_TYPES[kind])
        self._accept(self._context.set_tensor_address(name, self._memory.allocate(name, largest, dtype)))
        return TensorSpec(dtype, tuple(self._engine.get_tensor_shape(name)), largest)

    def _accept(self, accepted: bool) -> None:
        if not accepted:
            raise EngineError(
                f"TensorRT refuses to run {self._name} ({tensorrt_logger().take_errors()}): "
                "run python export/build_engine.py to make it again"
            )

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> SessionRun:
        """Run once on `inputs` by name, of the types and shapes of the specs. Raises ValueError for others or a closed session."""
        if self._context is None:
            raise ValueError(f"{self._name} is closed")
        self._check(inputs)
        memory = self._memory
        with memory.current():
            memory.mark()
            for name, values in inputs.items():
                self._accept(self._context.set_input_shape(name, values.shape))
                memory.upload(name, values)
            memory.mark()
            self._accept(self._context.execute_async_v3(memory.stream_handle))
            memory.mark()
            shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self.outputs}
            outputs = {name: memory.download(name, shape[0]) for name, shape in shapes.items()}
            memory.mark()
            times = memory.synchronize()
            return SessionRun({n: values.copy() for n, values in outputs.items()}, dict(zip(STAGES, times, strict=True)))

    def _check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        if inputs.keys() != self.inputs.keys():
            raise ValueError(f"inputs must be {sorted(self.inputs)}, got {sorted(inputs)}")
        for name, values in inputs.items():
            spec = self.inputs[name]
            most, *rest = spec.largest
            if values.dtype != spec.dtype or values.shape[1:] != tuple(rest) or not 1 <= len(values) <= most:
                expected = f"{spec.dtype} [1..{most}, {', '.join(map(str, rest))}]"
                raise ValueError(f"{name} must be {expected}, got {values.dtype} {list(values.shape)}")

    def close(self) -> None:
        """Release what is held, users before what they use; may be called twice."""
        if self._runtime is not None:
            with self._memory.current():
                self._context = None
                self._engine = None
                self._runtime = None
        self._memory.close()
