"""From an ONNX file to a TensorRT engine: the one file that knows how TensorRT's releases differ, 8.5 to 11.

Below 11 a network is weakly typed: builder flags allow FP16 and INT8, and layers are held in FP32 one by one. From 11 on its
types are those of the file, so the portable FP32 file gives an FP32 engine and nothing else.

Releases are told apart by the names that they have, with hasattr; a test holds every branch to the names of its releases.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retinanet_edge.export.fp32_layers import check_nms_in_fp32, hold_nms_in_fp32
from retinanet_edge.export.graph_file import load_graph
from retinanet_edge.export.nms import PLUGIN_VERSION, append_efficient_nms
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import EngineRecord, ModelCard, Precision
from retinanet_edge.runtime.model_folder import file_sha256, write_atomically
from retinanet_edge.runtime.tensorrt_library import (
    Machine,
    created,
    one_line,
    tensorrt_logger,
    this_machine,
)
from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason as tensorrt_unavailable_reason

TIMING_CACHE_FILE = "timing.cache"
_SHOWN_PARSER_ERRORS = 3


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    max_batch: the most images of one call. typical_batch: what it is tuned for, None for max_batch. workspace_mib: most scratch
    memory of a layer, MiB. optimization_level: 0..5, None for TensorRT's own; from TensorRT 8.6 on. external_tactics: let
    TensorRT 8 and 9 also choose kernels of cuBLAS and cuDNN, for hundreds of MB of memory; later ones never do. timing_cache:
    file that remembers measured kernels, None for the model folder's. verbose: show TensorRT's messages. Raises ValueError for
    values out of range.
    """

    precision: Precision
    max_batch: int = 1
    typical_batch: int | None = None
    workspace_mib: int = 2048
    optimization_level: int | None = None
    external_tactics: bool = False
    timing_cache: Path | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        """Refuse what TensorRT would refuse later, in words of its own."""
        if not 1 <= self.tuned_batch <= self.max_batch:
            raise ValueError(f"batches must be 1 <= typical_batch <= max_batch, got {self.tuned_batch} and {self.max_batch}")
        if self.workspace_mib < 1:
            raise ValueError(f"workspace_mib must be at least 1, got {self.workspace_mib}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ValueError(f"optimization_level must be 0 to 5, got {self.optimization_level}")

    @property
    def tuned_batch(self) -> int:
        """The batch that kernels are chosen for."""
        return self.max_batch if self.typical_batch is None else self.typical_batch

    def recorded(self) -> dict[str, str]:
        """Return what shapes the engine, as text for the card; where messages and the cache go is left out."""
        return {name: str(value) for name, value in asdict(self).items() if name not in ("timing_cache", "verbose")}


def build_engine(folder: Path, card: ModelCard, source: Path, options: BuildOptions) -> EngineRecord:
    """Compile `source`, the ONNX file of options.precision, into an engine file of the folder; return its record for the card.

    Raises EngineError where there is no TensorRT or GPU, or the graph does not compile.
    """
    machine = this_machine()
    model = append_efficient_nms(load_graph(source, card), card.nms)
    plan = compile_engine(
        model.SerializeToString(), replace(options, timing_cache=options.timing_cache or folder / TIMING_CACHE_FILE)
    )
    recorded = options.recorded() | {f"nms_{name}": str(value) for name, value in asdict(card.nms).items()}
    file = engine_file_name(options.precision, machine, recorded)
    write_atomically(folder / file, plan)
    return EngineRecord(
        file=file, sha256=hashlib.sha256(plan).hexdigest(), precision=options.precision, onnx_sha256=file_sha256(source),
        tensorrt=machine.tensorrt, gpu=machine.gpu, compute_capability=machine.compute_capability,
        plugin_version=PLUGIN_VERSION, max_batch=options.max_batch, built=_now(), options=recorded,
    )  # fmt: skip


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def engine_file_name(precision: Precision, machine: Machine, recorded: dict[str, str]) -> str:
    """Return model.<precision>.<gpu>-trt<version>-<hash of the build options>.engine; the GPU's name in letters and digits."""
    gpu = re.sub(r"[^a-z0-9]+", "-", machine.gpu.lower()).strip("-")
    digest = hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()
    return f"model.{precision}.{gpu}-trt{machine.tensorrt}-{digest[:8]}.engine"


def compile_engine(model: bytes, options: BuildOptions) -> bytes:
    """Return the plan of an ONNX model that ends in the NMS plugin. The first dimension of its inputs becomes 1..max_batch.

    Raises EngineError where TensorRT does not start, read the model or build it, or did not keep the NMS plugin in FP32.
    """
    import tensorrt as trt

    if not is_weakly_typed() and options.precision != "fp32":
        raise EngineError(
            f"TensorRT {trt.__version__} makes {options.precision} engines only of ONNX files typed so, which this release does "
            "not write: run python export/build_engine.py --fp32, or install TensorRT 10"
        )
    logger = tensorrt_logger()
    logger.verbose = options.verbose
    logger.take_errors()  # what earlier work left there
    trt.init_libnvinfer_plugins(logger, "")
    plan = _build_plan(created(lambda: trt.Builder(logger)), model, options, logger)
    if is_weakly_typed() and options.precision != "fp32":
        check_nms_in_fp32(_inspect(plan, logger))
    return plan


def is_weakly_typed() -> bool:
    """Say whether builder flags allow this TensorRT other precisions than FP32, as they do below 11."""
    import tensorrt as trt

    return hasattr(trt.BuilderFlag, "FP16")


def _build_plan(builder: Any, model: bytes, options: BuildOptions, logger: Any) -> bytes:
    import tensorrt as trt

    network = builder.create_network(_network_flags())
    parser = trt.OnnxParser(network, logger)  # owns the weights: must outlive the build
    _parse(parser, model, logger)
    config = builder.create_builder_config()
    _configure(config, options)
    config.add_optimization_profile(_batch_profile(builder, network, options))
    if is_weakly_typed() and options.precision != "fp32":
        hold_nms_in_fp32(network)
    cache = _attach_timing_cache(config, options.timing_cache)  # must outlive the build
    logger.take_errors()  # a cache of another machine is refused in red, and does no harm
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT {trt.__version__} does not build the engine ({logger.take_errors()}): "
            "try a larger --workspace, or see more with --verbose"
        )
    if options.timing_cache is not None:
        write_atomically(options.timing_cache, bytes(config.get_timing_cache().serialize()))
    del cache  # not before
    return bytes(plan)


