"""What each of two processes does for test_distributed.py, and one process to compare: results are written by the first."""

import dataclasses
import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from retinanet_edge.training.distributed import ProcessGroup, from_first, is_first, process_count
from retinanet_edge.training.run import resume, train
from tests.training.conftest import leave_unfinished, options
from tests.training.test_loop import make_trainer, nothing

# Without statistics of a process's own images. With --sync-norm, which the CPU has not.
TRAINING = options(norm="none", freeze=5, epochs=1, optimizer="sgd", learning_rate=1e-2, schedule="constant", sync_norm=True)


def write_gradients(data: Path, output: Path, accumulate: int) -> None:
    """Write the gradients and losses of a run's first step, with fixed statistics."""
    trainer = make_trainer(data, options(batch=8, accumulate=accumulate, norm="none", optimizer="sgd", clip_norm=0.0))
    trainer._step.set_training_mode(1)
    result = trainer._step.take(next(trainer._batches.steps(1)), 1e-2)
    found = {name: p.grad.contiguous() for name, p in trainer.network.named_parameters() if p.grad is not None}
    if is_first():
        save_file({**found, "losses": result.losses}, output / f"gradients-{accumulate}.safetensors")


def write_average_precision(data: Path, weights: Path, output: Path) -> None:
    """Write the AP of trained weights on the validation split."""
    trainer = make_trainer(data, options(anchor_size=3.0))
    trainer.averaged_network.load_state_dict(load_file(weights))
    evaluation = trainer._evaluate(1, nothing)
    if is_first():
        figures = [evaluation.metrics.ap, evaluation.metrics.ap50, evaluation.metrics.ar100]
        counts = [len(detections) for detections in evaluation.detections]
        (output / "ap.json").write_text(json.dumps({"figures": figures, "counts": counts}))


def train_and_resume(data: Path, folder: Path) -> None:
    """Train for an epoch, and resume for another."""
    train(dataclasses.replace(TRAINING, data=str(data)), folder, replace=False)
    from_first(lambda: leave_unfinished(folder / "last.safetensors"))
    resume(folder, data=None, given={})


def main(data: Path, weights: Path, outputs: Path) -> None:
    output = outputs / str(process_count())
    output.mkdir(exist_ok=True)
    for accumulate in (1, 2):
        write_gradients(data, output, accumulate)
    write_average_precision(data, weights, output)
    train_and_resume(data, output / "model")


if __name__ == "__main__":
    with ProcessGroup():
        main(*map(Path, sys.argv[1:]))
