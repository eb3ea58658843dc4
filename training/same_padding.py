"""TensorFlow's "same" padding in timm's tf_* networks, with amounts that become constants of an exported graph."""

from __future__ import annotations

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same_arg
from torch import Tensor, nn
from torch.nn import functional as F


class SamePaddedConv(nn.Conv2d):
    """timm's Conv2dSame with the same parameters: pads to ceil(side / stride) outputs, the odd cell at the right and bottom."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels, (conv.kernel_size[0], conv.kernel_size[1]), (conv.stride[0], conv.stride[1]),
            dilation=(conv.dilation[0], conv.dilation[1]), groups=conv.groups, bias=conv.bias is not None, device="meta",
        )  # fmt: skip
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution [N, C, ceil(H / stride), ceil(W / stride)]."""
        rows, columns = int(x.shape[2]), int(x.shape[3])  # int(): traced sizes would put arithmetic in place of constant pads
        return super().forward(F.pad(x, pad_same_arg([rows, columns], self.kernel_size, self.stride, self.dilation)))


def fix_same_padding(network: nn.Module) -> None:
    """Replace every Conv2dSame of a network, in place; names and values of the parameters stay."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv2dSame):
                setattr(module, name, SamePaddedConv(child))
