"""The doctor: checks in processes of their own, a model folder, the report, and the command on this machine."""

import dataclasses
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retinanet_edge.runtime import health_model
from retinanet_edge.runtime.health_check import Check, name_of, run_check, run_tool
from retinanet_edge.runtime.health_report import MACHINE_CHECKS, MODEL_CHECKS, json_text, run_checks, table
from retinanet_edge.runtime.model_card import EngineRecord, Verdict
from retinanet_edge.runtime.model_folder import file_sha256, read_card, write_card

write_model = runpy.run_path(str(Path(__file__).with_name("tiny_model.py")))["write_model"]

# --- one check in a process of its own

BROKEN = """
import os, sys, time
from retinanet_edge.runtime.health_check import Check
def raises(): raise ValueError("no such thing, password=hunter2")
def aborts(): os.abort()
def ends(): os._exit(0)
def hangs(): time.sleep(3600)
def takes(first, second): return Check("takes", "ok", first + second)
def noisy():
    print("[TRT] a library says hello"); print("and more", file=sys.stderr)
    return Check("noisy", "warning", "rtsp://user:hunter2@camera/1", "do this")
"""


@pytest.fixture
def broken(tmp_path, monkeypatch):
    (tmp_path / "broken_checks.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    import broken_checks

    yield broken_checks
    del sys.modules["broken_checks"]


def test_a_check_that_raises_aborts_or_ends_the_process_is_one_failed_check(broken):
    raised, aborted, ended = (run_check(check) for check in (broken.raises, broken.aborts, broken.ends))
    assert (raised.name, raised.status) == ("raises", "failed")
    assert raised.found == "the check broke: ValueError: no such thing, password=***"
    assert "import raises as check" in raised.fix
    assert (aborted.status, aborted.found) == ("failed", "the check broke: stopped by SIGABRT")
    assert (ended.status, ended.found) == ("failed", "the check broke: no answer")


def test_a_check_that_hangs_is_given_up(broken):
    check = run_check(broken.hangs, timeout_s=0.5)
    assert (check.name, check.status, check.found) == ("hangs", "failed", "the check hangs: no answer within 0.5 s")


def test_what_a_library_prints_is_not_the_answer_and_passwords_are_taken_out(broken):
    assert run_check(broken.noisy) == Check("noisy", "warning", "rtsp://camera/1", "do this")
    assert run_check(broken.takes, "a ", "b") == Check("takes", "ok", "a b")


def test_what_is_wrong_has_a_fix_and_what_is_not_has_none():
    with pytest.raises(AssertionError):
        Check("memory", "failed", "none")
    with pytest.raises(AssertionError):
        Check("memory", "ok", "enough", "buy more")


def test_a_tool_that_is_not_there_and_one_that_hangs_with_a_child(tmp_path):
    assert run_tool(["no-such-tool"]).code is None
    (tmp_path / "hang").write_text("#!/bin/sh\nsleep 3600 & sleep 3600\n")
    (tmp_path / "hang").chmod(0o755)
    began = time.monotonic()
    assert run_tool([str(tmp_path / "hang")], timeout_s=0.5).err == "no answer within 0.5 s"
    assert time.monotonic() - began < 600  # and not the hour


def test_names_are_those_of_the_functions_and_differ():
    names = [name_of(check) for check in (*MACHINE_CHECKS, *MODEL_CHECKS)]
    assert len(set(names)) == len(names)
    done = run_checks(Path("missing"))
    assert [check.name for check in done] == names
    assert [check for check in done if "the check" in check.found] == []


# --- the model folder


def findings(folder):
    return {name_of(check): check(str(folder)) for check in MODEL_CHECKS}


def test_a_whole_folder(tmp_path):
    found = findings(write_model(tmp_path / "model"))
    assert {name: check.status for name, check in found.items() if name != "model engine"} == {
        "model card": "ok", "model files": "ok", "int8 verdict": "ok",
    }  # fmt: skip
    assert found["model card"].found == f"{tmp_path}/model: 3 classes, input 16x24"
    assert found["int8 verdict"].found == "a drop of 0.10 AP points, 0.5 allowed"  # 0.001 and 0.005 on the 0..1 scale


def test_a_file_that_is_not_the_cards(tmp_path):
    folder = write_model(tmp_path / "model")
    (folder / "model.int8.onnx").write_bytes(b"half a fi")
    check = health_model.model_files(str(folder))
    assert (check.status, check.fix) == ("failed", "run python export/build_engine.py --int8")
    assert f"{folder}/model.int8.onnx must have SHA-256" in check.found


def test_a_truncated_card(tmp_path):
    folder = write_model(tmp_path / "model")
    (folder / "card.json").write_text('{"classes": ["a')
    found = findings(folder)
    assert (found["model card"].status, found["model card"].fix) == ("failed", "train again")
    assert {check.status for name, check in found.items() if name != "model card"} == {"absent"}


def test_no_model_yet_is_a_warning_and_a_wrong_name_a_failure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert health_model.model_card("models/latest").status == "warning"
    assert health_model.model_card("models/other").status == "failed"


@pytest.mark.parametrize(("forced", "said"), [(False, ""), (True, ", accepted by --force")])
def test_an_int8_model_that_loses_too_much(tmp_path, forced, said):
    folder = write_model(tmp_path / "model", passed=False, forced=forced)
    check = health_model.int8_verdict(str(folder))
    assert (check.status, check.found) == ("warning", f"a drop of 10.00 AP points, 0.5 allowed{said}")
    card = read_card(folder)
    write_card(folder, dataclasses.replace(card, verdict=Verdict(True, None, 0.005, card.onnx.sha256, True)))
    assert health_model.int8_verdict(str(folder)).found == "a drop that was not measured, 0.5 allowed"


def test_engines(tmp_path, monkeypatch):
    monkeypatch.setattr(health_model, "tensorrt_unavailable_reason", lambda: None)
    monkeypatch.setattr("retinanet_edge.runtime.tensorrt_engine.misfit", lambda record: None if record.gpu == "Orin" else "for another GPU")
    folder = write_model(tmp_path / "model")
    assert health_model.model_engine(str(folder)).found == "none that fits, the model runs on the CPU: there is none"
    card = read_card(folder)
    (folder / "a.engine").write_bytes(b"plan")
    record = EngineRecord(
        "a.engine", file_sha256(folder / "a.engine"), "fp16", card.onnx.sha256, "10.3.0", "Orin", "8.7", "1", 4, "2026-11-21", {}
    )
    write_card(folder, card.with_engine(record))
    assert health_model.model_engine(str(folder)) == Check("model engine", "ok", "a.engine, fp16, up to 4 images at once")
    (folder / "a.engine").write_bytes(b"plan, damaged")
    assert health_model.model_engine(str(folder)).status == "failed"
    write_card(folder, card.with_engine(dataclasses.replace(record, gpu="NVIDIA L4")))
    check = health_model.model_engine(str(folder))
    assert (check.status, check.found) == ("warning", "none that fits, the model runs on the CPU: for another GPU")


# --- the report and the command

SOME = [Check("python", "ok", "3.10"), Check("csi camera", "absent", "none"), Check("disk", "failed", "full", "delete something")]


def test_the_table_is_aligned_and_counts():
    assert table(SOME).splitlines() == [
        "ok       python      3.10",
        "absent   csi camera  none",
        "failed   disk        full",
        "                     fix: delete something",
        "",
        "1 ok, 1 failed, 1 absent",
    ]
    assert "\033[31mfailed \033[0m  disk" in table(SOME, color=True)


def test_json_says_whether_something_failed():
    assert json.loads(json_text(SOME))["failed"] is True
    assert json.loads(json_text(SOME[:2])) == {
        "failed": False,
        "checks": [
            {"name": "python", "status": "ok", "found": "3.10", "fix": None},
            {"name": "csi camera", "status": "absent", "found": "none", "fix": None},
        ],
    }


def test_the_command_ends_with_1_where_something_failed(run):
    write_model(run.folder / "model")
    good, bad = run("runtime/doctor.py", "--model", "model", "--json"), run("runtime/doctor.py", "--model", "missing")
    report = json.loads(good.out)
    assert good.code == report["failed"] == any(check["status"] == "failed" for check in report["checks"])
    assert {check["name"] for check in report["checks"]} >= {"python", "tensorrt", "gpu", "opencv", "cameras", "clock", "model card"}
    assert bad.code == 1
    assert "failed   model card        model folder missing does not exist\n" in bad.out
    assert bad.err.startswith("error: ")
    assert bad.err.count("\n") == 1
    assert "\033" not in bad.out  # no colours into a file


def test_a_broken_numpy_is_a_finding_and_not_the_end(run):
    (run.folder / "broken").mkdir()
    (run.folder / "broken/numpy.py").write_text("raise ImportError('numpy is compiled for another machine')")
    done = run("runtime/doctor.py", "--json", PYTHONPATH=str(run.folder / "broken"))
    checks = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert done.code == 1
    assert checks["numpy"]["found"] == "does not load: numpy is compiled for another machine"
    assert checks["python"]["status"] == "ok"


def test_examining_imports_nothing_heavy():
    code = (
        "import sys, retinanet_edge.runtime.health_report\n"
        "print(sorted({'numpy', 'cv2', 'tensorrt', 'pycuda', 'av', 'openvino', 'onnx', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
