"""The training loop: epochs of optimizer steps and an evaluation each few epochs, until the last epoch or an early end."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from retinanet_edge.runtime.coco import CocoMetrics, coco_metrics
from retinanet_edge.runtime.dataset import Dataset
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.model_card import InputSpec, NmsSpec
from retinanet_edge.runtime.progress import Progress
from retinanet_edge.training.augment import Augmentation
from retinanet_edge.training.data import Share, TrainingBatches
from retinanet_edge.training.distributed import copy_from_first, gather_shares, own_share, process_count, process_rank
from retinanet_edge.training.model import RetinaNet
from retinanet_edge.training.options import TrainingOptions
from retinanet_edge.training.predict import detect_samples
from retinanet_edge.training.schedules import scores_since_best
from retinanet_edge.training.step import OptimizerStep, StepResult

_NAMED_IMAGES = 64  # in the line that ends a run that diverges
_SEED_OF_PROCESS = 1_000_003  # between the seeds of two processes, so that no epoch's seed is another's


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
    """Runs the epochs of a training run, alone or as one of its processes, and keeps its history."""

    def __init__(
        self, network: RetinaNet, dataset: Dataset, input_spec: InputSpec, nms: NmsSpec, options: TrainingOptions
    ) -> None:
        """Prepare the run. Raises UserInputError where options do not fit the network, the data or the number of processes."""
        self.options = options
        self.history: list[EpochRecord] = []
        self._dataset, self._input, self._nms = dataset, input_spec, nms
        augmentation = Augmentation(input_spec.height, input_spec.width, options.augmentation)
        self._share = Share(process_rank(), process_count(), options.accumulate)
        self._batches = TrainingBatches(
            dataset.train, augmentation, seed=options.seed, batch=options.batch, workers=options.workers, share=self._share,
            last_epoch=options.epochs,
        )
        self._rates = options.learning_rates(len(self._batches))
        self._step = OptimizerStep(network, options)

    @property
    def network(self) -> RetinaNet:
        """The network that is trained."""
        return self._step.network

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What trains it."""
        return self._step.optimizer

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a training state holds besides the optimizer."""
        return {"network": self._step.network, "average": self._step.average}

    @property
    def averaged_network(self) -> RetinaNet:
        """The network to evaluate and keep."""
        network = self._step.average.module
        assert isinstance(network, RetinaNet)
        return network.eval()

    def settings(self) -> dict[str, Any]:
        """Return what a training state holds besides tensors, as plain values."""
        history = [dataclasses.asdict(record) for record in self.history]
        return {"options": self.options.to_json(), "history": history, "step": self._step.state()}

    def go_on(self, history: Sequence[EpochRecord], step: dict[str, Any]) -> None:
        """Take up a run after `history`, once the first process has modules and optimizer as they were; `step` is that of `settings`."""
        self.history = list(history)
        self._step.load_state(step)

    def run(self, *, after_step: Callable[[], None], after_epoch: Callable[[Evaluation | None], None]) -> None:
        """Train from the epoch after the history's last to the end, calling `after_step` and `after_epoch`, which may end it by raising.

        A step is one of training or a batch of an evaluation.
        """
        try:
            while not is_finished(self.history, self.options):
                epoch = len(self.history) + 1
                record, evaluation = self._train_epoch(epoch, after_step), None
                if epoch % self.options.eval_every == 0 or epoch == self.options.epochs:
                    evaluation = self._evaluate(epoch, after_step)
                    record = dataclasses.replace(record, ap=evaluation.metrics.ap, ap50=evaluation.metrics.ap50)
                self.history.append(record)
                print(_describe(record, self.options.epochs), flush=True)
                after_epoch(evaluation)
            if len(self.history) < self.options.epochs:
                print(f"no better AP in {self.options.early_stopping} evaluations: stopped early", flush=True)
        finally:
            self._batches.close()

    def _evaluate(self, epoch: int, after_step: Callable[[], None]) -> Evaluation:
        samples, network = self._dataset.val, self.averaged_network
        copy_from_first(network)  # BatchNorm's statistics are those of each process's own images
        images = max(self.options.batch // self._share.shares, 1)
        detections = detect_samples(network, own_share(samples), self._input, self._nms, images, after_step)
        detections = gather_shares(detections)
        return Evaluation(epoch, coco_metrics(samples, detections, self._dataset.classes), detections)

    def _train_epoch(self, epoch: int, after_step: Callable[[], None]) -> EpochRecord:
        options, steps = self.options, len(self._batches)
        self._step.set_training_mode(self._batches.size // self._share.shares)
        # For backbones with dropout: a resumed run draws what an uninterrupted one does.
        torch.manual_seed(options.seed + epoch + _SEED_OF_PROCESS * self._share.rank)
        started, scores, sums, rate = time.monotonic(), evaluated(self.history), torch.zeros(2), 0.0
        with Progress(f"epoch {epoch} of {options.epochs}", steps, "step") as progress:
            for index, parts in enumerate(self._batches.steps(epoch)):
                rate = options.learning_rate * self._rates.fraction((epoch - 1) * steps + index, scores)
                result = self._step.take(parts, rate)
                if not result.finite:
                    raise self._divergence(result, epoch, index)
                sums += result.losses
                progress.advance(1, classes=result.losses[0].item(), boxes=result.losses[1].item())
                after_step()
        means = sums / steps
        return EpochRecord(epoch, means[0].item(), means[1].item(), rate, time.monotonic() - started)

    def _divergence(self, result: StepResult, epoch: int, index: int) -> RetinaNetEdgeError:
        found = ", ".join(f"{figure:g}" for figure in (*result.losses.tolist(), result.gradient))
        names = [os.path.relpath(sample.path, self._dataset.root) for sample in self._batches.members(epoch, index)]
        images = ", ".join(names[:_NAMED_IMAGES]) + (f" and {len(names) - _NAMED_IMAGES} more" if len(names) > _NAMED_IMAGES else "")
        kept = f"epoch {epoch - 1} is kept" if epoch > 1 else "nothing is kept yet"
        advice = f"lower --lr (it is {self.options.learning_rate:g})" + (
            ", or give --precision bf16" if self.options.precision == "fp16" else ""
        )
        return RetinaNetEdgeError(
            f"losses and gradient must be finite, got {found}: {advice}, or look at the images of batch {index + 1} of epoch {epoch}"
            f" ({images}); {kept}"
        )


def evaluated(history: Sequence[EpochRecord]) -> list[float]:
    """Return the AP of the epochs that were evaluated."""
    return [record.ap for record in history if record.ap is not None and not math.isnan(record.ap)]


def is_finished(history: Sequence[EpochRecord], options: TrainingOptions) -> bool:
    """Return whether a run with this history is at its end: at its last epoch, or without a better AP for too long."""
    stopped = bool(options.early_stopping) and scores_since_best(evaluated(history)) >= options.early_stopping
    return stopped or len(history) >= options.epochs


def _describe(record: EpochRecord, epochs: int) -> str:
    line = f"epoch {record.epoch:3d} of {epochs}  classes {record.class_loss:.4f}  boxes {record.box_loss:.4f}"
    if record.ap is not None and record.ap50 is not None:
        line += f"  AP {record.ap:.4f}  AP50 {record.ap50:.4f}"
    return f"{line}  {record.seconds:.0f} s"
