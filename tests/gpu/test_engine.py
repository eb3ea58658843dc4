"""Engines of a tiny network at every precision, against ONNX Runtime and the NumPy twin; and engines that must be refused."""

from __future__ import annotations

import gc
import hashlib
from dataclasses import replace

import numpy as np
import pytest

from retinanet_edge.export.build_options import timing_cache_name
from retinanet_edge.runtime.engine import open_engine
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.tensorrt_engine import misfit
from retinanet_edge.runtime.tensorrt_library import this_machine
from tests.gpu.gpu_memory import free_memory


def test_fp32_gives_what_onnxruntime_and_the_twin_give(model, engine_of, images) -> None:
    expected = model.expected(images)
    assert min(map(len, expected)) >= 5, "the tiny network finds something to compare"
    with model.open(engine_of("fp32")) as engine:
        found = engine.infer(images).detections
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        np.testing.assert_array_equal(ours.classes, theirs.classes)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-2)


@pytest.mark.parametrize(("precision", "tolerances", "least_share"), [("fp16", (0.9, 0.02), 0.9), ("int8", (0.7, 0.1), 0.8)])
def test_lower_precisions_agree_with_their_own_onnx(
    model, engine_of, images, agreement, precision, tolerances, least_share
) -> None:
    """tolerances: least IoU and greatest difference in score of two detections that are the same."""
    expected = model.expected(images, precision)
    with model.open(engine_of(precision)) as engine:
        found = engine.infer(images).detections
        assert engine.precision == precision
    shares = [agreement(f, e, *tolerances) for f, e in zip(found, expected, strict=True)]
    assert min(shares) >= least_share


def test_detections_come_best_first_with_their_times_and_are_the_callers_own(model, engine_of, images) -> None:
    with model.open(engine_of("fp32")) as engine:
        first = engine.infer(images[:1])
        kept = first.detections[0].xyxy.copy()
        engine.infer(images[1:2])
    assert np.array_equal(first.detections[0].xyxy, kept), "a later call does not touch earlier results"
    assert (np.diff(first.detections[0].scores) <= 0).all()
    assert (first.detections[0].scores >= model.card.nms.score_threshold).all()
    assert list(first.stage_ms) == ["upload", "engine", "download"]
    assert all(milliseconds >= 0 for milliseconds in first.stage_ms.values())


def test_nothing_found_is_an_empty_result(silent_model, images) -> None:
    with silent_model.open(silent_model.build("fp32", max_batch=4)) as engine:
        assert [len(d) for d in engine.infer(images).detections] == [0, 0, 0, 0]


@pytest.mark.parametrize("shape", [(0, 64, 64, 3), (5, 64, 64, 3), (1, 64, 32, 3), (1, 3, 64, 64), (64, 64, 3)])
def test_images_of_another_shape_are_refused(model, engine_of, shape) -> None:
    with model.open(engine_of("fp32")) as engine, pytest.raises(ValueError, match=r"images must be uint8 \[1\.\.4, 64, 64, 3\]"):
        engine.infer(np.zeros(shape, np.uint8))


def test_images_of_another_type_are_refused(model, engine_of) -> None:
    with model.open(engine_of("fp32")) as engine, pytest.raises(ValueError, match="got float32"):
        engine.infer(np.zeros((1, 64, 64, 3), np.float32))


def test_the_record_says_what_was_built(model, engine_of) -> None:
    record, machine = engine_of("fp32"), this_machine()
    path = model.folder / record.file
    assert record.file.startswith("model.fp32.")
    assert f"-trt{machine.tensorrt}-" in record.file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record.sha256
    assert record.onnx_sha256 == model.card.onnx.sha256
    assert (record.tensorrt, record.gpu, record.compute_capability) == (machine.tensorrt, machine.gpu, machine.compute_capability)
    assert (record.options["max_batch"], record.options["nms_max_detections"]) == ("4", "100")
    assert misfit(record) is None
    assert (model.folder / timing_cache_name(machine)).stat().st_size > 0


