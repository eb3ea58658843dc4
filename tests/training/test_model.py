import dataclasses

import numpy as np
import pytest
import torch

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, NetworkSpec
from retinanet_edge.training.anchors import KERAS_ANCHORS, AnchorGenerator
from retinanet_edge.training.backbones import Backbone
from retinanet_edge.training.model import LEVEL_STRIDES, Normalise, RetinaNet, build_network, check_input_size

SIZES = tuple(4.0 * s for s in LEVEL_STRIDES)
ANCHORS = AnchorSpec(LEVEL_STRIDES, SIZES, (1.0, 1.5), (1.0,))
INPUT = InputSpec(64, 96, (120.0,) * 3, (60.0,) * 3)


def small(norm: str = "batch", height: int = 64, width: int = 96) -> RetinaNet:
    torch.manual_seed(0)
    spec = NetworkSpec("test_resnet", 16, 16, 2, norm)  # type: ignore[arg-type]
    return build_network(spec, InputSpec(height, width, (120.0,) * 3, (60.0,) * 3), ANCHORS, 3)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_outputs_have_one_row_an_anchor(norm: str) -> None:
    network = small(norm).eval()
    class_logits, box_deltas = network(torch.zeros(2, 64, 96, 3, dtype=torch.uint8))
    # Cells of P3-P7 at 64 x 96: 8x12, 4x6, 2x3, 1x2, 1x1; two anchors each.
    anchors = 2 * (96 + 24 + 6 + 2 + 1)
    assert class_logits.shape == (2, anchors, 3)
    assert box_deltas.shape == (2, anchors, 4)
    assert network.anchors.shape == (anchors, 4)


def test_weights_keep_the_names_under_which_files_have_them() -> None:
    found = {key for key in small().state_dict() if not key.startswith("backbone.")}
    convolutions = [f"pyramid.{name}" for name in ("lateral.0", "lateral.1", "lateral.2", "output.0", "output.1", "output.2", "p6", "p7")]
    norms, expected = [f"pyramid.norms.{level}" for level in range(5)], set()
    for head in ("class_head", "box_head"):
        convolutions.append(f"{head}.predict")
        norms += [f"{head}.norms.{level}.{depth}" for level in range(5) for depth in range(2)]
        expected |= {f"{head}.convs.0.weight", f"{head}.convs.1.weight"}
    expected |= {f"{name}.{part}" for name in convolutions + norms for part in ("weight", "bias")}
    assert found == expected | {f"{name}.{part}" for name in norms for part in ("running_mean", "running_var", "num_batches_tracked")}


def test_the_card_decides_where_p6_comes_from_and_how_it_pads() -> None:
    def build(**changes: object) -> RetinaNet:
        torch.manual_seed(0)
        return build_network(dataclasses.replace(NetworkSpec("test_resnet", 16, 64, 1, "group"), **changes), INPUT, ANCHORS, 3).eval()

    images = torch.randint(0, 255, (1, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain, padded, from_c5 = build(), build(tensorflow_padding=True), build(p6_from="C5")
    assert plain.pyramid.p6.in_channels == 16
    assert from_c5.pyramid.p6.in_channels == from_c5.backbone.channels[-1] != 16
    padded.load_state_dict(plain.state_dict())
    finer = 2 * (96 + 24 + 6)  # outputs of P3-P5, which P6 does not reach; those of P7 see one cell of P6
    difference = (plain(images)[1] - padded(images)[1]).abs().amax(dim=(0, 2))
    assert difference[:finer].max() == 0
    assert difference[finer : finer + 4].min() > 0


def test_the_card_decides_variances_and_anchors() -> None:
    spec = NetworkSpec("test_resnet", 16, 16, 1, "none", box_variances=(1.0, 2.0, 3.0, 4.0))
    network = build_network(spec, INPUT, dataclasses.replace(KERAS_ANCHORS.spec, sizes=SIZES), 3).eval()
    images = torch.randint(0, 255, (1, 64, 96, 3), dtype=torch.uint8)
    assert torch.equal(network(images)[1], network.head_outputs(images)[1] * torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert torch.equal(network.anchors, dataclasses.replace(KERAS_ANCHORS, sizes=SIZES)(64, 96))
    assert not torch.equal(network.anchors, dataclasses.replace(AnchorGenerator(), sizes=SIZES)(64, 96))


def test_the_heads_begin_as_asked() -> None:
    spec = NetworkSpec("test_resnet", 16, 16, 1, "none")
    network = RetinaNet(Backbone("test_resnet"), spec, INPUT, ANCHORS, 3, kernel_initializer="orthogonal")
    rows = network.class_head.convs[0].weight.flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(16), atol=1e-5)
    assert small("none").class_head.convs[0].weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_a_fresh_network_scores_everything_at_the_prior() -> None:
    class_logits, _ = small().eval()(torch.randint(0, 255, (1, 64, 96, 3), dtype=torch.uint8))
    assert class_logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.005)


def test_outputs_stand_where_their_anchors_are() -> None:
    """A change in one corner of the image changes the outputs of the finest level there and not in the far corner."""
    network = small("none", 256, 256).eval()
    black = torch.zeros(1, 256, 256, 3, dtype=torch.uint8)
    lit = black.clone()
    lit[:, :32, :32] = 255
    change = (network(lit)[0] - network(black)[0]).abs().sum(dim=-1)[0]
    finest = 32 * 32 * 2
    near = network.anchors[:finest, :2].max(dim=1).values < 40
    far = network.anchors[:finest, :2].min(dim=1).values > 216
    assert change[:finest][near].mean() > 5 * change[:finest][far].mean()


def test_normalise_swaps_channels_and_scales() -> None:
    layer = Normalise(InputSpec(1, 1, (10.0, 20.0, 30.0), (1.0, 2.0, 5.0)))
    bgr = torch.tensor([[[[40, 24, 12]]]], dtype=torch.uint8)  # RGB (12, 24, 40): (2 / 1, 4 / 2, 10 / 5)
    np.testing.assert_allclose(layer(bgr)[0, :, 0, 0], [2, 2, 2])


def test_every_parameter_gets_a_gradient() -> None:
    network = small().train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # timm starts residual branches at zero, which would hide their gradients
            torch.nn.init.ones_(module.weight)
    class_logits, box_deltas = network(torch.randint(0, 255, (4, 64, 96, 3), dtype=torch.uint8))
    (class_logits.square().mean() + box_deltas.square().mean()).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_sizes_that_do_not_divide_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserInputError, match="64x96 and 96x96"):
        check_input_size(90, 96)
    check_input_size(64, 96)
