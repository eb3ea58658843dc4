from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retinanet_edge.training.presets import resolve
from retinanet_edge.training.vitdet import PYRAMID_CHANNELS, ChannelNorm, SimpleFeaturePyramid, ViTDet

SMALL: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 2, "window_size": 3, "global_attn_indexes": (1,), "img_size": 128}


def small() -> ViTDet:
    torch.manual_seed(0)
    backbone = ViTDet("samvit_base_patch16", **SMALL).eval()
    torch.nn.init.normal_(backbone.vit.pos_embed)  # zero until weights are loaded, as are the relative positions
    for name, parameter in backbone.vit.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter)
    return backbone


# Parameters as KerasCV states them. Its ViTDet, as Segment Anything's encoder, ends in a neck, which is left out here: a 1x1 and a 3x3
# convolution to 256 channels without bias, each with a norm of scale and shift.
@pytest.mark.parametrize(("name", "width", "parameters"), [
    ("vitdet_base", 768, 89_670_912), ("vitdet_large", 1024, 308_278_272), ("vitdet_huge", 1280, 637_026_048),
])  # fmt: skip
def test_the_real_sizes_are_kerascvs_and_have_strides_8_16_32(name: str, width: int, parameters: int) -> None:
    with torch.device("meta"):
        backbone = ViTDet(resolve(name).timm_name)
        maps = backbone(torch.zeros(1, 3, 64, 96))
    assert backbone.channels == [PYRAMID_CHANNELS] * 3
    assert [tuple(x.shape) for x in maps] == [(1, 256, 64 // s, 96 // s) for s in (8, 16, 32)]
    neck = width * 256 + 2 * 256 + 9 * 256 * 256 + 2 * 256
    assert sum(p.numel() for p in backbone.vit.parameters()) + neck == parameters


def test_at_the_size_of_its_table_the_transformer_is_timms() -> None:
    backbone = small()
    images = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        expected = backbone.pyramid(backbone.vit.forward_features(images))  # the neck is taken out
        found = backbone(images)
    for level, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(level, reference)


def test_positions_of_another_size_are_bicubic_samples_of_the_table() -> None:
    backbone = small()
    table = torch.linspace(0, 7, 8)[None, :, None, None].expand(1, 8, 8, 48).clone()  # each row holds its number
    backbone.vit.pos_embed = torch.nn.Parameter(table)
    positions = backbone._positions(16, 8)
    # Row 5 of 16 has its centre at 5.5 / 2 - 0.5 = 2.25 of 8 rows. Cubic convolution with a = -0.75 weighs rows 1 to 4, at distances
    # 1.25, 0.25, 0.75, 1.75, by -0.1054688, 0.8789063, 0.2617188, -0.0351563: -0.1054688 + 1.7578125 + 0.7851563 - 0.140625 = 2.296875.
    torch.testing.assert_close(positions[0, 5], torch.full((8, 48), 2.296875))
    assert backbone._positions(8, 8) is backbone.vit.pos_embed


def test_levels_come_from_the_one_map_by_doubling_keeping_and_halving() -> None:
    torch.manual_seed(0)
    pyramid = SimpleFeaturePyramid(8, 16)
    fine, same, coarse = pyramid(torch.rand(2, 8, 6, 4))
    assert [tuple(x.shape) for x in (fine, same, coarse)] == [(2, 16, 12, 8), (2, 16, 6, 4), (2, 16, 3, 2)]


def test_channel_norm_is_layer_norm_at_every_cell() -> None:
    x = torch.randn(2, 5, 3, 4)
    expected = (x - x.mean(dim=1, keepdim=True)) / (x.var(dim=1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(ChannelNorm(5)(x), expected)
    torch.testing.assert_close(ChannelNorm(5)(x)[0, :, 1, 2], F.layer_norm(x[0, :, 1, 2], (5,)))


def test_every_parameter_gets_a_gradient() -> None:
    backbone = small().train()
    torch.manual_seed(1)
    maps = backbone(torch.rand(2, 3, 64, 96))
    sum((x * torch.rand_like(x)).sum() for x in maps).backward()  # the norms make plain sums of squares constant
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
