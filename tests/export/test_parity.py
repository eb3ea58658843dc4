"""The parity command on a small model: what is the same, what was tampered with, what cannot be compared."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from retinanet_edge.export.backends import incomparable
from retinanet_edge.runtime.model_card import AnchorSpec, EngineRecord, InputSpec, ModelCard, NetworkSpec, NmsSpec
from retinanet_edge.runtime.model_folder import file_sha256, read_card, write_card

PARITY = "export/parity.py"


def rows(out):
    """The cells of each row of the table, by file and backend."""
    lines = out.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("file "))
    end = next(index for index, line in enumerate(lines) if line.startswith("heads: "))
    cells = [re.split(r"  +", line) for line in lines[start + 1 : end]]
    return {(line[0], line[1]): line[2:] for line in cells}


def raise_class_bias(path, value):
    """Add to the bias of the last class convolution, which all levels share."""
    network = onnx.load(path)
    (bias,) = (tensor for tensor in network.graph.initializer if tensor.name.endswith("class_head.predict.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(value), bias.name))
    onnx.save(network, path)


def vouch(folder):
    """Let the card vouch for the ONNX files as they are now."""
    card = read_card(folder)
    onnx_record = replace(card.onnx, sha256=file_sha256(folder / "model.onnx"))
    write_card(folder, replace(card, onnx=onnx_record, int8=replace(card.int8, sha256=file_sha256(folder / "model.int8.onnx"))))


def engine_record(**fields):
    record = EngineRecord(
        file="model.fp32.other.engine", sha256="0" * 64, precision="fp32", onnx_sha256="0" * 64, tensorrt="8.5.3.1",
        gpu="Other GPU", compute_capability="8.7", plugin_version="1", max_batch=1, built="2026-01-01T00:00:00+00:00", options={},
    )  # fmt: skip
    return replace(record, **fields)


def an_engine(folder):
    card = read_card(folder)
    write_card(folder, card.with_engine(engine_record(onnx_sha256=card.onnx.sha256)))


def assert_input_error(done, *parts):
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for part in parts:
        assert part in done.err


def test_a_sound_model_is_ok_everywhere(run, project):
    done = run.must(PARITY, "--model", project.model, "--max-ap-drop", 10)
    table = rows(done.out)
    assert set(table) == {("model.onnx", "OpenVINO"), ("model.int8.onnx", "OpenVINO"), ("model.int8.onnx", "ONNX Runtime")}
    precision, heads, matched, distance, ap, points, verdict = table["model.onnx", "OpenVINO"]
    assert (precision, matched, distance, points, verdict) == ("fp32", "100.0 %", "0.00", "+0.00", "ok")
    assert float(heads) < 1e-4
    assert f"AP {ap} on 8 images" in done.out  # 32 by default, and there are 8
    assert float(ap) > 0.5
    for backend in ("OpenVINO", "ONNX Runtime"):
        precision, heads, _, distance, *_, verdict = table["model.int8.onnx", backend]
        assert (precision, verdict) == ("int8", "ok")
        assert 1e-3 < float(heads) < 0.5, "INT8 rounds"
        assert float(distance) > 0


def test_fewer_images_are_chosen_by_the_seed(run, project):
    said = [run(PARITY, "--model", project.model, "--images", 3, "--seed", seed, "--max-ap-drop", 100).out for seed in (0, 0, 1)]
    assert all(" on 3 images of the val split of " in out for out in said)
    assert said[0] == said[1] != said[2]


def test_a_tampered_copy_differs(run, project):
    raise_class_bias(project.model / "model.int8.onnx", -2)  # scores fall: fewer boxes at 0.05, and none where the reference has its own
    vouch(project.model)
    done = run(PARITY, "--model", project.model, "--max-ap-drop", 100)
    assert done.code == 1
    assert {key: cells[-1] for key, cells in rows(done.out).items()} == {
        ("model.onnx", "OpenVINO"): "ok", ("model.int8.onnx", "OpenVINO"): "differs", ("model.int8.onnx", "ONNX Runtime"): "differs",
    }  # fmt: skip
    assert done.err.startswith("error: 2 of 3 must be as model.onnx is, but differ: model.int8.onnx on OpenVINO, ")
    assert done.err.count("\n") == 1
    again = run(PARITY, "--model", project.model, "--max-ap-drop", 100, "--min-matched", 0)
    assert (again.code, again.err) == (0, "")


def test_lost_ap_differs_by_its_own_limit(run, project):
    shutil.copy(project.model / "model.onnx", project.model / "model.fp16.onnx")
    network = onnx.load(project.model / "model.fp16.onnx")
    (bias,) = (tensor for tensor in network.graph.initializer if tensor.name.endswith("box_head.predict.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([0.15, 0, 0, 0]), bias.name))
    onnx.save(network, project.model / "model.fp16.onnx")  # every box is moved by 0.15 anchors
    done = run(PARITY, "--model", project.model, "--max-ap-drop", 10, "--min-matched", 0)
    *_, points, verdict = rows(done.out)["model.fp16.onnx", "OpenVINO"]
    assert (done.code, verdict) == (1, "differs")
    assert float(points) < -10
    assert run(PARITY, "--model", project.model, "--max-ap-drop", 100, "--min-matched", 0).code == 0


def test_a_model_that_finds_nothing_has_nothing_to_match(run, project):
    for name in ("model.onnx", "model.int8.onnx"):
        raise_class_bias(project.model / name, -20)
    vouch(project.model)
    done = run.must(PARITY, "--model", project.model, "--images", 4, "--max-ap-drop", 100)
    assert [cells[2:4] for cells in rows(done.out).values()] == [["-", "-"]] * 3
    raise_class_bias(project.model / "model.int8.onnx", 20)  # now it finds its objects again: AP is gained, but not what the ONNX says
    vouch(project.model)
    done = run(PARITY, "--model", project.model, "--images", 4)
    _, _, matched, distance, _, points, verdict = rows(done.out)["model.int8.onnx", "ONNX Runtime"]
    assert (done.code, matched, distance, verdict) == (1, "0.0 %", "-", "differs")
    assert float(points) > 10


def test_an_engine_that_does_not_fit_says_why_and_fails_nothing(run, project):
    an_engine(project.model)
    (project.model / "model.fp32.other.engine").write_bytes(b"engine")
    done = run.must(PARITY, "--model", project.model, "--images", 2, "--max-ap-drop", 100)
    precision, *figures, verdict = rows(done.out)["model.fp32.other.engine", "TensorRT 8.5.3.1"]
    assert (precision, figures) == ("fp32", ["-"] * 5)
    assert verdict.startswith("not run: was built for TensorRT 8.5.3.1 on Other GPU (compute capability 8.7), but here")
    done = run(PARITY, "--model", project.model, "--images", 2, "--layers", "model.fp32.other.engine")
    assert (done.code, done.out) == (1, "")
    assert "was built for TensorRT 8.5.3.1" in done.err


def test_an_engine_that_was_not_copied_along_is_named(run, project):
    an_engine(project.model)
    done = run.must(PARITY, "--model", project.model, "--images", 2, "--max-ap-drop", 100)
    assert rows(done.out)["model.fp32.other.engine", "TensorRT 8.5.3.1"][-1] == "not run: the file is not here"


def test_an_engine_that_is_made_to_differ_is_not_compared():
    """Asked as on the engine's own machine: what the build options say is enough."""
    spec = NmsSpec()
    card = ModelCard(("a",), InputSpec(64, 64, (0.0,) * 3, (1.0,) * 3), AnchorSpec((8,), (16.0,), (1.0,), (1.0,)),
                     NetworkSpec("x", 8, 8, 1, "none"), nms=spec)  # fmt: skip
    assert incomparable(engine_record(), card) is None
    assert "frames of 1280x720" in incomparable(engine_record(options={"camera_size": "1280x720"}), card)
    assert "NMS options" in incomparable(engine_record(options={"nms_score_threshold": "0.4"}), card)
    assert incomparable(engine_record(options={"nms_score_threshold": str(spec.score_threshold)}), card) is None


