"""Engine files and frames that an engine must refuse, each in one line, before anything runs; on a GPU of NumPy, which they leave clean."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retinanet_edge.runtime.engine import open_engine
from retinanet_edge.runtime.errors import EngineError, ModelFolderError, RetinaNetEdgeError
from retinanet_edge.runtime.model_card import AnchorSpec, EngineRecord, InputSpec, ModelCard, NetworkSpec, NmsSpec, OnnxRecord
from retinanet_edge.runtime.tensorrt_engine import TensorRTEngine
from retinanet_edge.runtime.tensorrt_library import Machine
from tests.runtime.fake_gpu import FakeGpu
from tests.runtime.fake_tensorrt import FakeEngine, Tensor, install

HERE = Machine("8.5.3.1", "H", "9.0")
RECORD = EngineRecord(
    file="model.fp16.h.engine", sha256=hashlib.sha256(b"plan").hexdigest(), precision="fp16", onnx_sha256="1" * 64, tensorrt="8.5.3.1",
    gpu="H", compute_capability="9.0", plugin_version="1", max_batch=4, built="2024-01-01T00:00:00+00:00", options={},
)  # fmt: skip
CARD = ModelCard(
    ("cell",), InputSpec(64, 32, (0.0,) * 3, (1.0,) * 3), AnchorSpec((8,), (32.0,), (1.0,), (1.0,)),
    NetworkSpec("none", 8, 8, 1, "none"), NmsSpec(max_detections=3), onnx=OnnxRecord("1" * 64, "2" * 64, 17, 0.0), engines=(RECORD,),
)  # fmt: skip
TENSORS = {
    "images": Tensor("INPUT", "UINT8", (-1, 64, 32, 3)), "num_detections": Tensor("OUTPUT", "INT32", (-1, 1)),
    "detection_boxes": Tensor("OUTPUT", "FLOAT", (-1, 3, 4)), "detection_scores": Tensor("OUTPUT", "FLOAT", (-1, 3)),
    "detection_classes": Tensor("OUTPUT", "INT32", (-1, 3)),
}  # fmt: skip


def nothing(inputs: dict[str, Any]) -> dict[str, Any]:
    count = len(inputs["images"])
    return {name: np.zeros((count, *tensor.shape[1:]), np.float32) for name, tensor in TENSORS.items() if tensor.mode == "OUTPUT"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model folder with an engine of this machine, which is a GPU of NumPy; all of it is free again in the end."""
    gpu = FakeGpu()
    install(monkeypatch, FakeEngine(gpu, TENSORS, nothing, (1, 4, 4)))
    monkeypatch.setattr("retinanet_edge.runtime.tensorrt_engine.tensorrt_unavailable_reason", lambda: None)
    monkeypatch.setattr("retinanet_edge.runtime.tensorrt_engine.this_machine", lambda: HERE)
    monkeypatch.setattr("retinanet_edge.runtime.tensorrt_engine.has_plugin", lambda *_: True)
    (tmp_path / RECORD.file).write_bytes(b"plan")
    yield tmp_path
    assert (gpu.current, gpu.free_bytes) == (0, 1 << 30)


