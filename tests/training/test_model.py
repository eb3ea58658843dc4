import numpy as np
import pytest
import torch

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, NetworkSpec
from retinanet_edge.training.model import LEVEL_STRIDES, Normalise, RetinaNet, build_network, check_input_size

ANCHORS = AnchorSpec(LEVEL_STRIDES, tuple(4.0 * s for s in LEVEL_STRIDES), (1.0, 1.5), (1.0,))


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
