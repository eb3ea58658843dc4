import pytest
import torch

from retinanet_edge.training.yolo_v8 import SPPF, C2f, YoloV8, yolo_v8_size


# Parameters that KerasCV states for its presets; Keras counts the running means and variances of the norms, too.
@pytest.mark.parametrize(("size", "parameters"), [("xs", 1277680), ("s", 5089760), ("m", 11872464), ("l", 19831744), ("xl", 30972080)])
def test_every_size_has_kerascvs_parameters(size: str, parameters: int) -> None:
    with torch.device("meta"):
        network = YoloV8(yolo_v8_size(f"yolo_v8_{size}_backbone"))
    running = sum(buffer.numel() for name, buffer in network.named_buffers() if "running" in name)
    assert sum(p.numel() for p in network.parameters()) + running == parameters


def test_a_name_with_weights_is_the_same_size() -> None:
    assert yolo_v8_size("yolo_v8_m_backbone_coco") == yolo_v8_size("yolo_v8_m_backbone")
    with pytest.raises(KeyError):
        yolo_v8_size("yolo_v8_n_backbone")


@pytest.mark.parametrize(("size", "channels"), [("xs", [64, 128, 256]), ("xl", [320, 640, 640])])
def test_maps_have_strides_8_16_32_and_the_stated_channels(size: str, channels: list[int]) -> None:
    with torch.device("meta"):
        network = YoloV8(yolo_v8_size(f"yolo_v8_{size}_backbone"))
        maps = network(torch.zeros(2, 3, 64, 160))
    assert network.channels == channels
    assert [tuple(x.shape) for x in maps] == [(2, c, 64 // s, 160 // s) for c, s in zip(channels, (8, 16, 32), strict=True)]


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    network = YoloV8(yolo_v8_size("yolo_v8_xs_backbone")).train()
    sum(x.square().mean() for x in network(torch.rand(2, 3, 64, 64))).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_sppf_sees_as_far_as_thirteen_cells() -> None:
    """Three poolings of 5 in a row reach 2 + 2 + 2 = 6 cells to every side, and no convolution in it reaches farther."""
    torch.manual_seed(0)
    block = SPPF(8).eval()
    dark = torch.zeros(1, 8, 21, 21)
    lit = dark.clone()
    lit[:, :, 10, 10] = 5.0
    with torch.no_grad():
        changed = (block(lit) - block(dark)).abs().sum(dim=1)[0] > 0
    rows, columns = torch.nonzero(changed, as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 16, 4, 16)


def test_a_c2f_with_still_bottlenecks_repeats_its_second_half() -> None:
    """With their last norms at zero, bottlenecks add nothing: all steps that are kept equal the second half."""
    torch.manual_seed(0)
    block = C2f(8, 2).eval()
    for bottleneck in block.bottlenecks:
        torch.nn.init.zeros_(bottleneck[1][1].weight)
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        first, second = block.enter(x).split(4, dim=1)
        expected = block.leave(torch.cat([first, second, second, second], dim=1))
        torch.testing.assert_close(block(x), expected)
