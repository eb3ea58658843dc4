"""Peers in their own processes: the protocol and its faults, the comparison's arithmetic, and the real peers on a small model."""

import csv
import importlib.util
import io
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from retinanet_edge.runtime.benchmark_run import PEERS, PeerOptions, start_peer
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import NmsSpec
from retinanet_edge.runtime.model_folder import read_card
from retinanet_edge.runtime.peer_comparison import (
    Contender,
    Ratio,
    Result,
    best_throughputs,
    compare,
    comparison_csv,
    comparison_table,
    ratio,
)
from retinanet_edge.runtime.peers import PeerError, PeerProcess, check_interpreter
from tests.conftest import ROOT

GOOD = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    answer = {"ready": "a " + request["prepare"]["peer"]} if "prepare" in request else {"milliseconds": [1.5] * request["run"]}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def start():
    """Starts a Python program as a peer; all are closed in the end."""
    started = []

    def start(program, timeout_s=60.0):
        started.append(PeerProcess([sys.executable, "-c", program], timeout_s))
        return started[-1]

    yield start
    for process in started:
        process.close()


def test_a_peer_gets_ready_and_runs(start):
    process = start(GOOD)
    assert process.prepare({"peer": "turtle"}) == "a turtle"
    assert process.run(3) == [1.5, 1.5, 1.5]
    assert process.run(1) == [1.5]
    process.close()
    process.close()  # may be called twice


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("input(); print('{\"unavailable\": \"no torch\"}')", "^no torch$"),
        ("import sys; input(); print('x', file=sys.stderr); sys.exit('the reason')", "^ended with code 1: the reason$"),
        ("import os; os.kill(os.getpid(), 9)", "^ended with code -9$"),
        ("pass", "^ended with code 0$"),
        ("input(); print('hello')", "^does not speak the protocol of peers, said 'hello'$"),
        ("input(); print('[1]')", r"^does not speak the protocol of peers, said '\[1\]'$"),
        ("input(); print('{\"ready\": 5}')", "^must say in words what is ready, said 5$"),
    ],
    ids=["unavailable", "error", "killed", "ends", "words", "list", "number"],
)
def test_what_goes_wrong_is_the_reason(start, program, message):
    with pytest.raises(PeerError, match=message):
        start(program).prepare({})


@pytest.mark.parametrize("times", ["[1.0]", "[1.0, -1.0]", '[1.0, "2"]', '"fast"'])
def test_times_that_are_none_are_refused(start, times):
    process = start(f"""input(); print('{{"milliseconds": {times}}}')""")
    with pytest.raises(PeerError, match=r"must give 2 times in milliseconds, gave"):
        process.run(2)


