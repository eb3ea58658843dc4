import dataclasses
import json

import pytest

from retinanet_edge.runtime.errors import ModelFolderError, UserInputError
from retinanet_edge.training.options import options_from_json
from tests.training.conftest import SMALL_OPTIONS, options


def test_options_survive_json() -> None:
    settings = options(anchor_scales=(1.0, 1.5), anchor_ratios=(0.5, 2.0))
    assert options_from_json(json.loads(json.dumps(settings.to_json())), "last.safetensors") == settings


def test_options_of_another_version_are_refused_by_name() -> None:
    values = {**SMALL_OPTIONS.to_json(), "colour": True}
    with pytest.raises(ModelFolderError, match=r"last\.safetensors was written by another version \(settings \['colour'\] differ\)"):
        options_from_json(values, "last.safetensors")
    del values["colour"], values["seed"]
    with pytest.raises(ModelFolderError, match="'seed'"):
        options_from_json(values, "last.safetensors")


def test_anchor_size_is_in_strides() -> None:
    spec = dataclasses.replace(SMALL_OPTIONS, anchor_size=3.0).anchors
    assert spec.sizes == (24.0, 48.0, 96.0, 192.0, 384.0)


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(UserInputError, match=r"background 0\.4 and foreground 0\.3"):
        _ = options(foreground_iou=0.3).loss
    matcher = options(foreground_iou=0.9, background_iou=0.1).loss.matcher
    assert (matcher.foreground_iou, matcher.background_iou) == (0.9, 0.1)


def test_the_schedule_is_that_of_the_flags() -> None:
    settings = options(epochs=6, schedule="step", drop_epochs=(2.0, 4.0), drop_factor=0.5, warmup_epochs=0.0)
    assert [settings.learning_rates(3).fraction(step) for step in (5, 6, 11, 12)] == [1, 0.5, 0.5, 0.25]
