import csv
import dataclasses
import io
import os
import re
import runpy
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.benchmark_run import PEERS, BenchmarkOptions, PeerOptions, run_benchmark
from retinanet_edge.runtime.detector import Detector
from retinanet_edge.runtime.errors import CameraError, EngineError, ModelFolderError, UserInputError
from retinanet_edge.runtime.power import NO_USAGE, Meter, Usage, parse_nvidia_smi
from retinanet_edge.runtime.speed import Speed, StageTime, first_frames, machine, measure_speed, summarize
from retinanet_edge.runtime.throughput import WARMUP_CALLS, Load, Throughput, measure_throughput, throughput_csv, throughput_table

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
    with Detector(model, "fp32", max_batch=2) as detector:
        speed = measure_speed(detector, first_frames(image), 7, 1, 2, Meter(None, parse_nvidia_smi))
    assert [stage.stage for stage in speed.stages] == ["letterbox", "network", "nms", "boxes", "total"]
    assert (speed.calls, speed.batch, speed.frame_size) == (4, 2, "30x40")  # 7 frames take 4 calls of 2
    assert (speed.engine, speed.precision, speed.backend) == ("model.onnx on OpenVINO", "fp32", "OpenVINO")
    assert speed.usage == NO_USAGE  # no GPU is used
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


def test_memory_and_power_stand_where_a_tool_gives_them():
    speed = Speed(
        "m.engine on TensorRT", "int8", "A GPU, A CPU", "720x1280", 1, 5, (StageTime("total", 1.0, 2.0, 3.0),), 900.0, "TensorRT 8.5.3.1",
        Usage(251.26, 1843.0),
    )  # fmt: skip
    assert speed.table().splitlines()[-1] == "900.0 frames per second, 1843 MiB of GPU memory, 251.3 W"
    (row,) = csv.DictReader(io.StringIO(speed.to_csv()))
    assert (row["backend"], row["gpu_memory_mib"], row["power_w"]) == ("TensorRT 8.5.3.1", "1843", "251.3")


def test_the_csv_holds_what_the_report_reads(model, image, tmp_path, capsys):
    file = tmp_path / "speed.csv"
    run_benchmark(BenchmarkOptions(model, "int8", frames=3, warmup=0, image=image, csv=file))
    rows = read_csv(file)
    assert [row["stage"] for row in rows] == ["letterbox", "network", "nms", "boxes", "total"]
    assert {(row["engine"], row["precision"], row["machine"]) for row in rows} == {
        ("model.int8.onnx on OpenVINO", "int8", machine("OpenVINO"))
    }
    (printed,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("total"))
    assert float(printed[2]) == pytest.approx(float(rows[-1]["p95_ms"]), abs=0.006)  # each is rounded, to 2 and to 3 places
    assert [path.name for path in tmp_path.glob("*.csv")] == ["speed.csv"]