def refusal(kind: type[RetinaNetEdgeError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_engine_that_the_card_vouches_for_opens(folder: Path) -> None:
    with open_engine(folder, CARD, RECORD.file) as engine:
        assert [len(found) for found in engine.infer(np.zeros((2, 64, 32, 3), np.uint8)).detections] == [0, 0]


@pytest.mark.parametrize("content", [b"pla", b"", b"plan and more", b"nalp"])
def test_a_file_that_is_not_the_cards_is_refused_before_tensorrt_reads_it(folder: Path, content: bytes) -> None:
    (folder / RECORD.file).write_bytes(content)
    said = refusal(ModelFolderError, lambda: open_engine(folder, CARD, RECORD.file))
    assert f"{RECORD.file} must have SHA-256 {RECORD.sha256[:12]}... as the card says" in said
    assert said.endswith("run python export/build_engine.py")
    said = refusal(EngineError, lambda: TensorRTEngine(folder / RECORD.file, RECORD, CARD))
    assert f"{RECORD.file} is damaged" in said
    assert said.endswith("run python export/build_engine.py --fp16")


def test_a_truncated_plan_whose_hash_the_card_has_is_refused_with_tensorrts_reason(folder: Path) -> None:
    (folder / RECORD.file).write_bytes(b"pla")
    card = replace(CARD, engines=(replace(RECORD, sha256=hashlib.sha256(b"pla").hexdigest()),))
    said = refusal(EngineError, lambda: open_engine(folder, card, RECORD.file))
    assert said.startswith(f"TensorRT 8.5.3.1 cannot load {RECORD.file} (the fake's reason): run python export/build_engine.py")


@pytest.mark.parametrize(
    ("other", "named"),
    [({"tensorrt": "10.3.0"}, "TensorRT 10.3.0 on H"), ({"gpu": "Orin"}, "on Orin"), ({"compute_capability": "8.7"}, "capability 8.7")],
)
def test_an_engine_of_another_tensorrt_or_gpu_names_both(folder: Path, other: dict[str, Any], named: str) -> None:
    card = replace(CARD, engines=(replace(RECORD, **other),))
    said = refusal(EngineError, lambda: open_engine(folder, card, RECORD.file))
    assert f"{RECORD.file} was built for " in said
    assert named in said
    assert "but here is TensorRT 8.5.3.1 on H (compute capability 9.0): run python export/build_engine.py --fp16" in said


@pytest.mark.parametrize("card", [replace(CARD, onnx=OnnxRecord("3" * 64, "2" * 64, 17, 0.0)), replace(CARD, onnx=None)])
def test_an_engine_of_another_models_onnx_is_refused(folder: Path, card: ModelCard) -> None:
    said = refusal(EngineError, lambda: open_engine(folder, card, RECORD.file))
    assert f"{RECORD.file} was built from an ONNX file with SHA-256 111111111111..., but the card's for fp16 is" in said


@pytest.mark.parametrize("other", [{"classes": ("a", "b")}, {"input": InputSpec(32, 64, (0.0,) * 3, (1.0,) * 3)}, {"nms": NmsSpec()}])
def test_an_engine_under_another_models_card_is_refused(folder: Path, other: dict[str, Any]) -> None:
    card = replace(CARD, **other)
    if "classes" in other:  # which show in no tensor of the plugin's: the hash of the ONNX file, of which they are, tells
        card = replace(card, onnx=OnnxRecord("3" * 64, "2" * 64, 17, 0.0))
    said = refusal(EngineError, lambda: open_engine(folder, card, RECORD.file))
    assert "was built from an ONNX file" in said if "classes" in other else "must have the card's tensors" in said


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 64, 32, 3), np.uint8), np.zeros((5, 64, 32, 3), np.uint8),  # none, and more than the profile
        np.zeros((1, 32, 64, 3), np.uint8), np.zeros((1, 3, 64, 32), np.uint8), np.zeros((1, 64, 32, 4), np.uint8),
        np.zeros((64, 32, 3), np.uint8), np.zeros((), np.uint8),
        np.zeros((1, 64, 32, 3), np.float32), np.zeros((1, 64, 32, 3), np.int8), np.zeros((1, 64, 32, 3), bool),
    ],
    ids=lambda images: f"{images.dtype}{list(images.shape)}",
)  # fmt: skip
def test_images_of_another_batch_shape_type_or_layout_are_refused_and_the_next_run(folder: Path, images: Any) -> None:
    with open_engine(folder, CARD, RECORD.file) as engine:
        with pytest.raises(ValueError, match=r"images must be uint8 \[1\.\.4, 64, 32, 3\], got") as caught:
            engine.infer(images)
        assert str(images.dtype) in str(caught.value)
        assert "\n" not in str(caught.value)
        turned = np.zeros((2, 3, 64, 32), np.uint8).transpose(0, 2, 3, 1)  # not contiguous, but of the right shape
        assert len(engine.infer(turned).detections) == 2
