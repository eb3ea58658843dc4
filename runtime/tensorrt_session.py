"""A compiled plan on the GPU: NumPy arrays in, NumPy arrays out. Knows tensors by name, type and shape, not by meaning."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.cuda_graph import GraphCache
from retinanet_edge.runtime.device_memory import DeviceMemory
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.lane_tickets import LaneTickets, Ticket
from retinanet_edge.runtime.one_thread import OneThread
from retinanet_edge.runtime.output_allocator import output_allocator
from retinanet_edge.runtime.tensor_lane import Lane, Streams, TensorSpec, checked_count
from retinanet_edge.runtime.tensorrt_library import created, tensorrt_logger

IN_FLIGHT = 2  # batches: one is copied while the other is computed
# Ours, since trt.nptype of 8.5 fails with NumPy 1.24 and newer. Type of TensorRT by name -> NumPy's.
_NUMPY_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "UINT8": np.uint8}


@dataclass(frozen=True)
class SessionRun:
    """What one run gives: outputs by name, copies of their own, and milliseconds of each stage on the GPU."""

    outputs: dict[str, NDArray[Any]]
    stage_ms: dict[str, float]


class TensorRTSession:
    """A deserialised plan with its buffers. Only the first dimension of its inputs may be dynamic, and is the batch.

    Up to IN_FLIGHT batches at a time: `submit` starts one, `collect` waits for it. They share one execution context (releases before 8.6
    let no two share a profile) and each has buffers of its own, those of the second made when it is first needed. One thread runs it.

    All graphs are captured from that one context, whose addresses and shapes change between captures. NVIDIA advises a context for each
    graph; that this works, too, is for tests/gpu/test_running.py to show, and `graphs=False` does without.

    plan: what the compiler wrote. name: what messages call it. graphs: whether to use CUDA graphs where they work, one for each batch
    size and set of buffers. host_code: trust code that the plan brings (version-compatible engines). dla_core: what it was built for,
    None for the GPU. inputs, outputs: specs by tensor name. Raises EngineError for bytes that are no plan of this TensorRT, where there
    is no such DLA core, and where CUDA fails.
    """

    def __init__(self, plan: bytes, name: str, *, graphs: bool = True, host_code: bool = False, dla_core: int | None = None) -> None:
        self._name = name
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._thread = OneThread(name)
        self._tickets = LaneTickets(IN_FLIGHT)
        self._lanes: list[Lane] = []
        self._allocators: dict[tuple[int, str], Any] = {}  # by lane and output; TensorRT keeps no reference to them
        self._bound: tuple[int, int] | None = None  # the lane and batch that the context is set to
        self._rows: dict[int, dict[str, int]] = {}  # first dimension of each output, by batch
        self._streams: Streams | None = None
        self._memory = DeviceMemory()
        with ExitStack() as cleanup:
            cleanup.callback(self.close)
            with self._memory.current():
                self._streams = Streams(self._memory)
                self._graphs = GraphCache(self._streams.engine.handle, name, None if graphs else "they are switched off")
                self._load(plan, host_code, dla_core)
                self.inputs, self._least_batch = self._read_inputs()
                self.outputs = self._read_outputs()
                self._lane(0)
                self._memory.synchronize()  # weights may come by the default stream, for which ours do not wait
            cleanup.pop_all()

    def _load(self, plan: bytes, host_code: bool, dla_core: int | None) -> None:
        import tensorrt as trt

        logger = tensorrt_logger()
        logger.take_errors()  # what earlier work left there
        trt.init_libnvinfer_plugins(logger, "")
        runtime = self._runtime = created(lambda: trt.Runtime(logger))
        if host_code and hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = True
        if dla_core is not None:
            if dla_core >= runtime.num_DLA_cores:
                raise EngineError(
                    f"{self._name} needs DLA core {dla_core}, and here are {runtime.num_DLA_cores} DLA cores: "
                    "run python export/build_engine.py without --dla"
                )
            runtime.DLA_core = dla_core
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"TensorRT {trt.__version__} cannot load {self._name} ({logger.take_errors()}): "
                "run python export/build_engine.py to make it again"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"no memory to run {self._name} ({logger.take_errors()}): see nvidia-smi for what is left")

    def _read_inputs(self) -> tuple[dict[str, TensorSpec], int]:
        """Set every input to its largest shape. Return the specs, and the smallest batch."""
        inputs, least = {}, 1
        for name in self._names(inputs=True):
            smallest, _, largest = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0))
            inputs[name], least = self._spec(name, largest), max(least, smallest[0])
            self._accept(self._context.set_input_shape(name, largest))
        return inputs, least

    def _read_outputs(self) -> dict[str, TensorSpec]:
        outputs = {name: self._spec(name, tuple(self._context.get_tensor_shape(name))) for name in self._names(inputs=False)}
        if dependent := [name for name, spec in outputs.items() if spec.depends_on_data]:
            self._graphs.obstacle = f"the length of {dependent[0]} depends on the data"
        return outputs

    def _names(self, inputs: bool) -> list[str]:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        return [name for name in names if (self._engine.get_tensor_mode(name).name == "INPUT") == inputs]

    def _spec(self, name: str, largest: tuple[int, ...]) -> TensorSpec:
        kind = self._engine.get_tensor_dtype(name).name
        # The number of rows of an output may depend on the data, and is then -1.
        bounded = largest[1:] if self._engine.get_tensor_mode(name).name == "OUTPUT" else largest
        if kind not in _NUMPY_TYPES or min(bounded, default=1) < 1:
            raise EngineError(
                f"tensor {name} of {self._name} must have a type of {sorted(_NUMPY_TYPES)} and a bounded shape, "
                f"got {kind} {list(largest)}: run python export/build_engine.py to make it again"
            )
        return TensorSpec(np.dtype(_NUMPY_TYPES[kind]), tuple(self._engine.get_tensor_shape(name)), largest)

    def _lane(self, index: int) -> Lane:
        """Return a set of buffers, made when it is first asked for."""
        assert self._streams is not None
        if index == len(self._lanes):
            with self._memory.together():
                lane = Lane(self._memory, self._streams, self.inputs, self.outputs)
            self._allocators |= {(index, name): output_allocator(output) for name, output in lane.growing.items()}
            self._lanes.append(lane)
        return self._lanes[index]

    def _accept(self, accepted: bool) -> None:
        if not accepted:
            raise EngineError(
                f"TensorRT refuses to run {self._name} ({tensorrt_logger().take_errors()}): "
                "see nvidia-smi for free memory, or run python export/build_engine.py to make it again"
            )

    @property
    def graph_obstacle(self) -> str | None:
        """Why runs are enqueued plainly; None while CUDA graphs are used, from the second run of a batch size on."""
        return self._graphs.obstacle

    @property
    def device_bytes(self) -> int:
        """GPU memory of buffers and of the engine's scratch; the weights, about as large as the plan, are not in it. 0 when closed."""
        return 0 if self._engine is None else self._memory.bytes + self._scratch_bytes()

    def _scratch_bytes(self) -> int:
        engine = self._engine
        return int(engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> SessionRun:
        """Run once on `inputs` by name, of the types and shapes of the specs.

        Raises ValueError for others or a closed session, EngineError in another thread than the first that ran it.
        """
        return self.collect(self.submit(inputs))

    def submit(self, inputs: Mapping[str, NDArray[Any]]) -> Ticket:
        """Start a run and return what `collect` takes; `inputs` may change from then on.

        Raises as `run` does, and ValueError where IN_FLIGHT batches have not been collected.
        """
        with self._thread.running():
            self._check_open()
            ticket = self._tickets.take(checked_count(inputs, self.inputs))
            with ExitStack() as undo:
                undo.callback(self._tickets.give_back, ticket)  # streams keep their order: what was begun does the next run no harm
                with self._memory.current():
                    self._start(ticket.lane, inputs, max(ticket.count, self._least_batch))
                undo.pop_all()
            return ticket

    def _start(self, index: int, inputs: Mapping[str, NDArray[Any]], batch: int) -> None:
        lane, key = self._lane(index), (index, batch)
        lane.upload(inputs, batch)
        if not self._graphs.launch(key):
            self._bind(index, lane, batch)
            self._enqueue()
        lane.download(self._rows[batch])
        self._graphs.capture(key, self._enqueue)  # a second call, as the first brings the context up to date

    def _bind(self, index: int, lane: Lane, batch: int) -> None:
        """Set the context to the buffers of a lane and to a batch size."""
        for output in lane.growing.values():
            output.shape = None
        if self._bound == (index, batch):
            return
        former, self._bound = self._bound, None  # should something fail half-way
        if former is None or former[1] != batch:
            for name, spec in self.inputs.items():
                self._accept(self._context.set_input_shape(name, (batch, *spec.largest[1:])))
            self._rows[batch] = {name: self._context.get_tensor_shape(name)[0] for name in lane.outputs}
        for name, buffer in (lane.inputs | lane.outputs).items():
            self._accept(self._context.set_tensor_address(name, buffer.address))
        for name in lane.growing:
            self._accept(self._context.set_output_allocator(name, self._allocators[index, name]))
        self._bound = (index, batch)

    def _enqueue(self) -> None:
        assert self._streams is not None
        self._accept(self._context.execute_async_v3(self._streams.engine.handle))

    def collect(self, ticket: Ticket) -> SessionRun:
        """Wait for a run and return what it gives. Raises ValueError for a ticket that was collected before, and as `run` does."""
        with self._thread.running():
            self._tickets.check(ticket)
            self._check_open()
            try:
                with self._memory.current():
                    outputs, stage_ms = self._lanes[ticket.lane].collect()
            finally:
                self._tickets.give_back(ticket)
        # Rows beyond the count filled the batch up; of an output whose length depends on the data, rows are no images.
        return SessionRun({n: v if self.outputs[n].depends_on_data else v[: ticket.count] for n, v in outputs.items()}, stage_ms)

    def _check_open(self) -> None:
        if self._context is None:
            raise ValueError(f"{self._name} is closed")

    def close(self) -> None:
        """Release what is held, users before what they use, from any thread; may be called twice."""
        with self._thread.closing():
            if self._streams is not None:
                with suppress(EngineError), self._memory.current():  # what fails now has been said by the call that it failed in
                    self._streams.synchronize()
                with self._memory.current():
                    self._graphs.close()
                    self._context = None
                    self._engine = None
                    self._runtime = None
                    self._allocators.clear()
                    self._lanes.clear()
                    self._streams = None
            self._memory.close()