def read_csv(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_in_a_folder_the_csv_is_named_by_machine_backend_and_precision(model, image, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    run_benchmark(BenchmarkOptions(model, "fp32", frames=2, warmup=0, image=image, csv=results, batches=(1, 2), streams=(1, 3)))
    slug = re.sub("[^a-z0-9.]+", "-", machine("OpenVINO").lower()).strip("-")
    assert sorted(path.name for path in results.iterdir()) == [f"{slug}_openvino_fp32-throughput.csv", f"{slug}_openvino_fp32.csv"]
    rows = read_csv(results / f"{slug}_openvino_fp32-throughput.csv")
    # 2 frames take 2 calls of 1 or 1 call of 2, in each stream.
    assert [(row["batch"], row["streams"], row["in_flight"], row["calls"]) for row in rows] == [
        ("1", "1", "1", "2"), ("1", "3", "1", "6"), ("2", "1", "1", "1"), ("2", "3", "1", "3")
    ]  # fmt: skip
    assert all(float(row["frames_per_second"]) > 0 for row in rows)
    assert {(row["gpu_memory_mib"], row["power_w"]) for row in rows} == {("", "")}


class CountingEngine:
    """An engine that notes which thread ran which batches; fails at the call that is told."""

    backend, precision, name, max_batch, frame_size = "fake", "fp32", "fake", 9, None

    def __init__(self, log, fails_at=None):
        self.log, self.fails_at, self.calls, self.closed = log, fails_at, 0, False

    def infer(self, images):
        self.calls += 1
        if self.calls == self.fails_at:
            raise EngineError("the GPU fails")
        self.log.append((threading.get_ident(), images[:, 0, 0, 0].tolist()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


IMAGES = np.arange(3, dtype=np.uint8).repeat(12).reshape(3, 2, 2, 3)  # image i holds i


def no_meter():
    return Meter(None, parse_nvidia_smi)


def test_every_stream_runs_all_its_calls_in_a_thread_of_its_own_on_an_engine_of_its_own():
    log, engines = [], []

    def open_one(batch):
        assert batch == 2
        engines.append(CountingEngine(log))
        return engines[-1]

    found = measure_throughput(open_one, IMAGES, Load(batch=2, streams=3, calls=5), no_meter())
    assert [engine.calls for engine in engines] == [WARMUP_CALLS + 5] * 3
    assert all(engine.closed for engine in engines)
    assert len({thread for thread, _ in log}) == 3
    first = [images for thread, images in log if thread == log[0][0]]
    assert first[:4] == [[0, 1], [2, 0], [1, 2], [0, 1]]  # three images round and round in batches of two
    assert found.frames_per_second == pytest.approx(2 * 3 * 5 / found.seconds)
    assert found.in_flight == 1


@pytest.mark.parametrize("fails_at", [1, WARMUP_CALLS + 2], ids=["warming up", "timed"])
def test_a_stream_that_fails_ends_the_others_and_is_the_reason(fails_at):
    engines = []

    def open_one(_):
        engines.append(CountingEngine([], fails_at if not engines else None))
        return engines[-1]

    with pytest.raises(EngineError, match="the GPU fails"):
        measure_throughput(open_one, IMAGES, Load(1, 3, 20), no_meter())
    assert all(engine.closed for engine in engines)


def test_throughput_counts_all_streams():
    found = Throughput(Load(batch=8, streams=2, calls=50), 2, 4.0, Usage(300.04, 2048.0))
    assert found.frames_per_second == 200.0  # 8 x 2 x 50 frames in 4 s
    assert throughput_table([found]).splitlines()[-1].split() == ["8", "2", "2", "200.0", "2048", "300.0"]
    (row,) = csv.DictReader(io.StringIO(throughput_csv({"engine": "e"}, [found])))
    assert row == {
        "engine": "e", "batch": "8", "streams": "2", "in_flight": "2", "calls": "100", "seconds": "4.0000", "frames_per_second": "200.000",
        "gpu_memory_mib": "2048", "power_w": "300.0",
    }  # fmt: skip


def test_the_machine_is_named_with_the_cores_it_gives_us():
    name, _, cores = machine("OpenVINO").rpartition(", ")
    assert name
    assert int(cores.split()[0]) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"engine": "int9"}, UserInputError, "--engine must be auto, fp32, int8 or an engine of the card"),
        ({"image": Path("missing.png")}, UserInputError, "--image must be an image.*missing.png, which does not exist"),
        ({"csv": Path("missing/speed.csv")}, UserInputError, "--csv must be a folder, or in a folder that exists.*make missing first"),
        ({"model": Path("missing")}, ModelFolderError, "model folder missing does not exist"),
        ({"peers": PeerOptions(Path("missing"))}, UserInputError, "--peer-python must be a Python interpreter.*got missing: No such file"),
    ],
    ids=["engine", "image", "csv", "model", "python"],
)
def test_refuses_what_is_not_there(model, image, changes, error, message):
    options = dataclasses.replace(BenchmarkOptions(model, "fp32", frames=1, warmup=0, image=image), **changes)
    with pytest.raises(error, match=message):
        run_benchmark(options)


def test_refuses_an_image_that_does_not_decode(model, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    with pytest.raises(CameraError, match=r"broken\.png must be an image, got 0 bytes"):
        run_benchmark(BenchmarkOptions(model, "fp32", frames=1, warmup=0, image=broken))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 10}, "^--batch must be at most 9 for fake, got 10$"),
        ({"batches": (1, 12)}, "^--batches must be at most 9 for fake, got 12$"),
    ],
)
def test_refuses_a_batch_that_the_engine_does_not_take(model, image, monkeypatch, changes, message):
    class OnGpu(CountingEngine):
        backend = "TensorRT 8.5.3.1"

        def close(self):
            self.closed = True

    engine = OnGpu([])
    monkeypatch.setattr("retinanet_edge.runtime.detector.open_engine", lambda *_, **__: engine)
    with pytest.raises(UserInputError, match=message):
        run_benchmark(dataclasses.replace(BenchmarkOptions(model, image=image), **changes))
    assert engine.closed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batches", "1,0"], "argument --batches: must be a whole number of at least 1, got 0"),
        (["--streams", "2,"], "argument --streams: must be a whole number of at least 1, got"),
        (["--peer-timeout", "0"], "argument --peer-timeout: must be a number, positive, got 0"),
        (["--rounds", "0"], "argument --rounds: must be a whole number of at least 1, got 0"),
    ],
)
def test_refused_values_say_what_was_expected(run, arguments, said):
    done = run("runtime/benchmark.py", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err.splitlines()[-1]


def test_the_command_compares_with_peers_in_another_interpreter(run, finished_model, torch_python, image):
    python = run.folder / "python"
    python.write_text(f'#!/bin/sh\nexec {torch_python} "$@"\n')
    python.chmod(0o755)
    done = run.must("runtime/benchmark.py", "--model", finished_model, "--frames", 2, "--warmup", 0, "--image", image, "--batches", "1",
                    "--peer-python", python, "--rounds", 2, "--turn", 1, "--csv", run.folder)  # fmt: skip
    (file,) = run.folder.glob("*-peers.csv")
    rows = read_csv(file)
    assert [row["name"] for row in rows] == ["ours", *PEERS]
    assert {row["name"] for row in rows if row["not_measured"]} <= {"torch.compile"}  # it needs a C++ compiler
    contents = ("INT8", "PyTorch .* eager, FP32", "torch.compile|^$", "retinanet_resnet50_fpn 64x64, 4 classes", r"CPU, model\.onnx FP32")
    for row, expected in zip(rows, contents, strict=True):
        assert row["name"] in done.out
        assert re.search(expected, row["contents"])
        assert row["not_measured"] or (row["rounds"], row["calls"], float(row["times_ours"]) > 0) == ("2", "1", True)


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
