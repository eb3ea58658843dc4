"""Running engines: CUDA graphs, batches that overlap, mapped memory, threads, memory, every form of output, whole camera frames."""

from __future__ import annotations

import gc
import threading
from itertools import cycle, islice

import numpy as np
import pytest

from retinanet_edge.runtime.cuda_graph import graph_driver
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.device_memory import DeviceMemory
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.tensorrt_engine import misfit
from tests.gpu.gpu_memory import free_memory, full_gpu, host_memory

needs_graphs = pytest.mark.skipif(graph_driver() is None, reason="no cuda-bindings in this environment")


def assert_same(found: list[Detections], expected: list[Detections]) -> None:
    assert [len(d) for d in found] == [len(d) for d in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.classes, theirs.classes)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-3)


@needs_graphs
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_graphs_and_plain_enqueueing_give_the_same_at_every_batch_size(model, engine_of, images, precision) -> None:
    record = engine_of(precision)
    with model.open(record) as with_graphs, model.open(record, graphs=False) as plain:
        for _ in range(3):  # captured in the first round, launched in the others
            for count in (1, 2, 3, 4):
                for part in (images[:count], images[::-1][:count]):
                    assert_same(with_graphs.infer(part).detections, plain.infer(part).detections)
        assert with_graphs.session.graph_obstacle is None
        assert plain.session.graph_obstacle == "they are switched off"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_batch_from_1_to_8_gives_what_its_images_give_alone(model, images, agreement, precision) -> None:
    eight = np.concatenate([images, images[:, ::-1]])
    with model.open(model.build(precision, max_batch=8)) as engine:
        assert engine.max_batch == 8
        alone = [engine.infer(eight[i : i + 1]).detections[0] for i in range(8)]
        assert min(map(len, alone)) > 0
        for count in range(1, 9):
            together = engine.infer(eight[:count]).detections
            assert len(together) == count
            assert all(agreement(t, a, 0.95, 0.01) > 0.95 for t, a in zip(together, alone, strict=False))


def test_without_cuda_bindings_it_runs_and_says_why(model, engine_of, images, monkeypatch) -> None:
    monkeypatch.setattr("retinanet_edge.runtime.cuda_graph.graph_driver", lambda: None)
    with model.open(engine_of("fp32")) as engine:
        found = [engine.infer(images).detections for _ in range(2)]
        assert engine.session.graph_obstacle == "cuda-bindings is not installed"
    assert_same(found[0], found[1])


@pytest.mark.parametrize("graphs", [True, False])
def test_batches_that_overlap_give_what_they_give_alone(model, engine_of, images, graphs) -> None:
    parts = [images[:4], images[1:2], images[2:], images[:3], images[3:]]
    with model.open(engine_of("fp32"), graphs=graphs) as engine:
        alone = [engine.infer(part).detections for part in parts]
        waiting = []
        for index in islice(cycle(range(len(parts))), 200):
            waiting.append((index, engine.submit(parts[index])))
            if len(waiting) == 2:
                earlier, ticket = waiting.pop(0)
                assert_same(engine.collect(ticket).detections, alone[earlier])
        assert_same(engine.collect(waiting[0][1]).detections, alone[waiting[0][0]])


def test_a_third_batch_in_flight_is_refused(model, engine_of, images) -> None:
    with model.open(engine_of("fp32")) as engine:
        tickets = [engine.submit(images), engine.submit(images[:1])]
        with pytest.raises(ValueError, match="2 batches are in flight"):
            engine.submit(images)
        assert len(engine.collect(tickets[1]).detections) == 1
        assert len(engine.collect(tickets[0]).detections) == 4
        with pytest.raises(ValueError, match="not in flight"):
            engine.collect(tickets[0])


def test_memory_that_cpu_and_gpu_share_gives_the_same(model, engine_of, images, monkeypatch) -> None:
    """As on a Jetson: a discrete GPU reads mapped memory, too, if slowly."""
    with model.open(engine_of("fp32")) as engine:
        expected = [engine.infer(images[:count]).detections for count in (4, 1, 3)]
    ordinary = DeviceMemory.__init__

    def shared(self: DeviceMemory) -> None:
        ordinary(self)
        self.shared = True

    monkeypatch.setattr(DeviceMemory, "__init__", shared)
    with model.open(engine_of("fp32")) as engine:
        for _ in range(2):
            for count, wanted in zip((4, 1, 3), expected, strict=True):
                assert_same(engine.infer(images[:count]).detections, wanted)
        tickets = [engine.submit(images), engine.submit(images[:1])]
        assert_same(engine.collect(tickets[0]).detections, expected[0])
        assert_same(engine.collect(tickets[1]).detections, expected[1])


def in_thread(call) -> list[Exception]:
    raised: list[Exception] = []

    def work() -> None:
        try:
            call()
        except (EngineError, ValueError) as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    thread.join()
    return raised


def test_another_thread_is_refused_and_may_close(model, engine_of, images) -> None:
    engine = model.open(engine_of("fp32"))
    ticket = engine.submit(images)
    for call in (lambda: engine.infer(images), lambda: engine.collect(ticket)):
        (error,) = in_thread(call)
        assert "belongs to the thread that ran it first, MainThread, and was called from worker" in str(error)
    assert len(engine.collect(ticket).detections) == 4
    engine.submit(images)  # still running when it is closed
    assert in_thread(engine.close) == []
    with pytest.raises(ValueError, match="is closed"):
        engine.infer(images)


