"""The parity table with TensorRT in it, and Polygraphy's view of the network without its plugin."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from retinanet_edge.runtime.model_folder import ONNX_FILE, write_card

NEEDED = ("onnxruntime", "polygraphy", "pycocotools", "cv2", "PIL")


@pytest.fixture(autouse=True, scope="module")
def _needs_both_sides() -> None:
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"no {name} in this environment")


@pytest.fixture
def folder_with(tmp_path, model, engine_of, images):
    """Return a function that copies the tiny model, with engines, into a folder of its own, beside labelled images."""

    def make(*precisions):
        import cv2

        folder, data = tmp_path / "model", tmp_path / "data"
        folder.mkdir()
        records = tuple(engine_of(precision) for precision in precisions)
        for path in (*model.folder.glob("*.onnx"), *(model.folder / record.file for record in records)):
            shutil.copy(path, folder)
        write_card(folder, replace(model.card, engines=records))
        (data / "annotations").mkdir(parents=True)
        for split in ("train", "val"):
            (data / split).mkdir()
            found = model.expected(images)
            labels = {
                "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(len(images))],
                "categories": [{"id": i, "name": name} for i, name in enumerate(model.card.classes)],
                "annotations": [
                    {"id": 1, "image_id": 0, "category_id": int(found[0].classes[0]), "bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0}
                ],
            }
            (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(labels))
            for i, image in enumerate(images):
                cv2.imwrite(str(data / split / f"{i}.png"), image)
        return folder, data

    return make


def subject_of(folder, data):
    from retinanet_edge.export.parity_subject import open_subject

    return open_subject(folder, data, images=32, seed=0)


def cells(out, *start):
    """The words of the row of the table that starts so: precision, heads, matched, its percent sign, boxes, AP, points, verdict."""
    (row,) = (line.split() for line in out.splitlines() if line.startswith("  ".join(start)))
    return row[sum(len(part.split()) for part in start) :]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_are_in_the_table(folder_with, precision, capsys) -> None:
    from retinanet_edge.export.backend_parity import HEADS_LIMIT, Limits, check_parity

    folder, data = folder_with(precision)
    subject = subject_of(folder, data)
    (record,) = subject.card.engines
    check_parity(subject, Limits(max_ap_drop=1, min_matched=0))  # random weights have no AP to lose; INT8 uncalibrated rounds much
    out = capsys.readouterr().out
    found, heads, matched, _, _, _, _, verdict = cells(out, record.file, f"TensorRT {record.tensorrt}")
    assert (found, verdict) == (precision, "ok")
    if precision == "fp32":
        assert float(heads) <= HEADS_LIMIT
        assert float(matched) == 100
    else:
        assert heads == "-"
        int8 = next(line.split() for line in out.splitlines() if line.startswith("model.int8.onnx") and "ONNX Runtime" in line)
        assert float(matched) >= (90 if precision == "fp16" else float(int8[5]) - 20)


def test_polygraphy_gives_the_outputs_of_onnx_runtime(folder_with, images) -> None:
    from retinanet_edge.export.backend_parity import heads_difference
    from retinanet_edge.export.reference_network import HEADS, ReferenceNetwork
    from retinanet_edge.export.tensorrt_parity import engine_without_plugin

    folder, _ = folder_with()
    expected = ReferenceNetwork(folder / ONNX_FILE).heads(images[:1])
    with engine_without_plugin(folder / ONNX_FILE, "fp32", (1, 64, 64, 3)) as run:
        found = run(images[:1])
    assert set(found) == set(HEADS)
    assert heads_difference([tuple(found[name] for name in HEADS)], [expected]) <= 1e-3


@pytest.mark.parametrize("precision", ["fp32", "fp16"])  # the tiny network's Q/DQ file has tensors of other names
def test_layers_of_an_engine_are_compared_tensor_by_tensor(folder_with, precision, capsys) -> None:
    from retinanet_edge.export.first_divergence import check_layers

    folder, data = folder_with(precision)
    subject = subject_of(folder, data)
    check_layers(subject, subject.card.engines[0].file, limit=1e-3 if precision == "fp32" else 0.05)
    first, *_ = capsys.readouterr().out.splitlines()
    assert "on TensorRT against model.onnx on ONNX Runtime: " in first
    assert int(first.split(": ")[1].split()[0]) >= 10  # two trunk convolutions, their activations, and what the heads are made of


def test_layers_names_a_tampered_convolution_first(folder_with) -> None:
    from retinanet_edge.export.first_divergence import divergences, tensor_names
    from retinanet_edge.export.tensorrt_parity import engine_without_plugin

    folder, _ = folder_with()
    graph = onnx.load(folder / ONNX_FILE)
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == convolutions[1].input[2])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1), bias.name))
    onnx.save(graph, folder / "changed.onnx")
    names = tensor_names(graph.graph)

    def run(wanted, images):
        with engine_without_plugin(folder / ONNX_FILE, "fp32", images.shape, wanted) as give:
            return give(images)

    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    found = divergences(folder / "changed.onnx", graph.graph, {name: [name] for name in names}, run, image)
    assert next(tensor.tensor for tensor in found if tensor.difference > 1e-3) == convolutions[1].output[0]
