"""The GPU backend where there is no GPU: it says so and stays out of the way. What it computes is tested in tests/gpu."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import AnchorSpec, EngineRecord, InputSpec, ModelCard, NetworkSpec
from retinanet_edge.runtime.tensorrt_engine import TensorRTEngine, misfit
from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason

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
