"""From an ONNX file to a TensorRT engine: the one file that knows how TensorRT's releases differ, 8.5 to 11.

Below 11 a network is weakly typed: builder flags allow FP16 and INT8, and layers are held in FP32 one by one. From 11 on its
types are those of the file: model.fp16.onnx and model.int8.typed.onnx stand in for the two portable files.

Releases are told apart by the names that they have, with hasattr; a test holds every branch to the names of its releases.
"""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import Any

from retinanet_edge.export.build_machine import default_workspace_mib, gpu_memory, is_weakly_typed, this_build_machine
from retinanet_edge.export.build_options import BuildOptions
from retinanet_edge.export.build_plan import BuildPlan, make_plan
from retinanet_edge.export.build_progress import build_watched
from retinanet_edge.export.engine_graph import make_engine_graph, typed_file_name, write_typed_file
from retinanet_edge.export.fp32_layers import check_nms_in_fp32, hold_nms_in_fp32
from retinanet_edge.export.graph_file import load_graph
from retinanet_edge.export.nms import PLUGIN, PLUGIN_VERSION, has_nms_plugin
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import EngineRecord, ModelCard
from retinanet_edge.runtime.model_folder import file_sha256, write_atomically
from retinanet_edge.runtime.tensorrt_library import (
    created,
    one_line,
    tensorrt_logger,
    this_machine,
)

_SHOWN_PARSER_ERRORS = 3


def build_engine(folder: Path, card: ModelCard, source: Path, options: BuildOptions) -> EngineRecord:
    """Compile `source`, the vouched ONNX file of options.precision, into an engine file of the folder; return its record for the card.

    Raises EngineError where there is no TensorRT or GPU, or the graph does not compile; UserInputError where options do not fit.
    """
    machine = this_machine()
    model = load_graph(source, card)
    plan = make_plan(folder, card, model, options, this_build_machine())
    _say(plan)
    more = {"workspace_used_mib": str(plan.workspace_mib)}
    if (typed := typed_file_name(options.precision, plan.here.weakly_typed)) is not None:
        more["typed_sha256"] = write_typed_file(model, folder / typed, options.precision)
        model = load_graph(folder / typed, card)
    graph = make_engine_graph(model, card, plan)
    compiled = compile_engine(graph.model.SerializeToString(), plan.settled_options())
    file = plan.engine_file()
    assert file is not None
    write_atomically(folder / file, compiled)
    return EngineRecord(
        file=file, sha256=hashlib.sha256(compiled).hexdigest(), precision=options.precision, onnx_sha256=file_sha256(source),
        tensorrt=machine.tensorrt, gpu=machine.gpu, compute_capability=machine.compute_capability,
        plugin_version=PLUGIN_VERSION if options.nms == "efficient" else "none", max_batch=options.max_batch,
        built=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        options=plan.recorded() | graph.recorded() | more,
    )  # fmt: skip


def _say(plan: BuildPlan) -> None:
    if plan.options.workspace_mib is None:
        print(f"workspace: {plan.workspace_mib} MiB, half of what is free on the GPU (--workspace sets it)")
    if plan.added_top_k is not None:
        print(f"top-K: {plan.top_k_words}; runtime/evaluate.py measures what that does to AP", flush=True)


def compile_engine(model: bytes, options: BuildOptions) -> bytes:
    """Return the plan of a whole ONNX model, NMS as in options.nms. The first dimension of its inputs becomes that of options.batch.

    Raises EngineError where TensorRT does not start, read the model or build it, lacks what an option needs, or did not keep the NMS
    plugin in FP32. From TensorRT 11 on the model must be of options.precision itself.
    """
    import tensorrt as trt

    logger = tensorrt_logger()
    logger.verbose = options.verbose
    logger.take_errors()  # what earlier work left there
    trt.init_libnvinfer_plugins(logger, "")
    if options.nms == "efficient" and not has_nms_plugin():
        raise EngineError(
            f"TensorRT {trt.__version__} has no plugin {PLUGIN} of version {PLUGIN_VERSION} here: run python export/build_engine.py "
            "--nms native, which does without it"
        )
    plan = _build_plan(created(lambda: trt.Builder(logger)), model, options, logger)
    if is_weakly_typed() and options.precision != "fp32" and options.nms == "efficient":
        check_nms_in_fp32(_inspect(plan, options, logger))
    return plan


