"""The figures that an engine is built with, for machines that are only described: memory, top-K, names, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from retinanet_edge.export.build_machine import BuildMachine, default_workspace_mib
from retinanet_edge.export.build_options import BuildOptions, NmsOverrides
from retinanet_edge.export.build_plan import BuildPlan, make_plan
from retinanet_edge.export.candidate_bound import fitting_top_k, kept_anchors
from retinanet_edge.runtime.errors import EngineError, UserInputError
from retinanet_edge.runtime.model_card import NmsSpec
from tests.export.tiny_folder import ANCHORS, CLASSES, H200, LEVELS, tiny_folder
from tests.gpu.conftest import TinyModel

NOWHERE = BuildMachine(lacking="no TensorRT in this environment")
PLUGIN_BYTES = 24 * ANCHORS * CLASSES  # at batch 1: 11520


def gpu(free: int = 64 << 30, total: int = 64 << 30, **other: Any) -> BuildMachine:
    return BuildMachine(replace(H200, **other), None, "8.5.3.1", True, True, free, total)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyModel:
    return tiny_folder(tmp_path)


def plan_of(tiny: TinyModel, here: BuildMachine, **options: Any) -> BuildPlan:
    return make_plan(tiny.folder, tiny.card, onnx.load(tiny.source("fp16")), BuildOptions("fp16", **options), here)


@pytest.mark.parametrize(
    ("sizes", "classes", "batch", "free", "expected"),
    [
        ((100, 25), 2, 4, 240_000, None),  # all 125: 24 * 4 * 125 * 2 = 24,000 bytes, just a tenth
        ((100, 25), 2, 4, 239_999, 99),  # one anchor fewer: 99 + 25 = 124
        ((100, 25), 2, 4, 50_000, 13),  # 5,000 / 192 bytes an anchor = 26: 13 of each level
        ((100, 25), 2, 4, 59_999, 15),  # 31 anchors: 15 + 15, and 16 + 16 would be one too many
        ((100, 25), 2, 4, 3_840, 1),
        ((100_000,), 1, 1, 12_000_000, 3840),  # 50,000 anchors would fit, TensorRT's TopK takes no more
        ((57_600, 14_400, 3_600, 900, 225), 80, 8, 8 << 30, 3840),  # 640 pixels: 1.18 GB at batch 8, and 0.86 GB are a tenth
        ((57_600, 14_400, 3_600, 900, 225), 80, 8, 16 << 30, None),
    ],
)
def test_the_largest_k_whose_plugin_fits_a_tenth_of_the_free_memory(
    sizes: tuple[int, ...], classes: int, batch: int, free: int, expected: int | None
) -> None:
    assert fitting_top_k(sizes, classes, batch, free) == expected


def test_a_gpu_with_no_room_for_one_anchor_of_each_level_is_refused() -> None:
    with pytest.raises(EngineError, match=r"does not with 4 images of 2 classes at all: give a smaller --batch"):
        fitting_top_k((100, 25), 2, 4, 3_839)  # 2 anchors take 384 bytes


def test_smaller_levels_stay_whole() -> None:
    assert (kept_anchors((100, 25), None), kept_anchors((100, 25), 30), kept_anchors((100, 25), 10)) == (125, 55, 20)


def test_where_memory_is_plentiful_nothing_is_bounded(tiny: TinyModel) -> None:
    plan = plan_of(tiny, gpu())
    assert (plan.added_top_k, plan.anchors, plan.plugin_bytes) == (None, ANCHORS, PLUGIN_BYTES)
    assert plan.nms == tiny.card.nms
    assert "nms_top_k_per_level" not in plan.recorded()
    assert plan.workspace_mib == 32 << 10  # half of 64 GiB


def test_where_it_is_short_k_is_added_said_and_recorded(tiny: TinyModel) -> None:
    plan = plan_of(tiny, gpu(free=2 * 10 * PLUGIN_BYTES), max_batch=4)  # a tenth holds half of what batch 4 takes: 80 anchors
    assert (plan.added_top_k, plan.anchors) == (48, 80)  # 48 + 32
    assert plan.plugin_bytes == 24 * 4 * 80 * CLASSES
    assert plan.recorded()["nms_top_k_per_level"] == "48"
    assert plan.top_k_words.startswith("the best 48 of each level: with all anchors the plugin takes")


@pytest.mark.parametrize("nms", ["native", "none"])
def test_without_the_plugin_its_memory_bounds_nothing(tiny: TinyModel, nms: str) -> None:
    assert plan_of(tiny, gpu(free=100_000), max_batch=4, nms=nms).added_top_k is None


def test_a_k_that_is_given_is_taken_whatever_fits(tiny: TinyModel) -> None:
    for here in (NOWHERE, gpu(), gpu(free=100_000)):
        plan = plan_of(tiny, here, nms_overrides=NmsOverrides(top_k_per_level=5))
        assert (plan.added_top_k, plan.anchors, plan.nms.top_k_per_level) == (5, 10, 5)


def test_the_cards_k_is_in_its_graph_already(tiny: TinyModel) -> None:
    from retinanet_edge.export.level_top_k import append_level_top_k

    tiny.card = replace(tiny.card, nms=replace(tiny.card.nms, top_k_per_level=40))
    onnx.save(append_level_top_k(onnx.load(tiny.source("fp16")), LEVELS, 40), tiny.source("fp16"))
    for overrides in (NmsOverrides(), NmsOverrides(top_k_per_level=40)):
        plan = plan_of(tiny, gpu(free=100_000), nms_overrides=overrides)
        assert (plan.added_top_k, plan.anchors, plan.recorded()["nms_top_k_per_level"]) == (None, 72, "40")
    with pytest.raises(UserInputError, match=r"--top-k must be 40, the K that model\.onnx was exported with, got 30"):
        plan_of(tiny, NOWHERE, nms_overrides=NmsOverrides(top_k_per_level=30))


def test_without_a_gpu_what_depends_on_it_stays_open(tiny: TinyModel) -> None:
    plan = plan_of(tiny, NOWHERE)
    assert (plan.workspace_mib, plan.timing_cache, plan.engine_file()) == (None, None, None)
    assert plan.plugin_bytes == PLUGIN_BYTES
    assert "decided where the GPU is" in plan.top_k_words


def test_the_engines_name_does_not_hang_on_how_much_memory_happens_to_be_free(tiny: TinyModel) -> None:
    names = {plan_of(tiny, gpu(free=free)).engine_file() for free in (20 << 30, 30 << 30)}
    assert len(names) == 1
    assert names.pop() != plan_of(tiny, gpu(), workspace_mib=64).engine_file()


def test_what_was_left_open_is_filled_in_for_the_compiler(tiny: TinyModel) -> None:
    settled = plan_of(tiny, gpu(free=10 << 30)).settled_options()
    assert settled.workspace_mib == 5 << 10
    assert settled.timing_cache == tiny.folder / "timing.nvidia-h200-trt8.5.3.1.cache"
    asked = plan_of(tiny, gpu(), workspace_mib=7, timing_cache=tiny.folder / "mine").settled_options()
    assert (asked.workspace_mib, asked.timing_cache) == (7, tiny.folder / "mine")


def test_half_a_mebibyte_is_still_a_workspace() -> None:
    assert (default_workspace_mib(3 << 20), default_workspace_mib(1)) == (1, 1)


@pytest.mark.parametrize(
    ("here", "options", "expected"),
    [
        (gpu(total=4 << 30), {"workspace_mib": 4097}, "--workspace must fit the GPU's 4096 MiB, got 4097"),
        (gpu(compute_capability="7.5"), {"hardware_compatible": True}, "needs compute capability 8.0"),
        (NOWHERE, {"timing_cache": Path("nowhere/cache")}, "--timing-cache must be a file in a folder that exists, got nowhere/cache"),
        (NOWHERE, {"timing_cache": Path("/")}, "--timing-cache must be a file"),
    ],
)
def test_what_does_not_fit_the_machine_is_one_line(tiny: TinyModel, here: BuildMachine, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserInputError) as caught:
        plan_of(tiny, here, **options)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_record_holds_the_nms_of_this_engine_and_the_cards_stays(tiny: TinyModel) -> None:
    plan = plan_of(tiny, NOWHERE, nms_overrides=NmsOverrides(0.6, max_detections=3))
    nms = {name: value for name, value in plan.recorded().items() if name.startswith("nms_")}
    assert nms == {"nms_score_threshold": "0.6", "nms_iou_threshold": "0.5", "nms_max_detections": "3"}
    assert tiny.card.nms == NmsSpec(0.3, 0.5, 100)
