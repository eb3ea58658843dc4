import dataclasses
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from retinanet_edge.runtime.engine import open_engine
from retinanet_edge.runtime.errors import EngineError, ModelFolderError, UserInputError
from retinanet_edge.runtime.model_card import EngineRecord
from retinanet_edge.runtime.model_folder import read_card

pytest.importorskip("openvino")
pytest.importorskip("onnx")
tiny = runpy.run_path(str(Path(__file__).with_name("tiny_model.py")))
write_model, HEIGHT, WIDTH = tiny["write_model"], tiny["HEIGHT"], tiny["WIDTH"]

# Built for a TensorRT and a GPU that nobody has.
FOREIGN = EngineRecord("model.fp16.x.engine", "0" * 64, "fp16", "0" * 64, "0.0.1", "No GPU", "0.0", "1", 8, "2024-01-01", {})


def opened(folder, choice="auto", max_batch=1):
    with open_engine(folder, read_card(folder), choice, max_batch=max_batch) as engine:
        return engine.file.name, engine.precision, engine.max_batch


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({}, ("model.int8.onnx", "int8", 1)),
        ({"int8": False}, ("model.onnx", "fp32", 1)),
        ({"passed": False}, ("model.onnx", "fp32", 1)),
        ({"passed": False, "forced": True}, ("model.int8.onnx", "int8", 1)),
    ],
    ids=["INT8 passed", "no INT8", "INT8 failed", "INT8 failed but forced"],
)
def test_auto_takes_int8_unless_its_verdict_speaks_against_it(tmp_path, made, expected):
    assert opened(write_model(tmp_path, **made)) == expected


def test_a_choice_is_a_choice(tmp_path):
    folder = write_model(tmp_path, passed=False)
    assert opened(folder, "int8") == ("model.int8.onnx", "int8", 1)
    assert opened(folder, "fp32", max_batch=3) == ("model.onnx", "fp32", 3)


def test_auto_passes_over_an_engine_of_another_machine_and_says_so(tmp_path, caplog):
    folder = write_model(tmp_path)
    (folder / FOREIGN.file).write_bytes(b"engine")
    card = read_card(folder).with_engine(FOREIGN)
    with open_engine(folder, card) as engine:
        assert engine.file.name == "model.int8.onnx"
    (message,) = caplog.messages
    assert message.startswith("model.fp16.x.engine was built for ")
    assert message.endswith("running model.int8.onnx on OpenVINO (run python export/build_engine.py here for an engine)")


def test_an_engine_that_is_not_there_is_no_news(tmp_path, caplog):
    folder = write_model(tmp_path)
    with open_engine(folder, read_card(folder).with_engine(FOREIGN)) as engine:
        assert engine.file.name == "model.int8.onnx"
    assert caplog.messages == []


def test_without_engine_and_openvino_auto_names_the_builder(tmp_path, monkeypatch):
    folder = write_model(tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"no engine for this machine \(it has none\).*build_engine\.py --model"):
        opened(folder)


def test_what_is_opened_runs(tmp_path):
    folder = write_model(tmp_path)
    with open_engine(folder, read_card(folder), "fp32", max_batch=2) as engine:
        assert len(engine.infer(np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)).detections) == 2


@pytest.mark.parametrize("choice", ["auto", "fp32", "int8"])
def test_a_file_that_the_card_does_not_vouch_for_is_refused(tmp_path, choice):
    folder = write_model(tmp_path)
    for name in ("model.onnx", "model.int8.onnx"):
        path = folder / name
        path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ModelFolderError, match=r"onnx must have SHA-256 .* as the card says, got"):
        opened(folder, choice)


@pytest.mark.parametrize(
    ("choice", "said"),
    [("fp32", r"model\.onnx is needed but it does not exist: run python export/export_onnx\.py"),
     ("int8", r"model\.int8\.onnx is needed but it does not exist: run python export/build_engine\.py --int8")],
)  # fmt: skip
def test_a_missing_file_names_the_command_that_makes_it(tmp_path, choice, said):
    folder = write_model(tmp_path)
    for name in ("model.onnx", "model.int8.onnx"):
        (folder / name).unlink()
    with pytest.raises(ModelFolderError, match=said):
        opened(folder, choice)


def test_a_model_that_is_only_trained_says_how_to_export_it(tmp_path):
    folder = write_model(tmp_path, int8=False)
    card = dataclasses.replace(read_card(folder), onnx=None)
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelFolderError, match=r"it does not exist: run python export/export_onnx\.py"):
        open_engine(folder, card)


def test_an_unknown_engine_names_those_of_the_card(tmp_path):
    folder = write_model(tmp_path)
    with pytest.raises(UserInputError, match=r"an engine of the card \(it knows none\), got x\.engine: run python export/build_engine"):
        open_engine(folder, read_card(folder), "x.engine")
    card = read_card(folder).with_engine(FOREIGN)
    with pytest.raises(UserInputError, match=r"it knows model\.fp16\.x\.engine\), got fp16"):
        open_engine(folder, card, "fp16")


def test_a_named_engine_must_be_the_file_of_the_card(tmp_path):
    folder = write_model(tmp_path)
    (folder / FOREIGN.file).write_bytes(b"something else")
    with pytest.raises(ModelFolderError, match=r"model\.fp16\.x\.engine must have SHA-256 000000000000\.\.\."):
        open_engine(folder, read_card(folder).with_engine(FOREIGN), FOREIGN.file)
