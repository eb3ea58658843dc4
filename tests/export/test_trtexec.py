"""build_engine.py --trtexec: the file that it writes and the call that it prints."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from retinanet_edge.export.build_machine import BuildMachine
from retinanet_edge.export.build_options import BuildOptions, NmsOverrides
from retinanet_edge.export.build_plan import make_plan
from retinanet_edge.export.engine_graph import make_engine_graph
from retinanet_edge.export.trtexec import fp32_nodes, trtexec_command
from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason
from tests.conftest import Commands
from tests.export.tiny_folder import H200, tiny_folder
from tests.gpu.conftest import TinyModel

HERE = BuildMachine(H200, None, "8.5.3.1", True, True, 1000 << 20, 2000 << 20)
ELEVEN = replace(HERE, machine=replace(H200, tensorrt="11.4.0.106"), weakly_typed=False)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyModel:
    return tiny_folder(tmp_path / "model")


def complete(tiny: TinyModel, here: BuildMachine, precision: Any = "fp16", **options: Any) -> tuple[Any, onnx.ModelProto]:
    model = onnx.load(tiny.source(precision))
    plan = make_plan(tiny.folder, tiny.card, model, BuildOptions(precision, **options), here)
    return plan, make_engine_graph(model, tiny.card, plan).model


def typed_in_a_shell(command: str) -> list[str]:
    """What a shell hands to trtexec."""
    script = f'trtexec() {{ printf "%s\\n" trtexec "$@"; }}\n{command}'
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()


def arguments(tiny: TinyModel, here: BuildMachine, precision: Any = "fp16", **options: Any) -> dict[str, str]:
    plan, model = complete(tiny, here, precision, **options)
    command, *rest = typed_in_a_shell(trtexec_command(plan, model, Path("a b.onnx"), Path("c.engine")))
    assert command == "trtexec"
    return dict(part.removeprefix("--").partition("=")[::2] for part in rest)


def test_fp32_is_all_flags_and_no_layers(tiny: TinyModel) -> None:
    assert arguments(tiny, HERE, "fp32", min_batch=1, typical_batch=4, max_batch=8, workspace_mib=64, optimization_level=2) == {
        "onnx": "a b.onnx", "saveEngine": "c.engine", "noTF32": "",
        "minShapes": "images:1x64x64x3", "optShapes": "images:4x64x64x3", "maxShapes": "images:8x64x64x3",
        "memPoolSize": "workspace:64", "timingCacheFile": str(tiny.folder / "timing.nvidia-h200-trt8.5.3.1.cache"),
        "tacticSources": "-CUBLAS,-CUBLAS_LT,-CUDNN", "builderOptimizationLevel": "2", "profilingVerbosity": "detailed",
    }  # fmt: skip


def test_below_11_precision_is_flags_with_decode_and_nms_in_fp32(tiny: TinyModel) -> None:
    int8 = arguments(tiny, HERE, "int8")
    assert {"fp16", "int8"} <= int8.keys()
    assert int8["precisionConstraints"] == "obey"
    held = dict(part.split(":") for part in int8["layerPrecisions"].split(","))
    outputs = dict(part.split(":") for part in int8["layerOutputTypes"].split(","))
    assert held.keys() == outputs.keys()
    assert set(held.values()) == {"fp32"}
    # Of each of the two heads: two convolutions, transposes and reshapes and one concatenation; and the plugin.
    assert len(held) == 2 * (3 * 2 + 1) + 1
    assert outputs.pop("efficient_nms") == "int32+fp32+fp32+int32"
    assert set(outputs.values()) == {"fp32"}
    assert "int8" not in arguments(tiny, HERE, "fp16")
    assert not {"fp16", "int8"} & arguments(tiny, HERE, "fp32").keys()


def test_11_takes_all_types_from_its_file(tiny: TinyModel) -> None:
    names = arguments(tiny, ELEVEN, "fp16").keys()
    assert not names & {"fp16", "int8", "precisionConstraints", "layerPrecisions", "layerOutputTypes", "tacticSources"}
    assert "noTF32" not in names


def test_other_options_have_their_words(tiny: TinyModel) -> None:
    found = arguments(tiny, HERE, "fp16", version_compatible=True, hardware_compatible=True, verbose=True, external_tactics=True)
    assert (found["versionCompatible"], found["hardwareCompatibilityLevel"], found["verbose"]) == ("", "ampere+", "")
    assert "tacticSources" not in found
    assert arguments(tiny, HERE, camera_size=(100, 60))["minShapes"] == "images:1x60x100x3"
    assert arguments(tiny, HERE, input="fp32-nchw")["maxShapes"] == "images:1x3x64x64"


def test_dla_leaves_to_the_gpu_what_is_held_in_fp32(tiny: TinyModel) -> None:
    found = arguments(tiny, HERE, "fp16", dla_core=1)
    assert (found["useDLACore"], found["allowGPUFallback"]) == ("1", "")
    assert found["layerDeviceTypes"] == found["layerPrecisions"].replace(":fp32", ":GPU")


def test_index_arithmetic_of_top_k_and_casts_of_indexes_are_not_held(tiny: TinyModel) -> None:
    _, model = complete(tiny, HERE, nms="native", nms_overrides=NmsOverrides(top_k_per_level=20))
    held = fp32_nodes(model)
    assert held["level_top_k/level0/top_k"] == ["fp32", "int32"]
    added = {"level_top_k/best", "level_top_k/class_logits", "level_top_k/box_deltas", "level_top_k/anchors", "native_nms/scores"}
    assert added | {"native_nms/selected", "native_nms/detections"} <= held.keys()
    assert not held.keys() & {"level_top_k/rows", "level_top_k/level0/rows", "native_nms/float_image", "native_nms/image"}
    assert held["native_nms/selected"] == ["int32"]


def test_the_command_writes_the_whole_graph_and_prints_a_call_that_a_shell_takes(tiny: TinyModel, run: Commands) -> None:
    if tensorrt_unavailable_reason() != "no TensorRT in this environment":
        pytest.skip("this environment has TensorRT")
    card = json.loads((tiny.folder / "card.json").read_text())
    done = run("export/build_engine.py", "--model", "model", "--trtexec", "--fp32", "--batch", 1, 2, 4, "--max-detections", 7)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"# wrote {tiny.folder}/model.fp32.complete.onnx; for trtexec of TensorRT 8.5 to 10")
    assert typed_in_a_shell(done.out) == [
        "trtexec", f"--onnx={tiny.folder}/model.fp32.complete.onnx", f"--saveEngine={tiny.folder}/model.fp32.engine",
        "--minShapes=images:1x64x64x3", "--optShapes=images:2x64x64x3", "--maxShapes=images:4x64x64x3", "--noTF32",
        "--tacticSources=-CUBLAS,-CUBLAS_LT,-CUDNN", "--profilingVerbosity=detailed",
    ]  # fmt: skip
    model = onnx.load(tiny.folder / "model.fp32.complete.onnx")
    assert model.graph.node[-1].op_type == "EfficientNMS_TRT"
    assert model.graph.output[1].type.tensor_type.shape.dim[1].dim_value == 7
    assert json.loads((tiny.folder / "card.json").read_text()) == card
