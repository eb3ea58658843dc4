"""What the compiler does without a GPU: refusals, and the reading of TensorRT's words. Builds are in tests/gpu."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retinanet_edge.export import compiler
from retinanet_edge.export.build_options import BuildOptions
from retinanet_edge.export.compiler import build_engine, compile_engine
from retinanet_edge.export.fp32_layers import check_nms_in_fp32, nms_input_formats
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, ModelCard, NetworkSpec
from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason

CARD = ModelCard(
    ("cell",),
    InputSpec(64, 64, (0.0,) * 3, (1.0,) * 3),
    AnchorSpec((8,), (32.0,), (1.0,), (1.0,)),
    NetworkSpec("none", 8, 8, 1, "none"),
)


def inspection(*formats: str) -> str:
    """The engine inspector's JSON for an engine whose plugin takes these formats, with the layer before it."""
    inputs = [{"Name": f"in{i}", "Dimensions": [-1, 6, 4], "Format/Datatype": text} for i, text in enumerate(formats)]
    outputs = [{"Name": "num_detections", "Format/Datatype": "Row major linear INT32"}, {"Name": "detection_boxes"}]
    layers = [
        {"Name": "conv", "LayerType": "CaskConvolution", "Outputs": [{"Name": "in0", "Format/Datatype": "Half"}]},
        {"Name": "efficient_nms", "LayerType": "PluginV2", "Inputs": inputs, "Outputs": outputs},
    ]
    return json.dumps({"Layers": layers, "Bindings": ["images"]})


FP32_8, FP16_8 = "Row major linear FP32", "Row major linear FP16 format"


@pytest.mark.parametrize("text", [FP32_8, "Float"])
def test_three_fp32_inputs_pass_in_the_words_of_every_release(text: str) -> None:
    check_nms_in_fp32(inspection(text, text, text))
    assert nms_input_formats(inspection(text, text, text)) == [text] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        inspection(FP32_8, FP16_8, FP32_8),
        inspection("Float", "Float", "Half"),
        inspection("Float", "Float", "BFloat16"),
        inspection(FP32_8, FP32_8),
        json.dumps({"Layers": ["conv", "efficient_nms"]}),  # built without details: names only
        json.dumps({"Layers": []}),
        json.dumps([]),
        "",
    ],
)
def test_any_other_type_or_a_plugin_out_of_sight_fails(wrong: str) -> None:
    with pytest.raises(EngineError, match="3 FP32 inputs") as caught:
        check_nms_in_fp32(wrong)
    assert "\n" not in str(caught.value)


def test_without_tensorrt_or_gpu_building_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    if tensorrt_unavailable_reason() is None:
        pytest.skip("this machine can build engines")
    with pytest.raises(EngineError, match="needs TensorRT, pycuda and an NVIDIA GPU") as caught:
        build_engine(tmp_path, CARD, tmp_path / "model.onnx", BuildOptions("fp16"))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_builder_that_does_not_start_is_one_line_with_tensorrts_reason(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt", reason="no TensorRT in this environment", exc_type=ImportError)
    if tensorrt_unavailable_reason() is None:
        pytest.skip("this machine can build engines")
    with pytest.raises(EngineError, match=r"TensorRT does not start \(CUDA initialization failure.*\): see nvidia-smi") as caught:
        compile_engine(b"", BuildOptions("fp32"))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_plugin_that_the_registry_lacks_is_said_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt", reason="no TensorRT in this environment", exc_type=ImportError)
    monkeypatch.setattr(compiler, "PLUGIN", "NoSuchPlugin")
    monkeypatch.setattr("retinanet_edge.export.nms.PLUGIN", "NoSuchPlugin")
    with pytest.raises(EngineError, match=r"no plugin NoSuchPlugin of version 1 here: .*--nms native"):
        compile_engine(b"", BuildOptions("fp16"))


def test_the_registry_is_not_asked_where_no_plugin_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt", reason="no TensorRT in this environment", exc_type=ImportError)
    monkeypatch.setattr("retinanet_edge.export.nms.PLUGIN", "NoSuchPlugin")
    with pytest.raises(EngineError, match=r"does not start|cannot read the ONNX model"):
        compile_engine(b"", BuildOptions("fp16", nms="none"))


# Every attribute that our files read, where a typo would show only on a GPU.
NAMES = {
    "Builder": "create_network create_builder_config create_optimization_profile build_serialized_network num_DLA_cores",
    "INetworkDefinition": "num_inputs get_input num_outputs get_output num_layers get_layer",
    "ILayer": "name type num_inputs get_input num_outputs get_output",
    "ITensor": "name shape dtype",
    "IBuilderConfig": "set_flag clear_flag set_memory_pool_limit profiling_verbosity get_tactic_sources set_tactic_sources "
    "add_optimization_profile create_timing_cache set_timing_cache get_timing_cache default_device_type DLA_core set_device_type",
    "IOptimizationProfile": "set_shape",
    "OnnxParser": "parse num_errors get_error",
    "ParserError": "desc",
    "ITimingCache": "serialize",
    "Runtime": "deserialize_cuda_engine",
    "ICudaEngine": "num_io_tensors get_tensor_name get_tensor_mode get_tensor_shape get_tensor_dtype get_tensor_profile_shape "
    "create_execution_context create_engine_inspector",
    "IExecutionContext": "set_input_shape get_tensor_shape set_tensor_address execute_async_v3",
    "EngineInspector": "get_engine_information",
    "MemoryPoolType": "WORKSPACE",
    "ProfilingVerbosity": "DETAILED",
    "LayerInformationFormat": "JSON",
    "TensorIOMode": "INPUT",
    "LayerType": "CONVOLUTION CONSTANT SHAPE QUANTIZE DEQUANTIZE IDENTITY",
    "BuilderFlag": "TF32 GPU_FALLBACK",
    "DeviceType": "DLA GPU",
    "DataType": "FLOAT HALF INT8 INT32 UINT8",
}
NAMES_BELOW_11 = {
    "BuilderFlag": "FP16 INT8 OBEY_PRECISION_CONSTRAINTS",
    "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH",
    "ILayer": "precision set_output_type",
}
NAMES_FROM_10 = {
    "IBuilderConfig": "progress_monitor builder_optimization_level hardware_compatibility_level",
    "IProgressMonitor": "phase_start step_complete phase_finish",
    "BuilderFlag": "VERSION_COMPATIBLE",
    "HardwareCompatibilityLevel": "AMPERE_PLUS",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "Runtime": "engine_host_code_allowed",
    "LayerType": "CAST",
}
NAMES_BELOW_10 = {"TacticSource": "CUBLAS CUBLAS_LT CUDNN"}


def test_this_tensorrt_has_every_name_that_we_use() -> None:
    trt = pytest.importorskip("tensorrt", reason="no TensorRT in this environment", exc_type=ImportError)
    major = int(trt.__version__.split(".")[0])
    wanted = [NAMES] + [NAMES_BELOW_11] * (major < 11) + [NAMES_BELOW_10] * (major < 10) + [NAMES_FROM_10] * (major >= 10)
    missing = [
        f"{owner}.{name}" for names in wanted for owner, text in names.items() for name in text.split()
        if not hasattr(getattr(trt, owner), name)
    ]  # fmt: skip
    assert missing == []
