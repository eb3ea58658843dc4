"""What the options of a build do to the engine: its tensors read back by TensorRT alone, its answers, and builds that end early."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retinanet_edge.export import compiler
from retinanet_edge.export.build import print_plan, print_trtexec
from retinanet_edge.export.build_machine import this_build_machine
from retinanet_edge.export.build_options import BuildOptions, NmsOverrides, timing_cache_name
from retinanet_edge.export.fp32_layers import nms_input_formats
from retinanet_edge.runtime.errors import EngineError, UserInputError
from retinanet_edge.runtime.model_card import Precision
from retinanet_edge.runtime.model_folder import file_sha256, write_card
from retinanet_edge.runtime.tensorrt_library import tensorrt_logger, this_machine
from tests.conftest import ROOT
from tests.gpu.conftest import SIDE, TinyModel

PLUGIN_TENSORS = {
    "num_detections": ("INT32", (-1, 1)), "detection_boxes": ("FLOAT", (-1, 100, 4)), "detection_scores": ("FLOAT", (-1, 100)),
    "detection_classes": ("INT32", (-1, 100)),
}  # fmt: skip
IMAGES = ("UINT8", (-1, SIDE, SIDE, 3))


@pytest.fixture
def tiny(tmp_path: Path) -> TinyModel:
    """A folder of the test's own, its card written."""
    model = TinyModel(tmp_path)
    write_card(tmp_path, model.card)
    return model


def read_engine(path: Path) -> Any:
    """Load a file as any other program would: TensorRT alone, no card."""
    import tensorrt as trt

    trt.init_libnvinfer_plugins(tensorrt_logger(), "")
    runtime = trt.Runtime(tensorrt_logger())
    if hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    assert engine is not None, tensorrt_logger().take_errors()
    return engine


