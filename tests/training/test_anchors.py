import math
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen
from torchvision.ops import box_convert

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import AnchorSpec
from retinanet_edge.training.anchors import KERAS_ANCHORS, TORCHVISION_ANCHORS, AnchorGenerator, make_anchors


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


def test_the_keras_rule_changes_scale_slowest_and_takes_ratios_as_width_over_height() -> None:
    rule = AnchorGenerator((8,), (32.0,), (1.0, 2.0), (1.0, 4.0), ratio_is="w/h", outer="scale")
    # Ratio 4 is w / h: w = 32 * sqrt(4) = 64, h = 32 / sqrt(4) = 16.
    assert rule(8, 8).tolist() == [[4, 4, 32, 32], [4, 4, 64, 16], [4, 4, 64, 64], [4, 4, 128, 32]]


def test_clipping_leaves_the_part_inside_the_image() -> None:
    rule = AnchorGenerator((8,), (10.0,), (1.0,), (1.0,), clip=True)
    # Centre (4, 4), side 10: from -1 to 9, cut to 0 to 6 in an image of 6 x 6: centre 3, side 6.
    assert rule(6, 6).tolist() == [[3, 3, 6, 6]]


def test_keras_anchors_are_those_it_computed() -> None:
    found = box_convert(KERAS_ANCHORS(97, 131), "cxcywh", "xyxy")  # copied from KerasCV's own values
    assert len(found) == 2808
    expected = {
        3: [0.0, 0.0, 18.2543793, 32.5087585],
        1000: [60.0, 36.0, 92.0, 68.0],
        2000: [0.0, 0.0, 69.2548370, 30.6274166],
        2700: [2.7451668, 21.4903336, 93.2548370, 97.0],
        2807: [0.0, 0.0, 131.0, 97.0],
    }
    for index, box in expected.items():
        assert found[index].tolist() == pytest.approx(box, abs=1e-4)


@pytest.mark.parametrize(("height", "width"), [(256, 320), (800, 1088), (96, 160)])  # P6 and P7 do not always divide these
def test_torchvision_anchors_are_torchvisions(height: int, width: int) -> None:
    theirs = _default_anchorgen()
    maps = [torch.zeros(1, 1, math.ceil(height / stride), math.ceil(width / stride)) for stride in (8, 16, 32, 64, 128)]
    expected = theirs(ImageList(torch.zeros(1, 3, height, width), [(height, width)]), maps)[0]
    assert torch.equal(box_convert(TORCHVISION_ANCHORS(height, width), "cxcywh", "xyxy"), expected)


def test_levels_joined_are_the_anchors() -> None:
    levels = KERAS_ANCHORS.levels(97, 131)
    assert [len(level) for level in levels] == [9 * 13 * 17, 9 * 7 * 9, 9 * 4 * 5, 9 * 2 * 3, 9 * 1 * 2]
    assert torch.equal(torch.cat(levels), KERAS_ANCHORS(97, 131))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"sizes": (32.0,)}, "1 sizes for 5 strides"),
        ({"scales": (0.0,)}, "positive"),
        ({"ratios": ()}, "must be given"),
        ({"strides": (), "sizes": ()}, "0 sizes for 0 strides"),
    ],
)
def test_an_impossible_rule_is_refused(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(UserInputError, match=said):
        AnchorGenerator(**rule)