def _build_plan(builder: Any, model: bytes, options: BuildOptions, logger: Any) -> bytes:
    import tensorrt as trt

    network = builder.create_network(_network_flags())
    parser = trt.OnnxParser(network, logger)  # owns the weights: must outlive the build
    _parse(parser, model, logger)
    config = builder.create_builder_config()
    _configure(config, options)
    config.add_optimization_profile(_batch_profile(builder, network, options))
    held = hold_nms_in_fp32(network) if is_weakly_typed() and options.precision != "fp32" else []
    if options.dla_core is not None:
        _use_dla(builder, config, network, options.dla_core, held)
    cache = _attach_timing_cache(config, options.timing_cache)  # must outlive the build
    logger.take_errors()  # a cache of another machine is refused in red, and does no harm
    plan = build_watched(builder, network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT {trt.__version__} does not build the engine ({logger.take_errors()}): "
            "try a larger --workspace, or see more with --verbose"
        )
    if options.timing_cache is not None:
        write_atomically(options.timing_cache, bytes(config.get_timing_cache().serialize()))
    del cache  # not before
    return plan


def _network_flags() -> int:
    """Return the flags of a network whose batch is a dimension like others, and whose types are the file's where that is the only way."""
    import tensorrt as trt

    flags = trt.NetworkDefinitionCreationFlag
    bits = 0
    if hasattr(flags, "EXPLICIT_BATCH"):
        bits |= 1 << int(flags.EXPLICIT_BATCH)
    if not is_weakly_typed() and hasattr(flags, "STRONGLY_TYPED"):  # 1 in TensorRT 10, 0 in 11
        bits |= 1 << int(flags.STRONGLY_TYPED)
    return bits


def _parse(parser: Any, model: bytes, logger: Any) -> None:
    import tensorrt as trt

    if not parser.parse(model):
        errors = [one_line(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        reason = "; ".join(errors[:_SHOWN_PARSER_ERRORS]) or logger.take_errors()
        raise EngineError(f"TensorRT {trt.__version__} cannot read the ONNX model ({reason}): run python export/export_onnx.py")


def _configure(config: Any, options: BuildOptions) -> None:
    import tensorrt as trt

    workspace_mib = options.workspace_mib or default_workspace_mib(gpu_memory()[0])
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the inspector
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
    _configure_since_8_6(config, options)


def _configure_since_8_6(config: Any, options: BuildOptions) -> None:
    """Set what came with TensorRT 8.6. Raises EngineError where one is asked for and not there."""
    import tensorrt as trt

    if options.optimization_level is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise _too_old("--optimization-level")
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        if not hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
            raise _too_old("--version-compatible")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        if not hasattr(config, "hardware_compatibility_level"):
            raise _too_old("--hardware-compatible")
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


def _too_old(flag: str) -> EngineError:
    import tensorrt as trt

    return EngineError(f"{flag} needs TensorRT 8.6 or newer, here is {trt.__version__}: leave it out")


def _use_dla(builder: Any, config: Any, network: Any, core: int, held: list[str]) -> None:
    """Give the network to a DLA core, and what it does not take, above all the layers held in FP32, to the GPU."""
    import tensorrt as trt

    cores = builder.num_DLA_cores if hasattr(builder, "num_DLA_cores") else 0
    if core >= cores:
        there = f"it has {cores}, from 0" if cores else f"there is none, or none that TensorRT {trt.__version__} knows"
        raise EngineError(f"--dla {core} needs that DLA core, but {there}: leave --dla out")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.name in held:
            config.set_device_type(layer, trt.DeviceType.GPU)


def _batch_profile(builder: Any, network: Any, options: BuildOptions) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((batch, *rest) for batch in options.batch))
    return profile


def _attach_timing_cache(config: Any, path: Path | None) -> Any:
    """Give the builder the cache in `path`, an empty one where there is none or TensorRT does not take it."""
    known = path.read_bytes() if path is not None and path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _inspect(plan: bytes, options: BuildOptions, logger: Any) -> str:
    import tensorrt as trt

    runtime = created(lambda: trt.Runtime(logger))
    if options.version_compatible and hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True  # the lean runtime that our own plan carries
    engine = created(lambda: runtime.deserialize_cuda_engine(plan))
    inspection: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return inspection
