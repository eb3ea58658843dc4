"""build_engine.py --dry-run as a person types it, and what it says of machines that are not here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from retinanet_edge.export.build_machine import BuildMachine
from retinanet_edge.export.build_options import BuildOptions
from retinanet_edge.export.build_plan import make_plan
from retinanet_edge.export.dry_run import plan_lines
from retinanet_edge.export.engine_graph import make_engine_graph
from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason
from tests.conftest import Commands
from tests.export.tiny_folder import H200, tiny_folder
from tests.gpu.conftest import TinyModel

COMMAND = "export/build_engine.py"
HERE = BuildMachine(H200, None, "8.5.3.1", True, True, 1000 << 20, 2000 << 20)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyModel:
    return tiny_folder(tmp_path / "model")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def dry_run(run: Commands, *arguments: object) -> dict[str, str]:
    """The rows that the command prints, changing nothing in model/."""
    before = files_of(run.folder / "model")
    done = run(COMMAND, "--model", "model", "--dry-run", *arguments)
    assert (done.code, done.err) == (0, "")
    assert files_of(run.folder / "model") == before, "not even a lock"
    return rows_of(done.out.splitlines())


def rows_of(lines: list[str]) -> dict[str, str]:
    return {line[:13].strip(): line[14:] for line in lines}


def rows(tiny: TinyModel, here: BuildMachine, precision: Any = "fp16", **options: Any) -> dict[str, str]:
    model = onnx.load(tiny.source(precision))
    plan = make_plan(tiny.folder, tiny.card, model, BuildOptions(precision, **options), here)
    return rows_of(plan_lines(plan, make_engine_graph(model, tiny.card, plan), "the source"))


def test_every_decision_is_said_without_tensorrt(tiny: TinyModel, run: Commands) -> None:
    if tensorrt_unavailable_reason() != "no TensorRT in this environment":
        pytest.skip("this environment has TensorRT")
    assert dry_run(run) == {
        "source": "model.onnx",
        # weights and biases, 3 to 16 channels with 8 x 8, 16 to 16 with 3 x 3, on two levels 16 to 6 and 16 to 8 with 3 x 3:
        # 3088 + 2320 + 2 * (870 + 1160) = 9468; the tiny network has 23 operators
        "graph": "24 operators, 9,468 parameters",
        "takes": "images uint8 [N, 64, 64, 3]",
        "gives": "num_detections int32 [N, 1], detection_boxes float32 [N, 100, 4], detection_scores float32 [N, 100], "
        "detection_classes int32 [N, 100]",
        "input": "letterboxed images, BGR",
        "batch": "1 to 1 images, tuned for 1",
        "precision": "fp16: below TensorRT 11 FP16 allowed by builder flags, decode and NMS held in FP32; from 11 on types of "
        "model.fp16.onnx, which is made of the source",
        "NMS": "plugin EfficientNMS_TRT 1, decode and sigmoid inside; score 0.3, IoU 0.5, at most 100 boxes",
        "top-K": "decided where the GPU is: none while the plugin fits 10% of its free memory",
        "candidates": "160 anchors an image",
        # 9468 * 2 bytes, 64 * 64 * 3, 24 * 160 * 3 = 11520
        "memory": "weights about 0.0 MiB, input 0.0 MiB, plugin 0.0 MiB at batch 1, besides activations",
        "workspace": "half of what is free on the GPU",
        "device": "GPU",
        "also": "nothing",
        "timing cache": "one for each GPU and TensorRT, in the model folder",
        "TensorRT": "none here: no TensorRT in this environment",
        "engine": "model.fp16.<gpu>-trt<version>-<hash of the options>.engine",
    }
    assert tiny.folder == run.folder / "model"


def test_flags_are_in_what_is_said(tiny: TinyModel, run: Commands) -> None:
    said = dry_run(
        run, "--fp32", "--batch", 2, 4, 8, "--camera-size", "100x60", "--nms", "native", "--score-threshold", 0.5, "--iou-threshold", 0.6,
        "--max-detections", 7, "--top-k", 20, "--workspace", 64, "--optimization-level", 5, "--timing-cache", "mine.cache",
        "--version-compatible", "--hardware-compatible",
    )  # fmt: skip
    assert tiny.card.nms.max_detections == 100
    assert (said["takes"], said["gives"]) == ("images uint8 [N, 60, 100, 3]", "detections float32 [S, 7]")
    assert said["input"] == "whole frames of 100x60 pixels, letterboxed in the engine; boxes in frame pixels"
    assert said["batch"] == "2 to 8 images, tuned for 4"
    assert said["precision"] == "fp32: without TF32"
    assert said["NMS"] == "ONNX NonMaxSuppression, decode and sigmoid as operators; score 0.5, IoU 0.6, at most 7 boxes"
    assert (said["top-K"], said["candidates"]) == ("the best 20 of each level, as --top-k says", "40 anchors an image")
    assert (said["workspace"], said["timing cache"]) == ("64 MiB", "mine.cache")
    assert said["also"] == "optimisation level 5, version compatible, hardware compatible (Ampere and newer)"
    assert "plugin" not in said["memory"]


def test_dla_and_deepstreams_input_are_said(tiny: TinyModel, run: Commands) -> None:
    assert tiny.card.input.std == (64.0, 64.0, 64.0)
    said = dry_run(run, "--fp16", "--batch", 2, 2, 2, "--dla", 1, "--input", "fp32-nchw", "--nms", "none")
    assert said["device"] == "DLA core 1, the GPU for what it does not take"
    assert said["takes"] == "images float32 [N, 3, 64, 64]"
    assert said["input"].startswith("RGB planes, 0.015625 * (pixel - offset), offsets 127.5;127.5;127.5 (DeepStream: net-scale-factor")
    assert said["NMS"] == "none: raw heads"


def test_int8_that_the_card_vouches_for_is_reused(tiny: TinyModel, run: Commands) -> None:
    assert dry_run(run, "--int8")["source"] == "model.int8.onnx, which is reused: INT8 changes AP by -0.10 points, 0.50 is allowed"
    assert dry_run(run, "--int8", "--images", 9)["source"] == (
        "model.int8.onnx, to be made first of model.onnx, of which the figures here are: would calibrate on at most 9 images (percentile) "
        "and measure AP"
    )
    (tiny.folder / "model.int8.onnx").unlink()
    assert "would calibrate on at most 128 images" in dry_run(run, "--int8")["source"]


def test_int8_that_loses_too_much_is_said_to_need_force(tmp_path: Path, run: Commands) -> None:
    tiny_folder(tmp_path / "model", int8_accepted=False)
    assert dry_run(run, "--int8")["source"].endswith("-2.00 points, 0.50 is allowed, so --force is needed")
    assert not dry_run(run, "--int8", "--force")["source"].endswith("needed")


def test_on_a_gpu_its_memory_and_names_are_said(tiny: TinyModel) -> None:
    said = rows(tiny, HERE)
    assert said["workspace"] == "500 MiB, half of the 1000 MiB that are free"
    assert said["top-K"] == "none: the plugin fits 10% of the 1000 MiB that are free"
    assert said["timing cache"] == str(tiny.folder / "timing.nvidia-h200-trt8.5.3.1.cache")
    assert said["TensorRT"] == "TensorRT 8.5.3.1 on NVIDIA H200 (compute capability 9.0)"
    assert said["engine"].startswith("model.fp16.nvidia-h200-trt8.5.3.1-")
    assert said["precision"] == "fp16: FP16 allowed by builder flags, decode and NMS held in FP32"


def test_tensorrt_11_and_its_typed_files_are_said(tiny: TinyModel) -> None:
    eleven = replace(HERE, machine=replace(H200, tensorrt="11.4.0.106"), weakly_typed=False)
    assert rows(tiny, eleven, "int8")["precision"] == "int8: types of model.int8.typed.onnx, which is made of the source"
    assert rows(tiny, eleven, "fp32")["precision"] == "fp32: without TF32"


def test_a_tensorrt_without_gpu_or_without_the_plugin_is_said(tiny: TinyModel) -> None:
    lacking = BuildMachine(None, "no GPU: CUDA error", "12.0.0.1", False, False)
    said = rows(tiny, lacking)
    assert said["TensorRT"] == "12.0.0.1, but no engine can be built here: no GPU: CUDA error"
    assert said["NMS"].endswith("this TensorRT does not have it: --nms native does without")
    assert not rows(tiny, lacking, nms="native")["NMS"].endswith("without")
