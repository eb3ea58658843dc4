"""Fake quantization: a network computes in float what its INT8 graph will, so that training can adapt to the rounding.

What is INT8 stands in a QuantizationPlan, made of the quantized graph itself. Convolutions and additions are known by their order, which is
the graph's since that was traced from the same code; so a network need not be rewritten, whatever its backbone is made of.

Weights: one scale for each output channel, always that of its largest weight. BatchNorm is folded into them only in the graph, which
changes nothing: round(k w / (k s)) k s = k round(w / s) s. Activations: ranges are learned (Esser et al., Learned Step Size Quantization).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.quantization_plan import QuantizationPlan

_LEAST, _MOST = -128, 127
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny
_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
_ADDITIONS = ("add", "add_")


class _Round(torch.autograd.Function):
    """clip(round(x / scale), -128, 127) scale; gradients as if round were not there (straight-through), to x where it is not clipped."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return (x / scale).round_().clamp_(_LEAST, _MOST).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        steps = x / scale
        inside = (steps >= _LEAST) & (steps <= _MOST)
        rounded = steps.round().clamp_(_LEAST, _MOST)
        by_scale = torch.where(inside, rounded - steps, rounded)
        return gradient * inside, (gradient * by_scale).sum()


def fake_quantize(x: Tensor, reach: Tensor) -> Tensor:
    """Return an activation in float as INT8 from -reach to reach has it; `reach` [] gets a gradient, too."""
    rounded: Tensor = _Round.apply(x.float(), reach / _MOST)
    return rounded


def fake_quantize_weights(weights: Tensor) -> Tensor:
    """Return weights [outputs, ...] in float as INT8 with one scale for each output has them."""
    reach = weights.detach().float().flatten(1).abs().amax(1)
    scales = torch.where(reach > 0, (reach / _MOST).clamp(min=_SMALLEST_SCALE), 1.0)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weights.float(), scales, zeros, 0, _LEAST, _MOST)


class FakeQuantization(nn.Module):
    """The ranges of a plan as parameters, and the context in which a network computes as the quantized graph.

    `growth` [ranges] is the logarithm of a range over what it was at first.
    """

    initial: Tensor

    def __init__(self, plan: QuantizationPlan) -> None:
        super().__init__()
        self._plan = plan
        self.register_buffer("initial", torch.tensor([shared.reach for shared in plan.ranges]))
        self.growth = nn.Parameter(torch.zeros(len(plan.ranges)))

    def plan(self, weights_sha256: str) -> QuantizationPlan:
        """Return the plan with the ranges of now, for weights in a file of this hash."""
        reaches = self._reaches().tolist()
        ranges = tuple(dataclasses.replace(old, reach=reach) for old, reach in zip(self._plan.ranges, reaches, strict=True))
        return dataclasses.replace(self._plan, weights_sha256=weights_sha256, ranges=ranges)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Quantize in the block, which runs the network once. Raises RetinaNetEdgeError where that is not the network of the plan."""
        reaches = zip(self._plan.ranges, self._reaches().unbind(), strict=True)
        substitution = _Substitution(self._plan, {name: reach for shared, reach in reaches for name in shared.tensors})
        with substitution:
            yield
        substitution.check_end()

    def _reaches(self) -> Tensor:
        return self.initial * self.growth.exp()


class _Substitution(TorchFunctionMode):
    """Gives convolutions and additions what is INT8 in the plan as it is after quantization."""

    def __init__(self, plan: QuantizationPlan, reaches: dict[str, Tensor]) -> None:
        super().__init__()
        self._convolutions = plan.convolutions
        self._additions = {(site.convolutions_before, site.additions_between): site for site in plan.additions}
        self._reaches = reaches
        self._quantized: dict[str, Tensor] = {}  # each activation once, whoever reads it
        self._place = (0, 0)  # convolutions so far, additions since
        self._additions_met = 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in _CONVOLUTIONS:
            args = self._of_convolution(*args)
        elif getattr(function, "__name__", "") in _ADDITIONS and all(_is_activation(x) for x in args[:2]):
            args = self._of_addition(list(args))
        return function(*args, **(kwargs or {}))

    def check_end(self) -> None:
        """Raise RetinaNetEdgeError unless all that is INT8 was met."""
        if self._place[0] != len(self._convolutions) or self._additions_met != len(self._additions):
            raise RetinaNetEdgeError(
                f"the network must have the {len(self._convolutions)} convolutions and {len(self._additions)} INT8 additions of its "
                f"quantized graph, got {self._place[0]} and {self._additions_met}: run export_onnx.py and build_engine.py --int8 again"
            )

    def _of_convolution(self, x: Tensor, weights: Tensor, *others: Any) -> tuple[Any, ...]:
        index = self._place[0]
        self._place = (index + 1, 0)
        name = self._convolutions[index].input if index < len(self._convolutions) else None
        return (x, weights, *others) if name is None else (self._of(name, x), fake_quantize_weights(weights), *others)

    def _of_addition(self, args: list[Any]) -> tuple[Any, ...]:
        site = self._additions.get(self._place)
        self._place = (self._place[0], self._place[1] + 1)
        if site is not None:
            self._additions_met += 1
            args[site.side] = self._of(site.input, args[site.side])
        return tuple(args)

    def _of(self, name: str, x: Tensor) -> Tensor:
        if name not in self._quantized:
            self._quantized[name] = fake_quantize(x, self._reaches[name])
        return self._quantized[name]


def _is_activation(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and not isinstance(x, nn.Parameter)