def test_it_may_be_opened_here_run_there_and_closed_here(model, engine_of, images) -> None:
    with model.open(engine_of("fp32")) as engine:
        assert in_thread(lambda: [engine.infer(images) for _ in range(3)]) == []


@pytest.mark.parametrize("nms", ["native", "none"])
def test_every_form_of_output_gives_the_same_detections(model, engine_of, images, agreement, nms) -> None:
    record = model.build("fp32", max_batch=4, nms=nms)
    with model.open(engine_of("fp32")) as plugin, model.open(record) as engine:
        for count in (4, 1, 2, 3, 4):
            found, expected = engine.infer(images[:count]), plugin.infer(images[:count])
            assert len(found.detections) == count
            assert all(agreement(f, e, 0.99, 0.001) > 0.99 for f, e in zip(found.detections, expected.detections, strict=True))
            assert list(found.stage_ms) == ["upload", "engine", "download", "nms"]
        tickets = [engine.submit(images[:1]), engine.submit(images)]
        assert [len(engine.collect(ticket).detections) for ticket in tickets] == [1, 4]
        if nms == "native":
            assert engine.session.graph_obstacle == "the length of detections depends on the data"


def test_rows_of_data_dependent_length_may_be_none(silent_model, images) -> None:
    with silent_model.open(silent_model.build("fp32", max_batch=4, nms="native")) as engine:
        for _ in range(2):
            assert [len(d) for d in engine.infer(images).detections] == [0, 0, 0, 0]


def test_a_batch_below_the_smallest_is_filled_up(model, engine_of, images) -> None:
    record = model.build("fp32", min_batch=3, max_batch=4)
    with model.open(engine_of("fp32")) as usual, model.open(record) as engine:
        for count in (1, 4, 2, 3, 1):
            assert_same(engine.infer(images[:count]).detections, usual.infer(images[:count]).detections)


def test_a_camera_baked_in_gives_what_the_host_letterbox_gives(model, engine_of, images, agreement) -> None:
    frames = images.repeat(2, axis=1).repeat(2, axis=2)[:, :96]  # [4, 96, 128, 3], structure of eight pixels
    boxing = Letterbox(96, 128, 64, 64)
    boxed = np.stack([boxing.apply(frame) for frame in frames])
    with model.open(engine_of("fp32")) as usual, model.open(model.build("fp32", max_batch=4, camera_size=(128, 96))) as engine:
        assert engine.frame_size == (96, 128)
        wanted = [boxing.detections_to_frame(d) for d in usual.infer(boxed).detections]
        found = [Letterbox(96, 128, 96, 128).detections_to_frame(d) for d in engine.infer(frames).detections]
    assert min(map(len, wanted)) > 0
    assert all(agreement(f, w, 0.9, 0.02) > 0.9 for f, w in zip(found, wanted, strict=True))


def test_normalised_input_is_built_and_refused_here(model) -> None:
    record = model.build("fp32", max_batch=4, input="fp32-nchw")
    assert "float32 images that are normalised already" in (misfit(record) or "")
    with pytest.raises(EngineError, match=r"DeepStream and Triton .*: run python export/build_engine\.py --fp32"):
        model.open(record)


def test_a_plugin_that_is_missing_is_said_before_loading(model, engine_of) -> None:
    with pytest.raises(EngineError, match="needs the plugin EfficientNMS_TRT version 99"):
        model.open(engine_of("fp32"), plugin_version="99")


def test_ten_thousand_frames_leave_no_memory_behind(model, engine_of, images) -> None:
    with model.open(engine_of("fp32")) as engine:
        def run(calls: int) -> None:
            waiting = [engine.submit(images)]
            for _ in range(calls - 1):
                waiting.append(engine.submit(images))
                assert len(engine.collect(waiting.pop(0)).detections) == 4
            engine.collect(waiting[0])

        run(50)
        gc.collect()
        before, of_host, counted = free_memory(), host_memory(), engine.session.device_bytes
        run(2500)
        gc.collect()
        assert before - free_memory() < 1 << 20
        assert host_memory() - of_host < 16 << 20
        assert engine.session.device_bytes == counted


def test_the_memory_that_it_names_is_taken_from_the_gpu(model, images) -> None:
    record = model.build("fp32", max_batch=256)
    before = free_memory()
    with model.open(record) as engine:
        engine.infer(images)
        named = engine.session.device_bytes
        assert named > 256 * 64 * 64 * 3
        assert before - free_memory() > 0.9 * named
    assert engine.session.device_bytes == 0


def test_no_memory_is_one_line_and_passes(model, images) -> None:
    with model.open(model.build("fp32", max_batch=256)) as large:  # 3 MiB of images: its second set of buffers finds no room
        first = large.submit(images)
        with full_gpu(), pytest.raises(EngineError) as caught:
            large.submit(images)
        assert "\n" not in str(caught.value)
        assert "see nvidia-smi" in str(caught.value)
        assert len(large.collect(first).detections) == 4
        assert len(large.infer(images).detections) == 4
