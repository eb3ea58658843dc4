import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from retinanet_edge.training.same_padding import SamePaddedConv, fix_same_padding


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [1, 8, 9, 14])
def test_padding_is_timms(kernel: int, side: int) -> None:
    torch.manual_seed(0)
    conv = Conv2dSame(4, 6, kernel, stride=2, groups=2, bias=True)
    x = torch.randn(2, 4, side, side + 3)
    torch.testing.assert_close(SamePaddedConv(conv)(x), conv(x))
    assert SamePaddedConv(conv)(x).shape == (2, 6, (side + 1) // 2, (side + 4) // 2)


def test_only_such_convolutions_are_replaced_and_the_weights_stay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(Conv2dSame(4, 4, 3, stride=2, bias=False), nn.ReLU()))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fix_same_padding(network)
    assert [type(module) for module in network.modules() if isinstance(module, nn.Conv2d)] == [nn.Conv2d, SamePaddedConv]
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
