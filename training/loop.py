"""The training loop: epochs of optimizer steps, an evaluation each few epochs, best and last checkpoint after each."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from retinanet_edge.runtime.coco import CocoMetrics, coco_metrics
from retinanet_edge.runtime.dataset import Dataset
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.model_card import InputSpec, NmsSpec
from retinanet_edge.runtime.progress import Progress
from retinanet_edge.training.augment import Augmentation
from retinanet_edge.training.data import Batch, TrainingBatches
from retinanet_edge.training.losses import LossSpec, compute_losses
from retinanet_edge.training.model import RetinaNet
from retinanet_edge.training.options import TrainingOptions
from retinanet_edge.training.predict import detect_samples

_GRADIENT_NORM = 10.0  # clips only the rare spike
_FINAL_LEARNING_RATE = 0.01  # of the peak, where the cosine ends
_AVERAGE_WARMUP = 10.0  # steps over which the running average trusts its young self less


@dataclass(frozen=True)
class EpochRecord:
    """One line of a run's history. Losses are means over the epoch's batches; ap is None where it was not evaluated."""

    epoch: int
    class_loss: float
    box_loss: float
    learning_rate: float
    seconds: float
    ap: float | None = None
    ap50: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """The averaged network on the validation split after an epoch."""

    epoch: int
    metrics: CocoMetrics
    detections: list[Detections]


class Trainer:
    """Holds what training changes: the network, its running average, the optimizer, the history."""

    def __init__(
        self, network: RetinaNet, dataset: Dataset, input_spec: InputSpec, nms: NmsSpec, options: TrainingOptions
    ) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # faster convolutions on both CPU and GPU
        self.average = AveragedModel(self.network, multi_avg_fn=_running_average(options.average_decay), use_buffers=True)
        self.optimizer = _make_optimizer(self.network, options)
        self.history: list[EpochRecord] = []
        self._dataset, self._input, self._nms = dataset, input_spec, nms
        augmentation = Augmentation(input_spec.height, input_spec.width, options.augment, flip=options.flip)
        self._batches = TrainingBatches(dataset.train, augmentation, seed=options.seed, batch=options.batch, workers=options.workers)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a training state holds besides the optimizer."""
        return {"network": self.network, "average": self.average}

    @property
    def averaged_network(self) -> RetinaNet:
        """The network to evaluate and keep."""
        network = self.average.module
        assert isinstance(network, RetinaNet)
        return network.eval()

    def run(self, *, after_step: Callable[[], None], after_epoch: Callable[[Evaluation | None], None]) -> None:
        """Train from the epoch after the history's last to the end, calling `after_step` and `after_epoch`, which may end it by raising.

        A step is one of training or a batch of an evaluation.
        """
        try:
            for epoch in range(len(self.history) + 1, self.options.epochs + 1):
                record, evaluation = self._train_epoch(epoch, after_step), None
                if epoch % self.options.eval_every == 0 or epoch == self.options.epochs:
                    evaluation = self._evaluate(epoch, after_step)
                    record = dataclasses.replace(record, ap=evaluation.metrics.ap, ap50=evaluation.metrics.ap50)
                self.history.append(record)
                print(_describe(record, self.options.epochs), flush=True)
                after_epoch(evaluation)
        finally:
            self._batches.close()

    def _evaluate(self, epoch: int, after_step: Callable[[], None]) -> Evaluation:
        samples = self._dataset.val
        detections = detect_samples(self.averaged_network, samples, self._input, self._nms, self.options.batch, after_step)
        return Evaluation(epoch, coco_metrics(samples, detections, self._dataset.classes), detections)

    def _train_epoch(self, epoch: int, after_step: Callable[[], None]) -> EpochRecord:
        self._set_training_mode()
        torch.manual_seed(self.options.seed + epoch)  # for backbones with dropout: a resumed run draws what an uninterrupted one does
        started, steps = time.monotonic(), len(self._batches)
        sums, rate = torch.zeros(2), 0.0
        with Progress(f"epoch {epoch} of {self.options.epochs}", steps, "step") as progress:
            for index, batch in enumerate(self._batches.epoch(epoch)):
                rate = self._set_learning_rate((epoch - 1) * steps + index, steps)
                losses = self._step(batch.to(self.device))
                sums += losses
                progress.advance(1, classes=losses[0].item(), boxes=losses[1].item())
                after_step()
        means = sums / steps
        return EpochRecord(epoch, means[0].item(), means[1].item(), rate, time.monotonic() - started)

    def _set_training_mode(self) -> None:
        """Train, but with fixed BatchNorm statistics where a batch is one image: in a map of one cell it has no variance."""
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(self._batches.size > 1)

    def _step(self, batch: Batch) -> Tensor:
        """Take one step and return the losses [2]. Raises RetinaNetEdgeError where they diverge, with weights and average untouched."""
        class_logits, box_deltas = self.network(batch.images)
        boxes, classes = batch.boxes_of_images(), batch.classes_of_images()
        losses = compute_losses(class_logits, box_deltas, self.network.anchors, boxes, classes, LossSpec())
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        gradient = nn.utils.clip_grad_norm_(self.network.parameters(), _GRADIENT_NORM)
        figures = torch.stack([losses.classes.detach(), losses.boxes.detach(), gradient]).cpu()
        if not bool(torch.isfinite(figures).all()):
            found = ", ".join(f"{figure:g}" for figure in figures.tolist())
            raise RetinaNetEdgeError(
                f"losses and gradient must be finite, got {found}: lower --lr (it is {self.options.learning_rate:g})"
            )
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return figures[:2]

    def _set_learning_rate(self, step: int, steps_per_epoch: int) -> float:
        options = self.options
        rate = options.learning_rate * learning_rate_factor(
            step, round(options.warmup_epochs * steps_per_epoch), options.epochs * steps_per_epoch
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate


def learning_rate_factor(step: int, warmup_steps: int, steps: int) -> float:
    """Return the fraction of the peak learning rate at `step`: a linear rise over `warmup_steps`, then half a cosine to 0.01."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return _FINAL_LEARNING_RATE + (1 - _FINAL_LEARNING_RATE) * (1 + math.cos(math.pi * done)) / 2


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


def _make_optimizer(network: RetinaNet, options: TrainingOptions) -> torch.optim.Optimizer:
    # Biases and norm scales are not decayed: pulling them to zero helps nothing and hurts the prior bias.
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=options.learning_rate)


def _describe(record: EpochRecord, epochs: int) -> str:
    line = f"epoch {record.epoch:3d} of {epochs}  classes {record.class_loss:.4f}  boxes {record.box_loss:.4f}"
    if record.ap is not None and record.ap50 is not None:
        line += f"  AP {record.ap:.4f}  AP50 {record.ap50:.4f}"
    return f"{line}  {record.seconds:.0f} s"