def test_without_openvino_its_rows_say_so_and_without_int8_nothing_is_left(run, project):
    (run.folder / "hide").mkdir()
    (run.folder / "hide" / "openvino.py").write_text("raise ModuleNotFoundError('No module named openvino', name='openvino')\n")
    hidden = {"PYTHONPATH": str(run.folder / "hide")}
    done = run(PARITY, "--model", project.model, "--images", 2, "--max-ap-drop", 100, **hidden)
    assert done.code == 0, done.err
    assert rows(done.out)["model.onnx", "OpenVINO"][-1] == "not run: no openvino in this environment: pip install -e '.[cpu]'"
    assert rows(done.out)["model.int8.onnx", "ONNX Runtime"][-1] == "ok"
    (project.model / "model.int8.onnx").unlink()
    done = run(PARITY, "--model", project.model, "--images", 2, **hidden)
    assert (done.code, done.err[:34]) == (1, "error: nothing could be compared, ")


def test_layers_names_the_tampered_layer_first(run, project):
    shutil.copy(project.model / "model.onnx", project.model / "model.fp16.onnx")
    raise_class_bias(project.model / "model.fp16.onnx", 1)
    done = run(PARITY, "--model", project.model, "--layers", "model.fp16.onnx")
    assert done.code == 1
    shown = [line.split() for line in done.out.splitlines() if line.startswith("  ")]
    assert shown[0][1:] == ["Conv", "/class_head/predict/Conv_output_0"]
    assert done.err == (
        "error: model.fp16.onnx on ONNX Runtime must be as model.onnx is, but diverges first at /class_head/predict/Conv_output_0 (Conv)\n"
    )


