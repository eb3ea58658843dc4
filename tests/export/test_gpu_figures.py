"""benchmarks/gpu_figures.py where there is no GPU: the model that it makes, what it measures on stand-ins, its targets and its file."""

from __future__ import annotations

import csv
import importlib
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from retinanet_edge.export.build import is_vouched
from retinanet_edge.export.graph_file import load_graph
from retinanet_edge.runtime.engine import Inference
from retinanet_edge.runtime.errors import RetinaNetEdgeError, UserInputError
from retinanet_edge.runtime.model_card import EngineRecord
from retinanet_edge.runtime.model_folder import INT8_FILE, ONNX_FILE, read_card, write_atomically
from retinanet_edge.runtime.peer_comparison import Result
from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason
from tests.conftest import ROOT, Commands
from tests.export.tiny_folder import H200


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def made(torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        making = importlib.import_module("gpu_making")
        folder = tmp_path_factory.mktemp("figures") / "tiny"
        making.make_model(making.Network("test_resnet", (64, 96), 5, candidates=40, width=16), folder, Path(torch_python))
    return folder


def test_the_model_is_ours_and_has_as_many_candidates_as_were_asked_for(made: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="no onnxruntime in this environment")
    card = read_card(made)
    assert (card.input.height, card.input.width, len(card.classes), card.anchors.per_cell) == (64, 96, 5, 9)
    for name in (ONNX_FILE, INT8_FILE):
        load_graph(made / name, card)
    assert is_vouched(made, card)
    assert card.verdict is not None
    assert (card.verdict.ap_drop, card.verdict.forced) == (None, True)
    session = onnxruntime.InferenceSession(str(made / ONNX_FILE), providers=["CPUExecutionProvider"])
    image = importlib.import_module("gpu_model").scenes(1, 64, 96)
    logits, deltas = session.run(["class_logits", "box_deltas"], {"images": image})
    # 0.05 is a logit of log(0.05 / 0.95) = -2.944; ONNX Runtime and PyTorch may differ over the last of them.
    assert abs(int((logits >= -2.944).sum()) - 40) <= 1
    assert 1.0 < logits.std() < 2.0
    assert np.isfinite(deltas).all()


def test_what_is_there_is_not_made_again(made: Path) -> None:
    making = importlib.import_module("gpu_making")
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    making.make_model(making.NETWORKS["r50"], made, Path("/nowhere/python"))
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == before


def test_an_interpreter_that_cannot_make_it_is_one_line(tmp_path: Path) -> None:
    making = importlib.import_module("gpu_making")
    with pytest.raises(UserInputError, match="--torch-python must be an interpreter, got /nowhere/python: No such file"):
        making.make_model(making.NETWORKS["r50"], tmp_path / "new", Path("/nowhere/python"))
    with pytest.raises(RetinaNetEdgeError, match=r"with torch, torchvision, timm and onnx, but ended with 1: it says nothing"):
        making.make_model(making.NETWORKS["r50"], tmp_path / "new", Path("/bin/false"))


def test_without_a_gpu_it_is_one_line_and_code_2(run: Commands) -> None:
    if tensorrt_unavailable_reason() is None:
        pytest.skip("this machine has a GPU")
    done = run("benchmarks/gpu_figures.py", "--part", "r50")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith(f"error: GPU figures need TensorRT, pycuda and an NVIDIA GPU, got {tensorrt_unavailable_reason()}: ")
    assert list(run.folder.iterdir()) == []
    done = run("benchmarks/gpu_figures.py", "--part", "r50", "--out", "nowhere")
    assert (done.code, done.err) == (2, "error: --out must be a folder that exists, got nowhere: make it first\n")
    for wrong in (["--part", "r101"], [], ["--part", "r50", "--batches", "1,8"]):
        assert run("benchmarks/gpu_figures.py", *wrong).code == 2


class StandIn:
    """Takes the place of an engine: its calls take `call_ms`, of which the GPU has `engine_ms`."""

    precision, max_batch = "int8", 32

    def __init__(self, name: str, opened: Counter[str]) -> None:
        self.name, self._opened = name, opened
        self.session = self

    def run(self, inputs: dict[str, Any]) -> Any:
        assert inputs["images"].shape[1:] == (64, 96, 3)
        return SimpleNamespace(stage_ms={"engine": 2.0 if "none" in self.name else 2.5, "download": 100.0})

    def infer(self, _: Any) -> Inference:
        time.sleep(0.001)
        return Inference([], {})

    def __enter__(self) -> StandIn:
        self._opened[self.name] += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._opened[self.name] -= 1


RECORD = EngineRecord("x.engine", "0" * 64, "int8", "1" * 64, H200.tensorrt, H200.gpu, "9.0", "1", 1, "2026-01-01T00:00:00+00:00", {})


def test_a_part_is_measured_printed_and_written(made: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    figures, making = importlib.import_module("gpu_figures"), importlib.import_module("gpu_making")
    opened: Counter[str] = Counter()
    monkeypatch.setattr(figures, "open_record", lambda _, record, **__: StandIn(record.file, opened))
    monkeypatch.setattr("retinanet_edge.runtime.tensorrt_library.this_machine", lambda: H200)
    monkeypatch.setattr(figures, "driver_version", lambda: "550.54.15")
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '1500, 1980, 2619'\necho '[N/A], 1980, 2619'\necho '1700, 1980, 2619'\n")
    tool.chmod(0o755)
    engines = {
        key: replace(RECORD, file=f"{options['precision']}-{options.get('nms', 'efficient')}-{key[1]}.engine")
        for key, options in making.wanted_engines(4).items()
    }
    figures.report("resnext50", made, engines, (1, 2, 4), figures.Turns(Path("python"), 3, 2, 60.0), tmp_path)
    assert set(opened.values()) == {0}  # all closed again
    file = tmp_path / "gpu_figures_nvidia-h200_550.54.15_trt8.5.3.1.csv"
    with file.open() as stream:
        rows = {(row["figure"], row["batch"]): row["value"] for row in csv.DictReader(stream)}
    assert rows["engine_ms_batch1", "0"] == "2.5000"
    assert rows["nms_percent", "0"] == "20.0000"  # 1 - 2.0 / 2.5
    assert rows["INT8, no NMS, engine", "4"] == "2.0000"
    assert {batch for name, batch in rows if name == "INT8, pipelined"} == {"1", "2", "4"}
    assert ("FP16", "1") in rows
    assert ("FP16", "4") not in rows
    out = capsys.readouterr().out
    assert "batch 1: network 2.00 ms, NMS of INT8 0.50 ms" in out
    assert "H200 (compute capability 9.0), driver 550.54.15, SM clock 1600 of 1980 MHz, memory 2619 MHz (medians of 2)" in out
    assert str(file) in out.splitlines()[-1]


def result(name: str, batch: int, *milliseconds: float, missing: str = "") -> Result:
    return Result(name, name, batch, tuple((value,) for value in milliseconds), missing)


def test_figures_are_those_of_the_targets() -> None:
    targets = importlib.import_module("gpu_targets")
    at_1 = [
        result("INT8", 1, 1.0, 1.0, 2.0), result("INT8, top-K", 1, 0.9, 0.9, 0.9), result("INT8, no CUDA graph", 1, 1.2, 1.3, 2.2),
        result("PyTorch eager", 1, 9.0, 8.0, 20.0), result("torch.compile", 1, missing="no compiler"),
        result("INT8, engine", 1, 0.8, 0.8, 0.9), result("INT8, top-K, engine", 1, 0.7, 0.7, 0.7),
        result("INT8, no NMS, engine", 1, 0.6, 0.6, 0.72),
    ]  # fmt: skip
    at_8 = [
        result("INT8", 8, 4.0, 4.0, 4.0), result("INT8, top-K", 8, 2.0, 2.0, 2.0), result("PyTorch eager", 8, 16.0, 16.0, 16.0),
        result("torch.compile", 8, 10.0, 10.0, 10.0),
    ]  # fmt: skip
    found = targets.figures_of({1: at_1, 8: at_8}, {1: 900.0, 8: 4100.0})
    assert found == pytest.approx({
        "times_eager_batch1": 9.0,  # the middle one of 9, 8 and 10
        "times_plain": 1.2,  # of 1.2, 1.3 and 1.1
        "engine_ms_batch1": 0.8,
        "nms_percent": 25.0,  # 1 - 0.6 / 0.8, twice, and 1 - 0.72 / 0.9 = 0.2
        "nms_percent_top_k": 100 / 7,  # 1 - 0.6 / 0.7 = 1/7
        "times_eager_best": 8.0, "eager_per_s_best": 500.0,  # 8 in 2 ms = 4000/s against 8 in 16 ms
        "times_compile_best": 5.0, "compile_per_s_best": 800.0,
        "samples_per_s_best": 4100.0,
    })  # fmt: skip
    lines = targets.verdicts("r50", found)
    assert [line[:13].strip() for line in lines] == ["reached"] * 6  # of NMS by the bounded path: 14.3 %
    assert "9.000 >= 8" in lines[0]
    assert "14.286 <= 15" in lines[5]


def test_targets_say_what_is_not_reached_or_not_measured() -> None:
    targets = importlib.import_module("gpu_targets")
    lines = targets.verdicts("r50", {"times_eager_batch1": 7.9, "engine_ms_batch1": 1.01, "times_plain": 1.0, "nms_percent": 16.0})
    words = [line[:13].strip() for line in lines]
    assert words == ["not reached", "not reached", "reached", "not measured", "not measured", "not reached"]
    of_mlperf = targets.verdicts("resnext50", {"samples_per_s_best": 1200.0})
    assert [line[:13].strip() for line in of_mlperf] == ["not reached", "reached"]
    assert targets.figures_of({}, {}) == {}


def test_the_file_keeps_the_rows_of_the_other_part(tmp_path: Path) -> None:
    targets = importlib.import_module("gpu_targets")
    file = tmp_path / "figures.csv"
    of_r50, of_other = (targets.Row(part, "INT8", 1, value, "ms", "a, b") for part, value in (("r50", "1.0"), ("resnext50", "2.0")))
    targets.write_rows(file, "r50", [of_r50, of_r50], write_atomically)
    targets.write_rows(file, "resnext50", [of_other], write_atomically)
    targets.write_rows(file, "r50", [replace(of_r50, value="3.0")], write_atomically)
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["part"], row["value"], row["what"]) for row in rows] == [("resnext50", "2.0", "a, b"), ("r50", "3.0", "a, b")]
    assert targets.csv_name("NVIDIA H200", "550.54.15", "8.5.3.1") == "gpu_figures_nvidia-h200_550.54.15_trt8.5.3.1.csv"
    assert targets.csv_name("Orin (nvgpu)", "unknown", "10.3.0") == "gpu_figures_orin-nvgpu_unknown_trt10.3.0.csv"


