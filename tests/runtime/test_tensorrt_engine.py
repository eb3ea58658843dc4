"""The GPU backend where there is no GPU: it says so and stays out of the way; and its own part of the work on a GPU of NumPy.

What TensorRT computes is tested in tests/gpu.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import AnchorSpec, EngineRecord, InputSpec, ModelCard, NetworkSpec, NmsSpec, OnnxRecord
from retinanet_edge.runtime.tensorrt_engine import TensorRTEngine, misfit
from retinanet_edge.runtime.tensorrt_library import Machine, tensorrt_unavailable_reason
from tests.runtime.fake_gpu import FakeGpu
from tests.runtime.fake_tensorrt import FakeEngine, Tensor, install

CARD = ModelCard(
    ("cell",),
    InputSpec(64, 64, (0.0,) * 3, (1.0,) * 3),
    AnchorSpec((8,), (32.0,), (1.0,), (1.0,)),
    NetworkSpec("none", 8, 8, 1, "none"),
)
RECORD = EngineRecord(
    file="model.int8.no-such-gpu-trt1.0-00000000.engine", sha256="0" * 64, precision="int8", onnx_sha256="1" * 64, tensorrt="1.0",
    gpu="No such GPU", compute_capability="1.0", plugin_version="1", max_batch=1, built="2024-01-01T00:00:00+00:00", options={},
)  # fmt: skip


def test_an_engine_of_another_machine_does_not_fit_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert "was built for TensorRT 1.0 on No such GPU" in (misfit(RECORD) or "")
    assert capfd.readouterr() == ("", "")


def test_an_engine_asked_for_by_name_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        TensorRTEngine(tmp_path / RECORD.file, RECORD, CARD)
    message = str(caught.value)
    assert "\n" not in message
    if tensorrt_unavailable_reason() is None:
        assert "built for TensorRT 1.0 on No such GPU (compute capability 1.0), but here is" in message
    else:
        assert "but here: " in message
    assert message.endswith("run python export/build_engine.py --int8")


HERE = Machine("8.5.3.1", "H", "9.0")
NMS = NmsSpec(score_threshold=0.3, max_detections=3)
IMAGES = Tensor("INPUT", "UINT8", (-1, 64, 64, 3))
ROWS = {"images": IMAGES, "detections": Tensor("OUTPUT", "FLOAT", (-1, 7), rows_depend=True)}
PLUGIN = {
    "images": IMAGES, "num_detections": Tensor("OUTPUT", "INT32", (-1, 1)), "detection_boxes": Tensor("OUTPUT", "FLOAT", (-1, 3, 4)),
    "detection_scores": Tensor("OUTPUT", "FLOAT", (-1, 3)), "detection_classes": Tensor("OUTPUT", "INT32", (-1, 3)),
}  # fmt: skip
HEADS = {
    "images": IMAGES, "class_logits": Tensor("OUTPUT", "FLOAT", (-1, 2, 1)), "box_deltas": Tensor("OUTPUT", "FLOAT", (-1, 2, 4)),
    "anchors": Tensor("OUTPUT", "FLOAT", (1, 2, 4)),
}  # fmt: skip


def by_rows(inputs):
    """A box of each image at its first pixel's value, scored 0.5; none for 0."""
    values = inputs["images"][:, 0, 0, 0].astype(np.float32)
    rows = [[image, v, v, v + 2, v + 2, 0.5, 0] for image, v in enumerate(values) if v]
    return {"detections": np.array(rows, np.float32).reshape(-1, 7)}


def by_plugin(inputs):
    count, rows = len(inputs["images"]), by_rows(inputs)["detections"]
    boxes = np.zeros((count, 3, 4), np.float32)
    boxes[rows[:, 0].astype(int), 0] = rows[:, 1:5]
    found = np.any(boxes, axis=2)
    return {
        "num_detections": found.sum(1, dtype=np.int32)[:, None], "detection_boxes": boxes,
        "detection_scores": 0.5 * found.astype(np.float32), "detection_classes": np.zeros((count, 3), np.int32),
    }  # fmt: skip


def by_heads(inputs):
    """The same by an anchor at (1, 1) of side 2, moved by its delta; the other anchor never scores. A logit of 0 is a score of 0.5."""
    values = inputs["images"][:, 0, 0, 0].astype(np.float32)
    logits, deltas = np.full((len(values), 2, 1), -9, np.float32), np.zeros((len(values), 2, 4), np.float32)
    logits[values > 0, 0] = 0
    deltas[:, 0, :2] = values[:, None] / 2
    return {"class_logits": logits, "box_deltas": deltas, "anchors": np.array([[[1, 1, 2, 2], [9, 9, 2, 2]]], np.float32)}