def test_the_engine_is_what_a_folder_opens(model, engine_of, images) -> None:
    record = engine_of("fp32")
    card = replace(model.card, engines=(record,))
    for choice in ("auto", record.file):
        with open_engine(model.folder, card, choice) as engine:
            assert engine.backend == f"TensorRT {record.tensorrt}"
            assert engine.file.name == record.file
            assert len(engine.infer(images[:1]).detections) == 1


@pytest.mark.parametrize(
    ("field", "value"), [("tensorrt", "7.0.0.1"), ("gpu", "Another GPU"), ("compute_capability", "3.0")]
)
def test_an_engine_of_another_machine_is_refused_in_one_sentence(model, engine_of, field, value) -> None:
    record = engine_of("fp32")
    assert "but here is" in (misfit(replace(record, **{field: value})) or "")
    sentence = r"was built for .*, but here is .*: run python export/build_engine\.py --fp32"
    with pytest.raises(EngineError, match=sentence) as caught:
        model.open(record, **{field: value})
    assert value in str(caught.value)


def test_an_engine_of_another_onnx_file_is_refused(model, engine_of) -> None:
    with pytest.raises(EngineError, match="was built from an ONNX file with SHA-256 ffffffffffff"):
        model.open(engine_of("fp32"), onnx_sha256="f" * 64)


def test_a_damaged_file_is_refused_before_tensorrt_reads_it(model, engine_of) -> None:
    record = engine_of("fp32")
    damaged = bytearray((model.folder / record.file).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (model.folder / "damaged.engine").write_bytes(damaged)
    with pytest.raises(EngineError, match=r"damaged\.engine is damaged"):
        model.open(replace(record, file="damaged.engine"))


@pytest.mark.parametrize("content", ["truncated", "empty", "garbage"])
def test_what_is_no_plan_is_refused_by_tensorrt_in_one_line(model, engine_of, content) -> None:
    record = engine_of("fp32")
    plan = (model.folder / record.file).read_bytes()
    data = {"truncated": plan[: len(plan) // 2], "empty": b"", "garbage": b"no plan" * 1000}[content]
    (model.folder / "other.engine").write_bytes(data)
    with pytest.raises(EngineError, match=r"cannot load other\.engine") as caught:
        model.open(replace(record, file="other.engine"), sha256=hashlib.sha256(data).hexdigest())
    assert "\n" not in str(caught.value)


def test_an_engine_whose_tensors_are_not_the_cards_is_refused(model, engine_of) -> None:
    record = engine_of("fp32")
    with pytest.raises(EngineError, match="must have the card's tensors"):
        model.open(record, options={**record.options, "nms_max_detections": "10"})


def test_closing_twice_is_fine_and_a_closed_engine_says_so(model, engine_of, images) -> None:
    engine = model.open(engine_of("fp32"))
    engine.close()
    engine.close()
    with pytest.raises(ValueError, match="is closed"):
        engine.infer(images)


def test_memory_comes_back(model, engine_of, images) -> None:
    def used_by_one_more() -> int:
        with model.open(engine_of("fp32")) as engine:
            engine.infer(images)
        gc.collect()
        return free_memory()

    used_by_one_more()  # the first loads kernels, which stay
    before = used_by_one_more()
    for _ in range(10):
        after = used_by_one_more()
    assert before - after < 4 << 20, "ten engines leave less than 4 MiB behind"


def test_two_engines_run_side_by_side(model, engine_of, images) -> None:
    with model.open(engine_of("fp32")) as one, model.open(engine_of("fp32")) as other:
        first, second = one.infer(images[:2]).detections, other.infer(images[2:]).detections
        again = one.infer(images[:2]).detections
    assert all(np.array_equal(a.scores, b.scores) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].scores, second[0].scores)


def test_a_broken_graph_is_one_line() -> None:
    from retinanet_edge.export.compiler import BuildOptions, compile_engine

    with pytest.raises(EngineError, match="cannot read the ONNX model") as caught:
        compile_engine(b"no protobuf", BuildOptions("fp32"))
    assert "\n" not in str(caught.value)
