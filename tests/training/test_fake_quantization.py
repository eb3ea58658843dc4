"""Rounding and its gradients against hand arithmetic; which calls of a network are quantized. Parity with the graph: tests/export."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.quantization_plan import Addition, Convolution, QuantizationPlan, SharedRange
from retinanet_edge.training.fake_quantization import FakeQuantization, fake_quantize, fake_quantize_weights


def test_rounding_and_straight_through_gradients_by_hand() -> None:
    x = torch.tensor([0.6, -0.3, 100.0, -100.0], requires_grad=True)
    reach = torch.tensor(63.5, requires_grad=True)  # scale 0.5: x is 1.2, -0.6, 200, -200 steps
    y = fake_quantize(x, reach)
    assert y.tolist() == [0.5, -0.5, 63.5, -64.0]  # 1, -1, 127, -128 steps
    y.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert x.grad is not None
    assert reach.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 0.0, 0.0]  # nothing where it is clipped
    # by the scale: rounded - steps inside, the limit outside: 1(1 - 1.2) + 2(-1 + 0.6) + 3(127) + 4(-128) = -132; by the reach a 127th
    assert reach.grad.item() == pytest.approx(-132 / 127, rel=1e-5)


def test_halves_round_to_even_as_in_onnx() -> None:
    assert fake_quantize(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), torch.tensor(127.0)).tolist() == [0, 2, 2, 0, -2]


def test_weights_have_a_scale_for_each_output_and_all_of_the_gradient() -> None:
    weights = torch.tensor([[[[1.27, 0.014]]], [[[-12.7, 0.16]]], [[[0.0, 0.0]]]], requires_grad=True)
    quantized = fake_quantize_weights(weights)  # scales 0.01, 0.1, none
    torch.testing.assert_close(quantized, torch.tensor([[[[1.27, 0.01]]], [[[-12.7, 0.2]]], [[[0.0, 0.0]]]]))
    quantized.sum().backward()
    assert weights.grad is not None
    assert weights.grad.eq(1).all()


def test_folding_a_batch_norm_commutes_with_the_rounding_of_weights() -> None:
    torch.manual_seed(0)
    weights, factor = torch.randn(8, 4, 3, 3), torch.randn(8, 1, 1, 1)
    torch.testing.assert_close(fake_quantize_weights(weights * factor), fake_quantize_weights(weights) * factor, rtol=1e-5, atol=1e-6)


class Small(nn.Module):
    """Two convolutions, a constant and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
        self.shift = nn.Parameter(torch.tensor(0.25))
        nn.init.ones_(self.first.weight)
        nn.init.ones_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x) + self.shift)
        y += x
        return y


PLAN = QuantizationPlan(
    "", None, (Convolution("first", None), Convolution("second", "shifted")), (Addition(2, 0, 1, "x"),),
    (SharedRange(("shifted",), 127.0), SharedRange(("x",), 254.0)),
)  # fmt: skip


def test_what_the_plan_names_is_quantized_and_nothing_else() -> None:
    quantization, x = FakeQuantization(PLAN), torch.full((1, 1, 1, 1), 3.3)
    with quantization.applied():
        y = Small()(x)
    # 3.3 stays, as the first convolution's input; 3.55 is 4 steps of 1; the skip's 3.3 is 2 steps of 2 (1.65)
    assert y.item() == 4 + 4


def test_ranges_learn_and_come_back_as_a_plan() -> None:
    quantization = FakeQuantization(PLAN)
    with torch.no_grad():
        quantization.growth.copy_(torch.tensor([0.0, -0.6931471805599453]))  # the second by half
    learned = quantization.plan("hash")
    assert (learned.weights_sha256, learned.convolutions, learned.additions) == ("hash", PLAN.convolutions, PLAN.additions)
    assert learned.reaches == pytest.approx({"shifted": 127.0, "x": 127.0})
    with quantization.applied():
        y = Small()(torch.full((1, 1, 1, 1), 3.3))
    y.backward()
    assert y.item() == 4 + 3
    assert quantization.growth.grad is not None
    assert quantization.growth.grad.ne(0).all()


@pytest.mark.parametrize("network", [nn.Sequential(nn.Conv2d(1, 1, 1)), nn.Sequential(Small(), nn.Conv2d(1, 1, 1)), nn.Identity()])
def test_another_network_than_the_plans_is_refused(network: nn.Module) -> None:
    with pytest.raises(RetinaNetEdgeError, match="must have the 2 convolutions and 1 INT8 additions"), FakeQuantization(PLAN).applied():
        network(torch.ones(1, 1, 1, 1))