def test_layers_names_a_scale_that_clips(run, project):
    network = onnx.load(project.model / "model.int8.onnx")
    quantize = next(n for n in network.graph.node if n.op_type == "QuantizeLinear" and n.input[0].startswith("/pyramid/output.0/"))
    scale = next(tensor for tensor in network.graph.initializer if tensor.name == quantize.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / np.float32(50), scale.name))  # reaches to 2 % of the range
    onnx.save(network, project.model / "model.int8.onnx")
    vouch(project.model)
    done = run(PARITY, "--model", project.model, "--layers", "model.int8.onnx")
    dequantize = next(node for node in network.graph.node if node.op_type == "DequantizeLinear" and node.input[0] == quantize.output[0])
    assert (done.code, done.out.splitlines()[1].split()[1:]) == (1, ["DequantizeLinear", dequantize.output[0]])


def test_layers_of_a_sound_file_and_of_openvino_are_alike(run, project):
    done = run.must(PARITY, "--model", project.model, "--layers", "model.onnx")
    assert done.out.startswith("model.onnx on OpenVINO against model.onnx on ONNX Runtime: ")
    assert int(re.search(r": (\d+) tensors on ", done.out)[1]) > 50
    assert run.must(PARITY, "--model", project.model, "--layers", "model.int8.onnx").out.count("\n") == 3
    strict = run(PARITY, "--model", project.model, "--layers", "model.int8.onnx", "--layer-limit", "1e-6")
    assert (strict.code, strict.out.count("\n")) == (1, 7)  # head line, the first five, how many there are


def test_what_is_wrong_with_the_folder_is_one_line(run, project):
    done = run(PARITY, "--model", project.model, "--layers", "other.onnx")
    assert_input_error(done, "--layers must be one of model.onnx, model.int8.onnx, got other.onnx")
    assert_input_error(run(PARITY, "--model", project.model, "--data", "missing"), "missing")
    raise_class_bias(project.model / "model.int8.onnx", 1)
    assert_input_error(run(PARITY, "--model", project.model), "model.int8.onnx must have SHA-256", "as the card says")
    (project.model / "model.onnx").write_bytes((project.model / "model.onnx").read_bytes()[:2000])
    vouch(project.model)
    assert_input_error(run(PARITY, "--model", project.model), "model.onnx must be a whole ONNX file")
    (project.model / "model.onnx").unlink()
    assert_input_error(run(PARITY, "--model", project.model), "model.onnx is needed but it does not exist")


def test_a_graph_that_onnx_runtime_refuses_is_one_line(run, project):
    network = onnx.load(project.model / "model.onnx")
    next(node for node in network.graph.node if node.op_type == "Relu").op_type = "NoSuchOperator"
    onnx.save(network, project.model / "model.onnx")
    vouch(project.model)
    assert_input_error(run(PARITY, "--model", project.model), "model.onnx does not run on ONNX Runtime", "NoSuchOperator")


def test_images_without_an_object_are_refused(run, project):
    labels = project.folder / "data" / "squares" / "annotations" / "instances_val.json"
    content = json.loads(labels.read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] == 0]
    labels.write_text(json.dumps(content))
    answers = [run(PARITY, "--model", project.model, "--images", 1, "--seed", seed, "--layers", "model.onnx") for seed in range(3)]
    refused = [done for done in answers if done.code == 2]
    assert refused, "one of the 8 images has objects"
    for done in refused:
        assert_input_error(done, "the images to compare on must have objects, got 1 of the val split")


def test_a_missing_folder_is_said_before_anything_is_loaded(run):
    (run.folder / "onnxruntime.py").write_text("raise AssertionError")
    done = run(PARITY, "--model", "missing", PYTHONPATH=str(run.folder))
    assert_input_error(done, "missing does not exist: run python training/train.py")
