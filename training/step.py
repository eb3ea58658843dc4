"""One optimizer step: forward, loss, backward, clipping, update of the weights and of their running average.

A batch may be cut into parts that are run one after the other, and into shares of several processes: losses and gradients are those of the
whole batch, since each loss is divided by the matched anchors of the whole.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import timm.layers
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torchvision.ops import box_convert

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.data import Batch
from retinanet_edge.training.distributed import copy_from_first, from_first, process_count, sum_over_processes
from retinanet_edge.training.freezing import freeze_norms, freeze_stages, keep_frozen
from retinanet_edge.training.losses import normalize, sum_losses
from retinanet_edge.training.model import RetinaNet
from retinanet_edge.training.options import TrainingOptions
from retinanet_edge.training.targets import match

_AVERAGE_WARMUP = 10.0  # steps over which the running average trusts its young self less
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
_RANGE_RATE = 1e-2  # at the peak, of logarithms of INT8 ranges, whatever that of weights: Jain et al., Trained Quantization Thresholds
_NARROW = 64  # pixels: one cell of P6
_AUTOCAST = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class StepResult:
    """Losses [2] of the batch, of classes and boxes, and the norm of the gradient. Where not `finite`, no weight has changed."""

    losses: Tensor
    gradient: float
    finite: bool


def check_precision(options: TrainingOptions) -> None:
    """Raise UserInputError where the device cannot train in this precision."""
    if options.precision != "bf16":
        return
    if options.device.startswith("cuda"):
        if not torch.cuda.is_bf16_supported():
            raise UserInputError("--precision bf16 needs a GPU of 2020 (Ampere) or later: give fp16")
    elif options.input_width <= _NARROW:
        # Seen in torch 2.15: oneDNN leaves weight gradients of bf16 maps that are one cell wide, as P6 then is, unwritten.
        raise UserInputError(f"--precision bf16 on the CPU needs an --input wider than {_NARROW}, got {options.input_width}: give fp32")


class OptimizerStep:
    """Holds what a step changes: the network, its running average, the optimizer, and the scale that fp16 needs."""

    def __init__(self, network: RetinaNet, options: TrainingOptions) -> None:
        check_precision(options)
        self._options, self._loss = options, options.loss
        self._device = torch.device(options.device)
        network = _with_synchronised_norms(network, options)
        self.network = network.to(self._device).to(memory_format=torch.channels_last)  # faster convolutions on both CPU and GPU
        copy_from_first(self.network)
        self._frozen = freeze_stages(self.network.backbone, options.freeze or 0)
        self._frozen += freeze_norms(self.network.backbone) if options.freeze_norms else []
        if self.network.quantization is not None:  # the graph has BatchNorm with the statistics that it came with, folded
            self._frozen += [module for module in self.network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self.average = AveragedModel(self.network, multi_avg_fn=_running_average(options.average_decay), use_buffers=True)
        self.optimizer = make_optimizer(self.network, options)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=options.precision == "fp16")
        self._parallel: nn.Module = self.network
        if process_count() > 1:
            ids = [self._device] if self._device.type == "cuda" else None
            self._parallel = DistributedDataParallel(self.network, device_ids=ids, gradient_as_bucket_view=True)

    def state(self) -> dict[str, Any]:
        """Return what resuming needs besides modules and optimizer, as plain values."""
        return dict(self._scaler.state_dict())

    def load_state(self, state: dict[str, Any]) -> None:
        """Put `state()` back, and give every process what the first has of modules and optimizer."""
        if state:
            self._scaler.load_state_dict(state)
        for module in (self.network, self.average):
            copy_from_first(module)
        if process_count() > 1:
            self.optimizer.load_state_dict(from_first(lambda: _on_cpu(self.optimizer.state_dict())))

    def set_training_mode(self, images: int) -> None:
        """Train, but with fixed BatchNorm statistics where they would be of one image: in a map of one cell it has no variance."""
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(images * (process_count() if isinstance(module, nn.SyncBatchNorm) else 1) > 1)
        keep_frozen(self._frozen)

    def take(self, parts: Sequence[Batch], rate: float) -> StepResult:
        """Take one step at learning rate `rate` on this process's share of a batch, unless loss or gradient is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(parts)
        self._scaler.unscale_(self.optimizer)
        gradient = nn.utils.clip_grad_norm_(self.network.parameters(), self._options.clip_norm or math.inf)
        figures = torch.cat([losses, gradient[None]]).cpu()
        finite = bool(torch.isfinite(figures).all()) or self._only_overflowed(figures)
        if finite:
            self._scaler.step(self.optimizer)
            self._scaler.update()
            self.average.update_parameters(self.network)
        return StepResult(figures[:2], figures[2].item(), finite)

    def _only_overflowed(self, figures: Tensor) -> bool:
        """Return whether it is only the scaled gradient that fp16 could not hold: then the scaler leaves the step out and scales less."""
        return self._scaler.is_enabled() and bool(torch.isfinite(figures[:2]).all()) and self._scaler.get_scale() > 1

    def _backward(self, parts: Sequence[Batch]) -> Tensor:
        """Put the gradient of the batch's loss into the parameters and return its losses [2]."""
        positives = sum_over_processes(self._count_positives(parts)) if len(parts) > 1 else None
        total = torch.zeros(2, device=self._device)
        for index, part in enumerate(parts):
            with self._exchange_of_gradients(last=index == len(parts) - 1):
                losses = self._losses(part.to(self._device), positives, len(parts))
                # Gradients are averaged over the processes, losses are to be summed.
                self._scaler.scale(losses.sum() * process_count()).backward()  # type: ignore[no-untyped-call]
            total += losses.detach()
        return sum_over_processes(total)

    def _losses(self, batch: Batch, positives: Tensor | None, parts: int) -> Tensor:
        """Return what this part of the batch adds to the losses [2] of the whole."""
        dtype = _AUTOCAST[self._options.precision]
        with torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32):
            class_logits, box_deltas = self._parallel(batch.images)
        boxes, classes = batch.boxes_of_images(), batch.classes_of_images()
        sums = sum_losses(class_logits, box_deltas, self.network.anchors, boxes, classes, self._loss)
        losses = normalize(sums, self._loss, sum_over_processes(sums.positives.sum()) if positives is None else positives)
        share = 1 / (parts * process_count()) if self._loss.normalizer == "image" else 1.0  # a mean over images, or a part of one sum
        return torch.stack([losses.classes, losses.boxes]) * share

    def _count_positives(self, parts: Sequence[Batch]) -> Tensor:
        """Return how many anchors of this process's share are matched."""
        anchors = box_convert(self.network.anchors, "cxcywh", "xyxy")
        boxes = [b for part in parts for b in part.to(self._device).boxes_of_images()]
        return torch.stack([(match(anchors, b, self._loss.matcher) >= 0).sum() for b in boxes]).sum()

    def _exchange_of_gradients(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Let gradients gather in each process until those of the last part are there."""
        if last or not isinstance(self._parallel, DistributedDataParallel):
            return contextlib.nullcontext()
        return cast(contextlib.AbstractContextManager[None], self._parallel.no_sync())


def make_optimizer(network: RetinaNet, options: TrainingOptions) -> torch.optim.Optimizer:
    """Return the optimizer of what is not frozen."""
    ranges = [] if network.quantization is None else list(network.quantization.parameters())
    decayed, others = _by_decay(network, options.semantics.decayed)
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if ranges:
        groups.append({"params": ranges, "weight_decay": 0.0, "rate": _RANGE_RATE / options.learning_rate})
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=options.learning_rate)


def _by_decay(network: nn.Module, decayed: Literal["weights", "all but norms", "all"]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trained parameters that are decayed and those that are not, each in the network's order."""
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad and not name.startswith("quantization.")}
    norms = {id(p) for module in network.modules() if isinstance(module, _NORMS) for p in module.parameters(recurse=False)}
    if decayed == "all":
        kept: set[str] = set()
    elif decayed == "all but norms":
        kept = {name for name, p in trained.items() if id(p) in norms}
    else:  # biases neither: pulling them to zero helps nothing and hurts the prior bias
        kept = {name for name, p in trained.items() if p.ndim <= 1}
    return [p for name, p in trained.items() if name not in kept], [p for name, p in trained.items() if name in kept]


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state without the first process's GPU in it."""
    tensors = {index: {key: torch.as_tensor(value).cpu() for key, value in of.items()} for index, of in state["state"].items()}
    return {**state, "state": tensors}


def _with_synchronised_norms(network: RetinaNet, options: TrainingOptions) -> RetinaNet:
    if not options.sync_norm or process_count() == 1:
        return network
    if not options.device.startswith("cuda"):
        print("--sync-norm needs GPUs: on the CPU each process has BatchNorm statistics of its own", flush=True)
        return network
    return cast(RetinaNet, timm.layers.convert_sync_batchnorm(network))  # torch's own would drop the activations in timm's norms


def _running_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        young = (1 + float(count)) / (_AVERAGE_WARMUP + float(count))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - min(decay, young))
            else:
                mean.copy_(value)  # BatchNorm's step counter

    return update
