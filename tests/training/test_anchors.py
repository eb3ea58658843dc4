import numpy as np
import pytest
import torch

from retinanet_edge.runtime.model_card import AnchorSpec
from retinanet_edge.training.anchors import make_anchors


def test_one_cell_is_centred_and_has_the_asked_area_and_ratio() -> None:
    spec = AnchorSpec(strides=(8,), sizes=(32.0,), scales=(1.0, 2.0), ratios=(1.0, 4.0))
    # Ratio 4 is h / w: w = 32 / sqrt(4) = 16, h = 32 * sqrt(4) = 64. Scales run fastest.
    expected = [[4, 4, 32, 32], [4, 4, 64, 64], [4, 4, 16, 64], [4, 4, 32, 128]]
    assert make_anchors(spec, 8, 8).tolist() == expected


def test_order_is_levels_then_rows_then_columns() -> None:
    spec = AnchorSpec(strides=(8, 16), sizes=(32.0, 64.0), scales=(1.0,), ratios=(1.0,))
    anchors = make_anchors(spec, 16, 32)
    assert anchors[:, :2].tolist() == [
        [4, 4], [12, 4], [20, 4], [28, 4], [4, 12], [12, 12], [20, 12], [28, 12], [8, 8], [24, 8],
    ]  # fmt: skip
    assert anchors[:, 2].tolist() == [32] * 8 + [64] * 2


def test_a_level_coarser_than_the_input_still_has_a_cell() -> None:
    spec = AnchorSpec(strides=(128,), sizes=(512.0,), scales=(1.0,), ratios=(1.0,))
    assert make_anchors(spec, 64, 160).shape == (2, 4)  # ceil(64 / 128) x ceil(160 / 128)


def test_sides_agree_with_torchvision() -> None:
    generator = pytest.importorskip("torchvision.models.detection.anchor_utils").AnchorGenerator
    scales, ratios = (1.0, 2.0 ** (1 / 3), 2.0 ** (2 / 3)), (0.5, 1.0, 2.0)
    theirs = generator.generate_anchors(None, [32.0 * s for s in scales], list(ratios))  # rounded to whole pixels
    spec = AnchorSpec(strides=(8,), sizes=(32.0,), scales=scales, ratios=ratios)
    ours = make_anchors(spec, 8, 8)[:, 2:]
    np.testing.assert_allclose(ours, theirs[:, 2:] - theirs[:, :2], atol=1.0)
    assert torch.allclose(ours[:, 0] * ours[:, 1], torch.tensor([(32.0 * s) ** 2 for s in scales] * 3))