def test_a_peer_that_hangs_is_given_up_and_ended_with_all_that_it_started(start, tmp_path):
    pids = tmp_path / "pids"
    program = f"""
import os, subprocess, time
child = subprocess.Popen(["sleep", "1000"])
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
print('{{"ready": "half"}}', flush=True)
time.sleep(1000)
"""
    process = start(program)
    assert process.prepare({}) == "half"
    process._timeout_s = 0.2
    with pytest.raises(PeerError, match=r"^gave no answer in 0\.2 s$"):
        process.run(1)
    process.close()
    parent, child = map(int, pids.read_text().split())
    with pytest.raises(ProcessLookupError):
        os.kill(parent, 0)
    for _ in range(200):  # a signal takes effect when its process is next scheduled
        if not is_running(child):
            break
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid):
    """Whether a process is there and no zombie, which a grandchild may be until its new parent looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, r"must be a Python interpreter of 3\.10 or newer, got .*python: No such file or directory"),
        ("echo hello", "which is another program"),
        ("echo Python False", "which is an older one"),
        ("exec sleep 1000", r"which gave no answer in 0\.3 s"),
    ],
    ids=["missing", "another", "older", "hangs"],
)
def test_interpreters_that_are_none(tmp_path, script, message):
    python = tmp_path / "python"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    with pytest.raises(UserInputError, match=message):
        check_interpreter(python, 0.3 if script == "exec sleep 1000" else 60.0)


def test_a_folder_is_no_interpreter_and_this_one_is(tmp_path):
    with pytest.raises(UserInputError, match="Permission denied"):
        check_interpreter(tmp_path)
    assert check_interpreter(sys.executable) is None


def from_table(name, rounds):
    """A contender whose calls take what a table says, after a first that never counts."""
    waiting = list(rounds)

    def take(calls):
        times = waiting.pop(0)
        assert calls == len(times) + 1
        return [1000.0, *times]

    return Contender(name, f"{name} it is", 2, take)


def failing_from(second):
    turns = []

    def take(calls):
        turns.append(calls)
        if len(turns) == second:
            raise PeerError("it fell over")
        return [1.0] * calls

    return Contender("faller", "", 2, take), turns


OURS = [(2.0, 4.0, 3.0), (5.0, 5.0, 50.0)]
THEIRS = [(6.0, 9.0, 90.0), (4.0, 10.0, 20.0)]


def test_a_result_counts_all_calls_and_compares_rounds():
    ours, theirs = compare([from_table("ours", OURS), from_table("theirs", THEIRS)], rounds=2, calls=3)
    assert ours.calls_ms == [2, 4, 3, 5, 5, 50]
    assert ours.p50_ms == 4.5  # 2 3 4 | 5 5 50
    assert ours.p95_ms == 50
    assert ours.frames_per_second == pytest.approx(2 * 1000 / 4.5)
    # 9 / 3 = 3 in the first round, 10 / 5 = 2 in the second.
    assert ratio(theirs, ours) == Ratio(2.5, 2.0, 3.0)
    assert ratio(ours, ours) == Ratio(1.0, 1.0, 1.0)


def test_turns_alternate():
    order = []

    def contender(name):
        return Contender(name, "", 1, lambda calls: order.append(name) or [1.0] * calls)

    compare([contender("a"), contender("b")], rounds=3, calls=1)
    assert order == ["a", "b", "a", "b", "a", "b"]


def test_one_that_fails_is_left_out_from_then_on():
    faller, turns = failing_from(second=2)
    ours, fallen = compare([from_table("ours", [*OURS, (1.0, 1.0, 1.0)]), faller], rounds=3, calls=3)
    assert (fallen.missing, fallen.rounds) == ("it fell over", ())
    assert turns == [4, 4]
    assert len(ours.rounds) == 3


def test_the_table_and_the_csv_show_ratios_and_reasons():
    results = [
        Result("ours", "INT8", 2, tuple(OURS)), Result("theirs", "FP32", 2, tuple(THEIRS)), Result("none", "", 2, missing="no torch")
    ]  # fmt: skip
    lines = comparison_table(results).splitlines()
    assert lines[0] == "in turn, 2 rounds of 3 calls of 2 letterboxed frames until the boxes are on the host"
    # Sorted 4 6 9 | 10 20 90: half way 9.5, 2 x 1000 / 9.5 = 210.5 a second.
    assert lines[3].split() == ["theirs", "9.50", "90.00", "4.00", "210.5", "2.50", "2.00", "-", "3.00", "FP32"]
    assert lines[4].split(maxsplit=1) == ["none", "not measured: no torch"]
    rows = list(csv.DictReader(io.StringIO(comparison_csv({"machine": "a, b"}, [results]))))
    shown = ("machine", "name", "p50_ms", "least_ms", "times_ours", "not_measured")
    assert [tuple(row[column] for column in shown) for row in rows] == [
        ("a, b", "ours", "4.500", "2.000", "1.000", ""), ("a, b", "theirs", "9.500", "4.000", "2.500", ""),
        ("a, b", "none", "", "", "", "no torch"),
    ]  # fmt: skip
    assert (rows[1]["rounds"], rows[1]["calls"], rows[1]["times_ours_least"], rows[1]["times_ours_most"]) == ("2", "3", "2.000", "3.000")


def test_the_best_batch_of_each_is_compared():
    one = [Result("ours", "", 1, ((2.0,),)), Result("theirs", "", 1, ((8.0,),))]  # 500 and 125 a second
    four = [Result("ours", "", 4, ((4.0,),)), Result("theirs", "", 4, ((40.0,),))]  # 1000 and 100
    lines = best_throughputs([one, four]).splitlines()
    assert " ".join(lines[1].split()) == "ours 1000.0 frames/s at batch 4; ours gives 1.00 times that"
    assert " ".join(lines[2].split()) == "theirs 125.0 frames/s at batch 1; ours gives 8.00 times that"


@pytest.fixture(scope="module")
def peer_process():
    spec = importlib.util.spec_from_file_location("peer_process", ROOT / "benchmarks" / "peer_process.py")
    module = sys.modules["peer_process"] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_the_peers_are_those_of_the_process(peer_process):
    assert tuple(peer_process.PEERS) == PEERS


def test_post_processing_in_torch_is_that_of_the_plugin(peer_process):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    nms = NmsSpec(0.3, 0.5, 20)
    logits = rng.normal(-1, 1.5, (1, 400, 3)).astype(np.float32)
    deltas = rng.normal(0, 0.3, (1, 400, 4)).astype(np.float32)
    anchors = np.concatenate([rng.uniform(0, 100, (1, 400, 2)), rng.uniform(10, 40, (1, 400, 2))], axis=2).astype(np.float32)
    (expected,) = efficient_nms(logits, deltas, anchors, nms)
    boxes, scores, classes = peer_process.detect(*map(torch.from_numpy, (logits[0], deltas[0], anchors[0])), nms)
    assert len(expected) == 20
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(boxes, expected.xyxy, atol=1e-3)
    np.testing.assert_array_equal(classes, expected.classes)


def test_our_network_in_half_precision_says_the_same(peer_process, finished_model):
    torch = pytest.importorskip("torch")
    from retinanet_edge.training.checkpoint import load_network

    card = read_card(finished_model)
    network = load_network(finished_model, card)
    images = torch.randint(0, 256, (1, card.input.height, card.input.width, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(images)
        peer_process.to_half(network)
        found = network(images)
    for whole, half in zip(expected, found, strict=True):
        assert half.dtype == torch.float16
        torch.testing.assert_close(half.float(), whole, atol=0.02, rtol=0.02)


@pytest.fixture
def wanted(finished_model, tmp_path):
    """What the real peers are asked to prepare: noise through the small model."""
    card = read_card(finished_model)
    shape = (2, 3, card.input.height, card.input.width, 3)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    return {"model": str(finished_model), "images": str(tmp_path / "images.npy"), "batch": 3, "on_gpu": False}


def test_a_peer_without_its_weights_says_so(wanted, torch_python, tmp_path):
    model = tmp_path / "without"
    model.mkdir()
    (model / "card.json").write_bytes((tmp_path / wanted["model"] / "card.json").read_bytes())
    with ExitStack() as stack:
        contender = start_peer(stack, "PyTorch eager", {**wanted, "model": str(model)}, PeerOptions(Path(torch_python)))
        with pytest.raises(PeerError, match=r"weights\.safetensors is needed but it does not exist"):
            contender.take(1)


def test_torch_without_a_gpu_says_so(wanted):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with ExitStack() as stack:
        contender = start_peer(stack, "torchvision", {**wanted, "on_gpu": True}, PeerOptions())
        with pytest.raises(PeerError, match="sees no GPU"):
            contender.take(1)


def test_an_interpreter_without_the_libraries_says_so(wanted, tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -E -S "$@"\n')
    bare.chmod(0o755)
    check_interpreter(bare)
    with ExitStack() as stack:
        contender = start_peer(stack, "ONNX Runtime", wanted, PeerOptions(bare))
        with pytest.raises(PeerError, match="ended with code 1: ModuleNotFoundError: No module named 'numpy'"):
            contender.take(1)