def _network_flags() -> int:
    """Return the flags of a network whose batch is a dimension like others; from 11 on there is no other kind, and no flag."""
    import tensorrt as trt

    explicit_batch = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    return 0 if explicit_batch is None else 1 << int(explicit_batch)


def _parse(parser: Any, model: bytes, logger: Any) -> None:
    import tensorrt as trt

    if not parser.parse(model):
        errors = [one_line(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        reason = "; ".join(errors[:_SHOWN_PARSER_ERRORS]) or logger.take_errors()
        raise EngineError(f"TensorRT {trt.__version__} cannot read the ONNX model ({reason}): run python export/export_onnx.py")


def _configure(config: Any, options: BuildOptions) -> None:
    import tensorrt as trt

    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the inspector
    if options.optimization_level is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise EngineError(f"an optimisation level needs TensorRT 8.6 or newer, here is {trt.__version__}: leave it out")
        config.builder_optimization_level = options.optimization_level
    if options.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # which has the mantissa of FP16
    elif is_weakly_typed():
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        if options.precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
    if hasattr(trt.TacticSource, "CUBLAS") and not options.external_tactics:  # 10 has the names still, and does without them anyway
        sources = config.get_tactic_sources()
        for source in (trt.TacticSource.CUBLAS, trt.TacticSource.CUBLAS_LT, trt.TacticSource.CUDNN):
            sources &= ~(1 << int(source))
        config.set_tactic_sources(sources)


def _batch_profile(builder: Any, network: Any, options: BuildOptions) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *rest), (options.tuned_batch, *rest), (options.max_batch, *rest))
    return profile


def _attach_timing_cache(config: Any, path: Path | None) -> Any:
    """Give the builder the cache in `path`, an empty one where there is none or TensorRT does not take it."""
    known = path.read_bytes() if path is not None and path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _inspect(plan: bytes, logger: Any) -> str:
    import tensorrt as trt

    runtime = created(lambda: trt.Runtime(logger))
    engine = created(lambda: runtime.deserialize_cuda_engine(plan))
    inspection: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return inspection
