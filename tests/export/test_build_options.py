"""What the options record, the names that follow from them, and which of them contradict each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retinanet_edge.export.build_options import BuildOptions, NmsOverrides, engine_file_name, timing_cache_name
from retinanet_edge.runtime.errors import ModelFolderError, UserInputError
from retinanet_edge.runtime.model_card import NmsSpec
from tests.export.tiny_folder import H200

OPTIONS = BuildOptions("int8", max_batch=4)


@pytest.mark.parametrize(
    ("precision", "wrong", "expected"),
    [
        ("fp16", {"max_batch": 0}, "got 1 0 0"),
        ("fp16", {"max_batch": 2, "typical_batch": 3}, "1 <= MIN <= OPT <= MAX, got 1 3 2"),
        ("fp16", {"min_batch": 2, "typical_batch": 1, "max_batch": 2}, "got 2 1 2"),
        ("fp16", {"min_batch": 0}, "got 0 1 1"),
        ("fp16", {"workspace_mib": 0}, "--workspace must be at least 1 MiB, got 0"),
        ("fp16", {"optimization_level": 6}, "--optimization-level must be 0 to 5, got 6"),
        ("fp16", {"optimization_level": -1}, "--optimization-level must be 0 to 5, got -1"),
        ("fp16", {"input": "fp32-nchw", "camera_size": (640, 480)}, "leave one of them out"),
        ("fp16", {"nms": "none", "nms_overrides": NmsOverrides(0.2, max_detections=5)}, "no use for --max-detections, --score-threshold"),
        ("int8", {"dla_core": 0}, "DLA takes no explicit Q/DQ"),
        ("fp32", {"dla_core": 0}, "FP16 or INT8 only"),
        ("fp16", {"dla_core": 0, "max_batch": 4}, "a fixed batch, got 1 4 4"),
        ("fp16", {"dla_core": 0, "nms": "native"}, "as long as what is found"),
        ("fp16", {"dla_core": 0, "hardware_compatible": True}, "the Jetson at hand"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line(precision: Any, wrong: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserInputError) as caught:
        BuildOptions(precision, **wrong)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_goes_together_is_taken() -> None:
    assert BuildOptions("fp16", min_batch=4, max_batch=4, dla_core=1).batch == (4, 4, 4)
    assert BuildOptions("int8", nms="none", nms_overrides=NmsOverrides(top_k_per_level=9)).nms == "none"  # heads of fewer anchors


def test_kernels_are_chosen_for_the_largest_batch_unless_told_otherwise() -> None:
    assert BuildOptions("fp16", max_batch=8).batch == (1, 8, 8)
    assert BuildOptions("fp16", min_batch=2, typical_batch=3, max_batch=8).batch == (2, 3, 8)


def test_the_record_says_what_was_asked_for_and_leaves_out_what_was_not() -> None:
    assert BuildOptions("fp16").recorded() == {
        "precision": "fp16", "min_batch": "1", "typical_batch": "1", "max_batch": "1", "external_tactics": "False", "nms": "efficient",
        "input": "uint8-nhwc", "version_compatible": "False", "hardware_compatible": "False",
    }  # fmt: skip
    asked = BuildOptions("fp16", camera_size=(1920, 1080), dla_core=1, workspace_mib=64, optimization_level=0, nms="none")
    more = {"camera_size": "1920x1080", "dla_core": "1", "workspace_mib": "64", "optimization_level": "0", "nms": "none"}
    assert asked.recorded() == BuildOptions("fp16").recorded() | more


def test_overrides_take_the_place_of_the_cards_values_within_the_plugins_ranges() -> None:
    card = NmsSpec(0.05, 0.5, 100, None)
    assert NmsOverrides().applied_to(card) == card
    assert NmsOverrides(max_detections=7, top_k_per_level=50).applied_to(card) == NmsSpec(0.05, 0.5, 7, 50)
    assert NmsOverrides(0.3, 0.6).applied_to(card) == NmsSpec(0.3, 0.6, 100, None)
    with pytest.raises(ModelFolderError, match=r"score_threshold must be at least 0\.01"):
        NmsOverrides(0.001).applied_to(card)


@pytest.mark.parametrize(
    ("gpu", "part"),
    [("NVIDIA H200", "nvidia-h200"), ("Orin", "orin"), ("NVIDIA RTX 6000 Ada (48GB)/MIG", "nvidia-rtx-6000-ada-48gb-mig")],
)
def test_file_names_name_precision_gpu_and_version(gpu: str, part: str) -> None:
    name = engine_file_name("int8", replace(H200, gpu=gpu), OPTIONS.recorded())
    start, digest, end = name[:-16], name[-15:-7], name[-7:]
    assert (start, end) == (f"model.int8.{part}-trt8.5.3.1", ".engine")
    assert set(digest) <= set("0123456789abcdef")
    assert timing_cache_name(replace(H200, gpu=gpu)) == f"timing.{part}-trt8.5.3.1.cache"


def test_the_engines_name_changes_with_what_shapes_it_and_with_nothing_else() -> None:
    def name(options: BuildOptions) -> str:
        return engine_file_name("int8", H200, options.recorded())

    same = [OPTIONS, replace(OPTIONS, verbose=True), replace(OPTIONS, timing_cache=Path("elsewhere")), replace(OPTIONS, typical_batch=4)]
    other = [
        replace(OPTIONS, max_batch=8), replace(OPTIONS, typical_batch=1), replace(OPTIONS, min_batch=2), replace(OPTIONS, workspace_mib=64),
        replace(OPTIONS, optimization_level=3), replace(OPTIONS, external_tactics=True), replace(OPTIONS, nms="native"),
        replace(OPTIONS, camera_size=(640, 480)), replace(OPTIONS, camera_size=(480, 640)), replace(OPTIONS, input="fp32-nchw"),
        replace(OPTIONS, version_compatible=True), replace(OPTIONS, hardware_compatible=True),
    ]  # fmt: skip
    assert len({name(options) for options in same}) == 1
    assert len({name(options) for options in [OPTIONS, *other]}) == 1 + len(other)
