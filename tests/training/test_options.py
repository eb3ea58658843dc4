import dataclasses
import json

import pytest

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.training.options import options_from_json
from tests.training.conftest import SMALL_OPTIONS, options


def test_options_survive_json() -> None:
    settings = options(anchor_scales=(1.0, 1.5), anchor_ratios=(0.5, 2.0))
    assert options_from_json(json.loads(json.dumps(settings.to_json())), "last.safetensors") == settings


def test_options_of_another_version_are_refused_by_name() -> None:
    values = {**SMALL_OPTIONS.to_json(), "mosaic": True}
    with pytest.raises(ModelFolderError, match=r"last\.safetensors was written by another version \(settings \['mosaic'\] differ\)"):
        options_from_json(values, "last.safetensors")
    del values["mosaic"], values["seed"]
    with pytest.raises(ModelFolderError, match="'seed'"):
        options_from_json(values, "last.safetensors")


def test_anchor_size_is_in_strides() -> None:
    spec = dataclasses.replace(SMALL_OPTIONS, anchor_size=3.0).anchors
    assert spec.sizes == (24.0, 48.0, 96.0, 192.0, 384.0)