def tensors_of(engine: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {name: (engine.get_tensor_dtype(name).name, tuple(engine.get_tensor_shape(name))) for name in names}


def needs_8_6() -> None:
    import tensorrt as trt

    if not hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
        pytest.skip(f"TensorRT {trt.__version__} is older than 8.6")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_batch": 2}, {"images": IMAGES, **PLUGIN_TENSORS}),
        ({"max_batch": 2, "camera_size": (100, 60)}, {"images": ("UINT8", (-1, 60, 100, 3)), **PLUGIN_TENSORS}),
        ({"max_batch": 2, "input": "fp32-nchw"}, {"images": ("FLOAT", (-1, 3, SIDE, SIDE)), **PLUGIN_TENSORS}),
        ({"max_batch": 2, "nms": "native"}, {"images": IMAGES, "detections": ("FLOAT", (-1, 7))}),
        ({"max_batch": 2, "nms": "none"}, {"images": IMAGES, "class_logits": ("FLOAT", (-1, 160, 3)), "box_deltas": ("FLOAT", (-1, 160, 4)),
                                           "anchors": ("FLOAT", (1, 160, 4))}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_any_program_can_load_the_engine_and_finds_the_tensors_that_were_asked_for(
    tiny: TinyModel, precision: Precision, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    record = tiny.build(precision, **options)
    assert tensors_of(read_engine(tiny.folder / record.file)) == expected
    assert record.plugin_version == ("1" if options.get("nms", "efficient") == "efficient" else "none")
    assert record.options["input"] == options.get("input", "uint8-nhwc")


def test_the_profile_is_the_batch_that_was_asked_for(tiny: TinyModel) -> None:
    record = tiny.build("fp16", min_batch=2, typical_batch=3, max_batch=5)
    shapes = read_engine(tiny.folder / record.file).get_tensor_profile_shape("images", 0)
    assert [tuple(shape) for shape in shapes] == [(batch, SIDE, SIDE, 3) for batch in (2, 3, 5)]
    assert record.max_batch == 5
    assert (record.options["min_batch"], record.options["typical_batch"]) == ("2", "3")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("options", [{}, {"nms_overrides": NmsOverrides(top_k_per_level=20)}, {"camera_size": (100, 60)}])
def test_the_plugin_takes_fp32_whatever_stands_before_it(tiny: TinyModel, precision: Precision, options: dict[str, Any]) -> None:
    import tensorrt as trt

    engine = read_engine(tiny.folder / tiny.build(precision, **options).file)
    formats = nms_input_formats(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    assert len(formats) == 3
    assert all("FP32" in text or "Float" in text for text in formats), formats


def test_an_engines_own_thresholds_are_in_it_and_not_in_the_card(tiny: TinyModel, images: Any) -> None:
    record = tiny.build("fp32", max_batch=4, nms_overrides=NmsOverrides(0.6, max_detections=3))
    with tiny.open(record) as engine:
        found = engine.infer(images).detections
    scores = np.concatenate([each.scores for each in found])
    assert max(map(len, found)) <= 3
    assert len(scores)
    assert scores.min() >= 0.6
    assert (record.options["nms_score_threshold"], record.options["nms_max_detections"]) == ("0.6", "3")
    assert tiny.card.nms.max_detections == 100


def test_candidates_are_bounded_where_memory_is_short(tiny: TinyModel, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(this_build_machine(), free_bytes=10 * 24 * 4 * 3 * 80)  # a tenth: the plugin at batch 4 with 80 of 160 anchors
    monkeypatch.setattr(compiler, "this_build_machine", lambda: short)
    record = tiny.build("fp32", max_batch=4, workspace_mib=256)
    assert record.options["nms_top_k_per_level"] == "48"  # 48 of 128, and all 32
    with tiny.open(record) as engine:
        found = engine.infer(images).detections
    for ours, theirs in zip(found, tiny.expected(images), strict=True):
        np.testing.assert_allclose(ours.scores[:5], theirs.scores[:5], atol=1e-4)


def test_a_dry_run_names_the_engine_that_is_then_built(tiny: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"typical_batch": 2, "max_batch": 4, "workspace_mib": 256, "nms_overrides": NmsOverrides(0.4)}
    before = sorted(path.name for path in tiny.folder.iterdir())
    print_plan(tiny.folder, BuildOptions("fp16", **options), None)
    assert sorted(path.name for path in tiny.folder.iterdir()) == before
    rows = {line[:13].strip(): line[14:] for line in capsys.readouterr().out.splitlines()}
    assert rows["engine"] == tiny.build("fp16", **options).file
    assert rows["timing cache"] == str(tiny.folder / timing_cache_name(this_machine()))
    assert (tiny.folder / timing_cache_name(this_machine())).is_file()


def test_typed_files_are_made_where_tensorrt_needs_them(tiny: TinyModel) -> None:
    import tensorrt as trt

    record = tiny.build("int8")
    typed = tiny.folder / "model.int8.typed.onnx"
    assert typed.is_file() != hasattr(trt.BuilderFlag, "FP16")
    assert record.options.get("typed_sha256") == (file_sha256(typed) if typed.is_file() else None)
    assert record.onnx_sha256 == file_sha256(tiny.source("int8"))


def test_the_workspace_is_half_of_what_is_free_and_said(tiny: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    record = tiny.build("fp32")
    used = int(record.options["workspace_used_mib"])
    assert "workspace_mib" not in record.options
    assert 1 <= used <= (this_build_machine().total_bytes or 0) >> 21
    assert f"workspace: {used} MiB, half of what is free" in capsys.readouterr().out


def test_a_workspace_larger_than_the_gpu_is_refused(tiny: TinyModel) -> None:
    with pytest.raises(UserInputError, match=r"--workspace must fit the GPU's \d+ MiB"):
        tiny.build("fp32", workspace_mib=1 << 30)
    assert list(tiny.folder.glob("*.engine")) == []


@pytest.mark.parametrize("options", [{"version_compatible": True}, {"hardware_compatible": True}, {"optimization_level": 1}])
def test_what_came_with_8_6_is_built_and_loads(tiny: TinyModel, images: Any, options: dict[str, Any]) -> None:
    needs_8_6()
    if "hardware_compatible" in options and float(this_machine().compute_capability) < 8:
        pytest.skip("this GPU is older than Ampere")
    record = tiny.build("fp16", max_batch=4, **options)
    assert tensors_of(read_engine(tiny.folder / record.file)).keys() == {"images", *PLUGIN_TENSORS}
    with tiny.open(record) as engine:
        assert min(map(len, engine.infer(images).detections)) >= 1


@pytest.mark.parametrize(
    ("options", "flag"),
    [({"version_compatible": True}, "--version-compatible"), ({"hardware_compatible": True}, "--hardware-compatible"),
     ({"optimization_level": 1}, "--optimization-level")],
)  # fmt: skip
def test_older_ones_refuse_it_in_one_line(tiny: TinyModel, options: dict[str, Any], flag: str) -> None:
    import tensorrt as trt

    if hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
        pytest.skip(f"TensorRT {trt.__version__} has these options")
    with pytest.raises(EngineError, match=f"{flag} needs TensorRT 8.6 or newer, here is {trt.__version__}: leave it out"):
        tiny.build("fp16", **options)
    assert list(tiny.folder.glob("*.engine")) == []


def test_a_dla_core_that_is_not_there_is_refused(tiny: TinyModel) -> None:
    with pytest.raises(EngineError, match=r"--dla 99 needs that DLA core, but .*: leave --dla out"):
        tiny.build("fp16", dla_core=99)
    assert list(tiny.folder.glob("*.engine")) == []


def test_an_interrupted_build_leaves_nothing(tiny: TinyModel) -> None:
    before = sorted(path.name for path in tiny.folder.iterdir())
    command = [sys.executable, str(ROOT / "export/build_engine.py"), "--fp16", "--model", str(tiny.folder), "--batch", "1", "4", "8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith("building"):
            assert line, "it ended before it built"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    if process.returncode == 0:
        pytest.skip("the engine was built before the interrupt reached it")
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "error: interrupted"
    assert [path.name for path in sorted(tiny.folder.iterdir()) if path.name != ".lock"] == before


def test_trtexec_builds_an_engine_with_the_same_tensors(tiny: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("trtexec") is None:
        pytest.skip("no trtexec in PATH")
    print_trtexec(tiny.folder, BuildOptions("fp16", max_batch=2), None)
    command = capsys.readouterr().out.partition("\n")[2].replace("\\\n", " ")
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (engine,) = tiny.folder.glob("model.fp16.*.engine")
    assert tensors_of(read_engine(engine)) == {"images": IMAGES, **PLUGIN_TENSORS}