@pytest.fixture
def open_fake(tmp_path, monkeypatch):
    """Open an engine that is no plan but a function, on a GPU of NumPy."""
    opened = []

    def open_engine(tensors, compute, card=None, **options):
        path = tmp_path / "model.fp32.engine"
        path.write_bytes(b"plan")
        onnx = OnnxRecord("1" * 64, "2" * 64, 17, 0.0)
        record = replace(
            RECORD, file=path.name, sha256=hashlib.sha256(b"plan").hexdigest(), precision="fp32", tensorrt=HERE.tensorrt, gpu=HERE.gpu,
            compute_capability=HERE.compute_capability, max_batch=4, options=options,
        )  # fmt: skip
        gpu = FakeGpu()
        install(monkeypatch, FakeEngine(gpu, tensors, compute, (1, 4, 4)))
        monkeypatch.setattr("retinanet_edge.runtime.tensorrt_engine.tensorrt_unavailable_reason", lambda: None)
        monkeypatch.setattr("retinanet_edge.runtime.tensorrt_engine.this_machine", lambda: HERE)
        monkeypatch.setattr("retinanet_edge.runtime.tensorrt_engine.has_plugin", lambda _, version: version == "1")
        opened.append(gpu)
        return TensorRTEngine(path, record, card or replace(CARD, nms=NMS, onnx=onnx))

    yield open_engine
    for gpu in opened:
        assert (gpu.current, gpu.free_bytes) == (0, 1 << 30)


def images_of(*values):
    images = np.zeros((len(values), 64, 64, 3), np.uint8)
    images[:, 0, 0, 0] = values
    return images


FORMS = [(PLUGIN, by_plugin, "efficient"), (ROWS, by_rows, "native"), (HEADS, by_heads, "none")]


@pytest.mark.parametrize(("tensors", "compute", "nms"), FORMS, ids=["plugin", "rows", "heads"])
def test_every_form_of_output_gives_the_same_detections(open_fake, tensors, compute, nms) -> None:
    with open_fake(tensors, compute, nms=nms) as engine:
        assert (engine.max_batch, engine.frame_size, engine.backend) == (4, None, "TensorRT 8.5.3.1")
        for values in ((10, 0, 20), (30,), (1, 2, 3, 4), (0,), (5,)):
            inference = engine.infer(images_of(*values))
            assert [d.xyxy.tolist() for d in inference.detections] == [[[v, v, v + 2, v + 2]] if v else [] for v in values]
            assert all((d.scores == 0.5).all() for d in inference.detections)
            stages = ["upload", "engine", "download"] + ["nms"] * (nms != "efficient")
            assert list(inference.stage_ms) == stages
        assert engine.session.graph_obstacle == ("the length of detections depends on the data" if nms == "native" else None)


@pytest.mark.parametrize(("tensors", "compute", "nms"), FORMS, ids=["plugin", "rows", "heads"])
def test_batches_overlap(open_fake, tensors, compute, nms) -> None:
    with open_fake(tensors, compute, nms=nms) as engine:
        first, second = engine.submit(images_of(7, 8)), engine.submit(images_of(9))
        assert [d.xyxy[0, 0] for d in engine.collect(first).detections] == [7, 8]
        assert [d.xyxy[0, 0] for d in engine.collect(second).detections] == [9]


def test_a_camera_baked_in_takes_whole_frames(open_fake) -> None:
    whole = {**PLUGIN, "images": Tensor("INPUT", "UINT8", (-1, 48, 80, 3))}
    with open_fake(whole, by_plugin, camera_size="80x48") as engine:
        assert engine.frame_size == (48, 80)
        assert len(engine.infer(np.full((2, 48, 80, 3), 9, np.uint8)).detections) == 2
        with pytest.raises(ValueError, match=r"images must be uint8 \[1\.\.4, 48, 80, 3\]"):
            engine.infer(images_of(1))


def test_tensors_that_are_not_the_cards_are_refused_and_freed(open_fake) -> None:
    with pytest.raises(EngineError, match="must have the card's tensors") as caught:
        open_fake(PLUGIN, by_plugin, nms_max_detections="5")
    assert "\n" not in str(caught.value)


def test_an_engine_for_other_programs_is_refused(open_fake) -> None:
    with pytest.raises(EngineError, match=r"takes float32 images .*: run python export/build_engine\.py --fp32"):
        open_fake(PLUGIN, by_plugin, input="fp32-nchw")


def test_a_plugin_that_is_missing_is_one_line(open_fake, monkeypatch) -> None:
    with open_fake(PLUGIN, by_plugin):
        pass
    monkeypatch.setattr("retinanet_edge.runtime.tensorrt_engine.has_plugin", lambda *_: False)
    record = replace(RECORD, tensorrt=HERE.tensorrt, gpu=HERE.gpu, compute_capability=HERE.compute_capability)
    assert misfit(record) == f"{RECORD.file} needs the plugin EfficientNMS_TRT version 1, which TensorRT 8.5.3.1 here lacks"
    assert misfit(replace(record, options={"nms": "native"})) is None
