"""A run's curves as TensorBoard event files, in the folder `events` of its model: tensorboard --logdir models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from retinanet_edge.runtime.coco import CocoFigures, CocoMetrics

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from retinanet_edge.training.loop import EpochRecord

EVENTS_FOLDER = "events"


class Events:
    """Writes the figures of each epoch; nothing, after one line that says so, where TensorBoard is not installed."""

    def __init__(self, folder: Path, epochs_before: int) -> None:
        """Prepare for the epochs after `epochs_before`; of later ones, which a run cut off may have left, TensorBoard shows the new."""
        self._writer = _open_writer(folder / EVENTS_FOLDER, epochs_before + 1)

    def add(self, record: EpochRecord, metrics: CocoMetrics | None) -> None:
        """Write the figures of an epoch, `metrics` where it was evaluated."""
        if self._writer is None:
            return
        figures = {"loss/classes": record.class_loss, "loss/boxes": record.box_loss, "learning rate": record.learning_rate}
        if metrics is not None:
            figures |= {f"validation/{field.name}": getattr(metrics, field.name) for field in dataclasses.fields(CocoFigures)}
        for name, value in figures.items():
            self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()

    def close(self) -> None:
        """End the writer's thread."""
        if self._writer is not None:
            self._writer.close()


def _open_writer(folder: Path, first_epoch: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        print("no TensorBoard files, since tensorboard is not installed: run pip install tensorboard to have them", flush=True)
        return None
    return SummaryWriter(str(folder), purge_step=first_epoch)
