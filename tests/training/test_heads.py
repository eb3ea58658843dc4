import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection.retinanet import RetinaNetClassificationHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.anchors import AnchorGenerator
from retinanet_edge.training.heads import FeaturePyramid, PredictionHead, flatten_maps, prior_bias


def backbone_maps(height: int, width: int, channels: tuple[int, ...] = (8, 16, 32)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(height)
    strides = (8, 16, 32)
    return [
        torch.randn(2, c, math.ceil(height / s), math.ceil(width / s), generator=generator)
        for c, s in zip(channels, strides, strict=True)
    ]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("p6_from", ["C5", "P5"])
@pytest.mark.parametrize("size", [(128, 192), (96, 160), (97, 131)])  # P6 and P7 odd, then every level
def test_pyramid_is_torchvisions(p6_from: Any, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    maps = backbone_maps(*size)
    theirs = FeaturePyramidNetwork([8, 16, 32], 24, extra_blocks=LastLevelP6P7(32 if p6_from == "C5" else 24, 24))
    ours = FeaturePyramid([8, 16, 32], 24, p6_from=p6_from)
    for i in range(3):
        ours.lateral[i].load_state_dict(theirs.inner_blocks[i][0].state_dict())
        ours.output[i].load_state_dict(theirs.layer_blocks[i][0].state_dict())
    ours.p6.load_state_dict(theirs.extra_blocks.p6.state_dict())
    ours.p7.load_state_dict(theirs.extra_blocks.p7.state_dict())
    expected = theirs(OrderedDict(zip("345", maps, strict=True)))
    for found, wanted in zip(ours(maps), expected.values(), strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)


def test_tensorflow_padding_is_at_the_end_of_even_sides_and_around_odd_ones() -> None:
    pyramid = FeaturePyramid([1, 1, 1], 1, p6_from="C5", tensorflow_padding=True)
    nn.init.zeros_(pyramid.p6.weight)
    pyramid.p6.weight.data[0, 0, 0, 0] = 1  # takes the top left of what the window covers
    even, odd = torch.arange(16.0).reshape(1, 1, 4, 4), torch.arange(25.0).reshape(1, 1, 5, 5)
    # Even: windows begin at rows and columns 0 and 2. Odd: at -1 (padding), 1 and 3.
    assert pyramid._halve(pyramid.p6, even).tolist() == [[[[0, 2], [8, 10]]]]
    assert pyramid._halve(pyramid.p6, odd).tolist() == [[[[0, 0, 0], [0, 6, 8], [0, 16, 18]]]]


@pytest.mark.parametrize("norm", ["none", "group"])
def test_head_is_torchvisions(norm: Any) -> None:
    group = (lambda channels: nn.GroupNorm(32, channels)) if norm == "group" else None
    theirs = RetinaNetClassificationHead(64, 9, 5, norm_layer=group)
    ours = PredictionHead(45, prior_bias(), 4, in_channels=64, filters=64, norm=norm, kernel_initializer="normal")
    torch.nn.init.normal_(theirs.cls_logits.weight)  # larger than at the start, so that differences would show
    for i in range(4):
        ours.convs[i].load_state_dict(theirs.conv[i][0].state_dict())
        if norm == "group":
            ours.norms[0][i].load_state_dict(theirs.conv[i][1].state_dict())
    ours.predict.load_state_dict(theirs.cls_logits.state_dict())
    levels = FeaturePyramid([8, 16, 32], 64)(backbone_maps(64, 96))
    assert parameters(ours) == parameters(theirs)
    assert torch.allclose(flatten_maps(ours(levels), 5), theirs(levels), atol=1e-5)


def test_predictions_are_in_the_order_of_the_anchors() -> None:
    # One cell of 2 anchors with 3 outputs each: channel 4 is output 1 of anchor 1. Two columns: the second's anchors follow.
    x = torch.arange(12.0).reshape(1, 6, 1, 2)  # channel c, column w: 2 c + w
    assert flatten_maps([x], 3).tolist() == [[[0, 2, 4], [6, 8, 10], [1, 3, 5], [7, 9, 11]]]
    rule = AnchorGenerator()
    head = PredictionHead(9 * 4, 0.0, 1, in_channels=8, filters=8)
    levels = FeaturePyramid([8, 16, 32], 8)(backbone_maps(97, 131))
    assert flatten_maps(head(levels), 4).shape == (2, len(rule(97, 131)), 4)


def test_head_begins_orthogonal_with_the_asked_bias() -> None:
    head = PredictionHead(180, prior_bias())
    assert len(head.convs) == 3
    assert torch.allclose(head.predict.bias.sigmoid(), torch.full((180,), 0.01))
    assert head.predict.bias[0].item() == pytest.approx(-math.log(99))
    rows = head.convs[0].weight.flatten(1)  # [256, 2304]
    assert torch.allclose(rows @ rows.T, torch.eye(256), atol=1e-4)
    assert (head.convs[0].bias == 0).all()
    ones = PredictionHead(4, nn.init.ones_, 0, in_channels=8)
    assert ones.predict.bias.tolist() == [1] * 4


def test_keras_network_has_the_parameters_it_should_have() -> None:
    pyramid = FeaturePyramid([512, 1024, 2048], p6_from="C5", tensorflow_padding=True)
    class_head, box_head = PredictionHead(9 * 20, prior_bias()), PredictionHead(9 * 4, 0.0)
    # Laterals (512 + 1024 + 2048) * 256 + 3 * 256, three outputs and P7 9 * 256^2 + 256 each, P6 9 * 2048 * 256 + 256.
    assert parameters(pyramid) == 918_272 + 4 * 590_080 + 4_718_848
    # Three convolutions of 9 * 256^2 + 256, then 9 * 256 * 180 + 180 and 9 * 256 * 36 + 36.
    assert parameters(class_head) + parameters(box_head) == 6 * 590_080 + 414_900 + 82_980
    with torch.device("meta"):
        backbone = resnet50()
        backbone.fc = nn.Identity()
    trainable = parameters(backbone) + parameters(pyramid) + parameters(class_head) + parameters(box_head)
    statistics = sum(b.numel() for name, b in backbone.named_buffers() if "running" in name)
    assert trainable == 35_543_832
    assert trainable + statistics == 35_596_952  # as Keras counts


def test_a_group_norm_of_channels_that_do_not_divide_is_refused() -> None:
    for channels in (48, 32):  # of one channel, a group would have no variance on a map of one cell
        with pytest.raises(UserInputError, match=f"a multiple of 32 channels, at least 64, got {channels}: give --head-channels 64"):
            PredictionHead(4, 0.0, 1, in_channels=8, filters=channels, norm="group")


def test_a_batch_norm_has_statistics_of_each_level_and_a_group_norm_is_shared() -> None:
    assert len(PredictionHead(4, 0.0, 1, in_channels=8, filters=32, norm="batch").norms) == 5
    assert len(PredictionHead(4, 0.0, 1, in_channels=8, filters=64, norm="group").norms) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")  # of the exporter that the project uses
def test_an_exported_pyramid_and_head_agree_with_themselves(tmp_path: Any) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pyramid = FeaturePyramid([8, 16, 32], 8, p6_from="C5", tensorflow_padding=True)
            self.head = PredictionHead(9, 0.0, 1, in_channels=8, filters=8)

        def forward(self, c3: torch.Tensor, c4: torch.Tensor, c5: torch.Tensor) -> torch.Tensor:
            return flatten_maps(self.head(self.pyramid([c3, c4, c5])), 1)

    both, maps = Both().eval(), backbone_maps(96, 160)
    file = tmp_path / "both.onnx"
    with torch.no_grad():
        torch.onnx.export(both, tuple(maps), str(file), input_names=["c3", "c4", "c5"], opset_version=17, dynamo=False)
        expected = both(*maps)
    found = onnxruntime.InferenceSession(str(file)).run(None, dict(zip(("c3", "c4", "c5"), (m.numpy() for m in maps), strict=True)))[0]
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4)
    kinds = {node.op_type for node in onnx.load(file).graph.node}
    assert kinds <= {"Conv", "Relu", "Resize", "Add", "Transpose", "Reshape", "Concat", "Constant", "Identity"}
