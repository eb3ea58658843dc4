"""The session's own logic on a GPU of NumPy (fake_gpu.py, fake_tensorrt.py): order, graphs, batches in flight, threads, memory."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest

from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.tensorrt_session import TensorRTSession
from tests.runtime.fake_gpu import FakeGpu
from tests.runtime.fake_tensorrt import FakeEngine, Tensor, install

TENSORS = {
    "images": Tensor("INPUT", "UINT8", (-1, 2, 3)),
    "sums": Tensor("OUTPUT", "INT32", (-1, 2)),
    "anchors": Tensor("OUTPUT", "FLOAT", (1, 4)),
}
ROWS = {"images": TENSORS["images"], "detections": Tensor("OUTPUT", "FLOAT", (-1, 2), rows_depend=True)}


def sums(inputs):
    """Each image's rows summed up, and a constant that is no image's."""
    return {"sums": inputs["images"].sum(2, dtype=np.int32), "anchors": np.array([[1, 2, 3, 4]], np.float32)}


def bright_rows(inputs):
    """A row (image, value) for each pixel above 200: none, or many."""
    image, *_ = where = np.nonzero(inputs["images"] > 200)
    return {"detections": np.stack([image, inputs["images"][where]], 1).astype(np.float32)}


@pytest.fixture
def opened(monkeypatch):
    """Open sessions on fake GPUs; all are closed in the end, and must leave nothing behind."""
    sessions = []

    def open_session(tensors=TENSORS, compute=sums, batches=(1, 4, 4), shared=False, with_graphs=True, **options):
        gpu = FakeGpu(shared)
        install(monkeypatch, FakeEngine(gpu, tensors, compute, batches), with_graphs=with_graphs)
        sessions.append((TensorRTSession(b"plan", "fake.engine", **options), gpu))
        return sessions[-1]

    yield open_session
    for session, gpu in sessions:
        session.close()
        assert (gpu.current, gpu.free_bytes) == (0, 1 << 30)


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 3), dtype=np.uint8)


def expect(run, given):
    np.testing.assert_array_equal(run.outputs["sums"], given.sum(2))
    np.testing.assert_array_equal(run.outputs["anchors"], [[1, 2, 3, 4]])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("with_graphs", [False, True])
def test_every_batch_gives_its_own_results_in_any_order(opened, shared, with_graphs):
    session, gpu = opened(shared=shared, with_graphs=with_graphs)
    for seed, count in enumerate((4, 1, 1, 3, 4, 2, 1, 1, 4)):
        given = images(count, seed)
        expect(session.run({"images": given}), given)
    # 9 runs of 4 batch sizes: the first of each is plain, which is when its graph is captured
    assert gpu.calls.count("graph") == (5 if with_graphs else 0)
    assert gpu.calls.count("plain") == (4 if with_graphs else 9)


def test_memory_that_is_shared_is_not_copied(opened):
    session, gpu = opened(shared=True)
    given = images(2)
    expect(session.run({"images": given}), given)
    assert gpu.copies == 0
    discrete, gpu = opened()
    discrete.run({"images": given})
    assert gpu.copies == 3  # one input, two outputs


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("with_graphs", [False, True])
def test_two_batches_in_flight_do_not_disturb_each_other(opened, shared, with_graphs):
    session, _ = opened(shared=shared, with_graphs=with_graphs)
    waiting = []
    for seed, count in enumerate((4, 4, 2, 3, 4, 1, 4, 4)):
        given = images(count, seed)
        handed = given.copy()
        waiting.append((session.submit({"images": handed}), given))
        handed[...] = 99  # the caller's again as soon as it is submitted
        if len(waiting) == 2:
            ticket, earlier = waiting.pop(0)
            expect(session.collect(ticket), earlier)
    expect(session.collect(waiting[0][0]), waiting[0][1])


def test_batches_may_be_collected_in_another_order(opened):
    session, _ = opened()
    first, second = images(2, 1), images(3, 2)
    tickets = session.submit({"images": first}), session.submit({"images": second})
    expect(session.collect(tickets[1]), second)
    expect(session.collect(tickets[0]), first)


def test_a_third_batch_in_flight_and_a_ticket_used_twice_are_refused(opened):
    session, _ = opened()
    first, _ = session.submit({"images": images(1)}), session.submit({"images": images(1)})
    with pytest.raises(ValueError, match="2 batches are in flight, which is the most"):
        session.submit({"images": images(1)})
    session.collect(first)
    with pytest.raises(ValueError, match="not in flight"):
        session.collect(first)
    expect(session.run({"images": images(4)}), images(4))


def test_the_second_set_of_buffers_is_made_when_it_is_needed(opened):
    session, _ = opened()
    one = 4 * 6 + 4 * 2 * 4 + 4 * 4  # images, sums and anchors at the largest batch
    session.run({"images": images(4)})
    session.run({"images": images(4)})
    assert session.device_bytes == one + 1000
    tickets = [session.submit({"images": images(1)}) for _ in range(2)]
    assert session.device_bytes == 2 * one + 1000
    for ticket in tickets:
        session.collect(ticket)


def test_a_batch_below_the_engines_smallest_is_filled_up(opened):
    seen = []

    def watched(inputs):
        seen.append(inputs["images"])
        return sums(inputs)

    session, _ = opened(compute=watched, batches=(3, 4, 4))
    for count in (1, 4, 2, 3):
        given = images(count, count)
        run = session.run({"images": given})
        assert len(run.outputs["sums"]) == count
        expect(run, given)
    assert [len(batch) for batch in seen] == [3, 4, 3, 3]
    assert not seen[0][1:].any(), "it is filled up with black, not with what memory held"


@pytest.mark.parametrize("shared", [False, True])
def test_outputs_of_any_length_grow_as_they_must(opened, shared):
    session, gpu = opened(ROWS, bright_rows, shared=shared)
    assert session.graph_obstacle == "the length of detections depends on the data"
    sizes = []
    for level in (255, 0, 201, 255):
        given = np.full((4, 2, 3), level, np.uint8)
        given[1:] = given[1:] // (2 if level == 201 else 1)  # then only the first image has rows
        expected = bright_rows({"images": given})["detections"]
        np.testing.assert_array_equal(session.run({"images": given}).outputs["detections"], expected)
        sizes.append(len(expected))
    assert sizes == [24, 0, 6, 24]
    assert set(gpu.calls) == {"plain"}


def test_rows_in_flight_twice_keep_to_their_own_buffers(opened):
    session, _ = opened(ROWS, bright_rows)
    few, many = np.zeros((1, 2, 3), np.uint8), np.full((4, 2, 3), 250, np.uint8)
    few[0, 0, 0] = 222
    tickets = [session.submit({"images": given}) for given in (few, many)]
    assert session.collect(tickets[0]).outputs["detections"].tolist() == [[0, 222]]
    assert session.collect(tickets[1]).outputs["detections"].shape == (24, 2)


def test_no_memory_for_rows_is_one_line_and_the_session_goes_on(opened):
    session, gpu = opened(ROWS, bright_rows)
    left, gpu.free_bytes = gpu.free_bytes, 100
    with pytest.raises(EngineError, match=r"TensorRT refuses to run fake\.engine \(the fake's reason\)"):
        session.run({"images": np.full((4, 2, 3), 250, np.uint8)})  # 24 rows of 8 bytes
    gpu.free_bytes = left
    assert len(session.run({"images": np.full((4, 2, 3), 250, np.uint8)}).outputs["detections"]) == 24


def test_no_memory_for_the_second_set_of_buffers_is_one_line_and_frees_its_place(opened):
    session, gpu = opened()
    first, left = session.submit({"images": images(2)}), gpu.free_bytes
    gpu.free_bytes = 30  # for the images, but not for the sums
    for _ in range(3):
        with pytest.raises(EngineError, match=r"^the GPU fails: cuMemAlloc failed: out of memory: see nvidia-smi"):
            session.submit({"images": images(2, 1)})
        assert gpu.free_bytes == 30
    gpu.free_bytes = left
    expect(session.collect(first), images(2))
    tickets = [session.submit({"images": images(2, seed)}) for seed in (3, 4)]
    for seed, ticket in zip((3, 4), tickets, strict=True):
        expect(session.collect(ticket), images(2, seed))


def test_a_run_that_is_refused_leaves_the_next_alone(opened, monkeypatch):
    session, _ = opened()
    with monkeypatch.context() as patch:
        patch.setattr("tests.runtime.fake_tensorrt.FakeContext.execute_async_v3", lambda *_: False)
        with pytest.raises(EngineError, match=r"TensorRT refuses to run fake\.engine"):
            session.run({"images": images(4, 1)})
    tickets = [session.submit({"images": images(count, count)}) for count in (4, 2)]
    for count, ticket in zip((4, 2), tickets, strict=True):
        expect(session.collect(ticket), images(count, count))


def test_a_capture_that_fails_is_said_once_and_costs_nothing(opened, caplog):
    session, gpu = opened()
    gpu.capture_fails = True
    with caplog.at_level(logging.WARNING, "retinanet_edge"):
        for seed, count in enumerate((1, 2, 1, 2)):
            given = images(count, seed)
            expect(session.run({"images": given}), given)
    (record,) = caplog.records
    assert "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" in record.getMessage()
    assert gpu.calls == ["plain"] * 4


@pytest.mark.parametrize(
    ("options", "obstacle"),
    [({}, None), ({"graphs": False}, "they are switched off"), ({"with_graphs": False}, "cuda-bindings is not installed")],
)
def test_it_says_why_there_are_no_graphs(opened, options, obstacle):
    session, gpu = opened(**options)
    for _ in range(2):
        session.run({"images": images(2)})
    assert session.graph_obstacle == obstacle
    assert gpu.calls[-1] == ("graph" if obstacle is None else "plain")


def test_stages_are_timed_in_their_order(opened):
    session, _ = opened()
    for _ in range(2):
        stage_ms = session.run({"images": images(4)}).stage_ms
        assert list(stage_ms) == ["upload", "engine", "download"]
        assert all(value > 0 for value in stage_ms.values())


def test_results_are_the_callers_own(opened):
    session, _ = opened()
    kept = session.run({"images": images(4, 1)})
    session.run({"images": images(4, 2)})
    expect(kept, images(4, 1))


def in_thread(call):
    """Return what `call` raised in a thread of its own."""
    raised = []

    def work():
        try:
            call()
        except EngineError as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    thread.join()
    return raised


def test_another_thread_is_refused_in_one_line_and_may_close(opened):
    session, gpu = opened()
    ticket = session.submit({"images": images(1)})
    for call in (lambda: session.submit({"images": images(1)}), lambda: session.collect(ticket)):
        (error,) = in_thread(call)
        assert str(error) == (
            "fake.engine belongs to the thread that ran it first, MainThread, and was called from worker: open one engine for each thread "
            "that runs one"
        )
    expect(session.collect(ticket), images(1))
    assert in_thread(session.close) == []
    assert gpu.retained == 1
    with pytest.raises(ValueError, match=r"fake\.engine is closed"):
        session.run({"images": images(1)})


def test_it_may_be_opened_in_one_thread_and_run_in_another(opened):
    session, _ = opened()
    assert in_thread(lambda: expect(session.run({"images": images(2)}), images(2))) == []
    session.close()


def test_closing_with_batches_in_flight_drops_them(opened):
    session, _ = opened()
    ticket = session.submit({"images": images(1)})
    session.close()
    session.close()
    with pytest.raises(ValueError, match="is closed"):
        session.collect(ticket)
    assert session.device_bytes == 0


def test_what_is_no_plan_is_one_line_and_leaves_nothing_behind(monkeypatch):
    gpu = FakeGpu()
    install(monkeypatch, FakeEngine(gpu, TENSORS, sums, (1, 1, 1)))
    with pytest.raises(EngineError, match=r"TensorRT 8\.5\.3\.1 cannot load x\.engine \(the fake's reason\): run python"):
        TensorRTSession(b"other", "x.engine")
    assert (gpu.current, gpu.free_bytes) == (0, 1 << 30)


def test_code_and_cores_are_used_only_where_they_are_asked_for(monkeypatch):
    gpu = FakeGpu()
    runtime = install(monkeypatch, FakeEngine(gpu, TENSORS, sums, (1, 1, 1)))
    TensorRTSession(b"plan", "x.engine").close()
    assert (runtime.engine_host_code_allowed, runtime.DLA_core) == (False, -1)
    TensorRTSession(b"plan", "x.engine", host_code=True, dla_core=1).close()
    assert (runtime.engine_host_code_allowed, runtime.DLA_core) == (True, 1)
    with pytest.raises(EngineError, match=r"x\.engine needs DLA core 2, and here are 2 DLA cores: run .* without --dla"):
        TensorRTSession(b"plan", "x.engine", dla_core=2)
    assert gpu.retained == 1


@pytest.mark.parametrize("tensor", [Tensor("OUTPUT", "BOOL", (-1, 2)), Tensor("OUTPUT", "FLOAT", (-1, -1), rows_depend=True)])
def test_tensors_of_no_use_are_refused(monkeypatch, tensor):
    gpu = FakeGpu()
    install(monkeypatch, FakeEngine(gpu, {**TENSORS, "extra": tensor}, sums, (1, 1, 1)))
    with pytest.raises(EngineError, match=r"tensor extra of x\.engine must have a type of"):
        TensorRTSession(b"plan", "x.engine")
    assert gpu.free_bytes == 1 << 30


def test_rows_that_depend_on_the_data_are_all_given_of_a_batch_that_was_filled_up(opened):
    rows = np.array([[0, 5], [0, 6]], np.float32)  # as many as the smallest batch, of one image
    session, _ = opened(ROWS, lambda _: {"detections": rows}, (2, 2, 2))
    np.testing.assert_array_equal(session.run({"images": images(1)}).outputs["detections"], rows)