def test_driver_and_clocks_are_read_or_said_to_be_unknown(tmp_path: Path, monkeypatch: Any) -> None:
    figures = importlib.import_module("gpu_figures")
    said = tmp_path / "version"
    said.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    assert figures.driver_version(said) == "550.54.15"
    assert figures.driver_version(tmp_path / "none") == "unknown"
    clocks = figures.Clocks(["1500, 1980, 2619", "[N/A], 1980, 2619", "1700, 1980, 2619"])
    assert clocks.words() == "SM clock 1600 of 1980 MHz, memory 2619 MHz (medians of 2)"
    monkeypatch.setenv("PATH", str(tmp_path))
    with figures.clocks_meanwhile() as none:
        pass
    assert none.words() == ""


def test_every_engine_of_the_figures_can_be_planned(made: Path) -> None:
    from retinanet_edge.export.build_machine import BuildMachine
    from retinanet_edge.export.build_options import BuildOptions
    from retinanet_edge.export.build_plan import make_plan
    from retinanet_edge.export.engine_graph import make_engine_graph

    card, here = read_card(made), BuildMachine(H200, None, H200.tensorrt, True, True, 1 << 36, 1 << 37)
    names = set()
    for chosen in importlib.import_module("gpu_making").wanted_engines(32).values():
        options = BuildOptions(**chosen)
        graph = load_graph(made / (INT8_FILE if options.precision == "int8" else ONNX_FILE), card)
        plan = make_plan(made, card, graph, options, here)
        assert make_engine_graph(graph, card, plan).model.graph.node
        names.add(plan.engine_file())
    assert len(names) == 7  # each its own file: INT8 with all candidates, top-K and raw heads at two batches, FP16
