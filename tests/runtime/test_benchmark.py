import csv
import os
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.errors import CameraError, ModelFolderError, UserInputError
from retinanet_edge.runtime.speed import Speed, StageTime, benchmark, machine, summarize

pytest.importorskip("openvino")
pytest.importorskip("onnx")
write_model = runpy.run_path(str(Path(__file__).with_name("tiny_model.py")))["write_model"]


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    return path


def test_percentiles_are_times_that_were_measured():
    # 1..200 ms: half of them are at most 100, 95 % at most 190, 99 % at most 198.
    calls = [{"network": float(ms), "total": 2.0 * ms} for ms in range(200, 0, -1)]
    assert summarize(calls) == (StageTime("network", 100, 190, 198), StageTime("total", 200, 380, 396))


def test_times_every_stage_of_every_call(model, image):
    speed = benchmark(model, "fp32", frames=7, warmup=1, batch=2, image=image)
    assert [stage.stage for stage in speed.stages] == ["letterbox", "network", "nms", "boxes", "total"]
    assert (speed.calls, speed.batch, speed.frame_size) == (4, 2, "30x40")  # 7 frames take 4 calls of 2
    assert (speed.engine, speed.precision) == ("model.onnx on OpenVINO", "fp32")
    *parts, total = speed.stages
    assert all(0 < stage.p50_ms <= stage.p95_ms <= stage.p99_ms for stage in speed.stages)
    # With 4 calls p99 is the slowest. No stage takes longer than the call that it is a part of; the mean call is not slower than that.
    assert max(stage.p99_ms for stage in parts) <= total.p99_ms
    assert speed.frames_per_second >= 2 * 1000 / total.p99_ms


def test_the_table_names_machine_engine_and_each_stage():
    speed = Speed(
        "model.int8.onnx on OpenVINO", "int8", "Some CPU, 2 cores", "720x1280", 4, 25,
        (StageTime("network", 10.0, 11.5, 12.25), StageTime("total", 20.0, 21.0, 22.0)), 198.7,
    )  # fmt: skip
    assert speed.table().splitlines() == [
        "model.int8.onnx on OpenVINO, int8, on Some CPU, 2 cores",
        "25 calls of 4 frames of 720x1280, milliseconds a call",
        "stage              p50       p95       p99",
        "network          10.00     11.50     12.25",
        "total            20.00     21.00     22.00",
        "198.7 frames per second",
    ]


def test_the_csv_holds_the_same_figures(model, image, tmp_path):
    file = tmp_path / "speed.csv"
    speed = benchmark(model, "int8", frames=3, warmup=0, batch=1, image=image, csv_file=file)
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["stage"] for row in rows] == ["letterbox", "network", "nms", "boxes", "total"]
    assert {(row["engine"], row["precision"], row["machine"]) for row in rows} == {
        ("model.int8.onnx on OpenVINO", "int8", machine("OpenVINO"))
    }
    assert float(rows[-1]["p95_ms"]) == pytest.approx(speed.stages[-1].p95_ms, abs=0.001)


def test_the_machine_is_named_with_the_cores_it_gives_us():
    name, _, cores = machine("OpenVINO").rpartition(", ")
    assert name
    assert int(cores.split()[0]) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"engine": "int9"}, UserInputError, "--engine must be auto, fp32, int8 or an engine of the card"),
        ({"image": Path("missing.png")}, UserInputError, "--image must be an image.*missing.png, which does not exist"),
        ({"csv_file": Path("missing/speed.csv")}, UserInputError, "--csv must be in a folder that exists.*make missing first"),
        ({"model": Path("missing")}, ModelFolderError, "model folder missing does not exist"),
    ],
    ids=["engine", "image", "csv", "model"],
)
def test_refuses_what_is_not_there(model, image, arguments, error, message):
    whole = {"model": model, "engine": "fp32", "frames": 1, "warmup": 0, "batch": 1, "image": image} | arguments
    with pytest.raises(error, match=message):
        benchmark(whole.pop("model"), whole.pop("engine"), **whole)


def test_refuses_an_image_that_does_not_decode(model, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    with pytest.raises(CameraError, match=r"broken\.png must be an image, got 0 bytes"):
        benchmark(model, "fp32", frames=1, warmup=0, batch=1, image=broken)


def test_the_command_prints_the_table_alone(run, model, image):
    done = run("runtime/benchmark.py", "--model", model, "--engine", "fp32", "--frames", 3, "--warmup", 1, "--image", image)
    assert (done.code, done.err) == (0, "")
    assert "model.onnx on OpenVINO, fp32, on " in done.out
    assert "frames per second" in done.out


def test_the_command_takes_generated_scenes_by_itself(run, model):
    pytest.importorskip("retinanet_edge.runtime.scenes")
    done = run("runtime/benchmark.py", "--model", model, "--engine", "int8", "--frames", 2, "--warmup", 0)
    assert (done.code, done.err) == (0, "")
    assert "2 calls of 1 frames" in done.out
