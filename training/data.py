"""Batches for training: samples read, augmented and stacked, the same for the same seed however many workers read them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retinanet_edge.runtime.dataset import Sample, read_image
from retinanet_edge.runtime.errors import DatasetError
from retinanet_edge.training.augment import Augmentation


@dataclass(frozen=True)
class Batch:
    """images: uint8 [N, H, W, 3] BGR. boxes, classes: of one image after the other, xyxy float32 [n, 4] in input pixels and int64 [n].

    counts: how many of the n each image has. (Two tensors for all images: each tensor that a worker sends takes a file descriptor.)
    """

    images: Tensor
    boxes: Tensor
    classes: Tensor
    counts: list[int]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return Batch(self.images.to(device), self.boxes.to(device), self.classes.to(device), self.counts)

    def boxes_of_images(self) -> Sequence[Tensor]:
        """Return for each image its boxes [n, 4]."""
        return torch.split(self.boxes, self.counts)

    def classes_of_images(self) -> Sequence[Tensor]:
        """Return for each image its classes [n]."""
        return torch.split(self.classes, self.counts)


Example = tuple[Tensor, Tensor, Tensor]  # image, boxes, classes
Turn = tuple[int, int, int]  # epoch, position in it, index of the sample


class TrainingBatches:
    """The batches of every epoch, each in an order and with an augmentation that only the seed decides.

    Every batch is full: the last one is filled up from the beginning of the epoch's order. Workers live from the first epoch on.
    """

    def __init__(
        self, samples: Sequence[Sample], augmentation: Augmentation, *, seed: int, batch: int, workers: int
    ) -> None:
        self._turns = _Turns(len(samples), min(batch, len(samples)), seed)
        self._loader = DataLoader(
            _Examples(samples, augmentation, seed),
            batch_sampler=self._turns,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_stack,
            worker_init_fn=_leave_process_group,
            generator=torch.Generator().manual_seed(seed),  # or the loader draws a number from the global generator
        )

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def size(self) -> int:
        """Images in a batch: no more than there are."""
        return self._turns.size

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch. Raises DatasetError or OSError where an image cannot be read."""
        self._turns.epoch = number
        with _interrupts_kept_from_workers():
            batches = iter(self._loader)
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def close(self) -> None:
        """End the workers. Left to the garbage collector, which may take their queues first, each can take 5 seconds to notice."""
        iterator = self._loader._iterator  # as others do who end persistent workers: torch has no public way
        if iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]


class _Turns:
    """Batches of turns: what the loader hands to its workers. Set `epoch` before iterating."""

    def __init__(self, samples: int, size: int, seed: int) -> None:
        self.epoch, self.size = 0, size
        self._samples, self._seed = samples, seed

    def __len__(self) -> int:
        return -(-self._samples // self.size)

    def __iter__(self) -> Iterator[list[Turn]]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._samples)
        turns = [(self.epoch, position, int(index)) for position, index in enumerate(np.resize(order, len(self) * self.size))]
        return (turns[start : start + self.size] for start in range(0, len(turns), self.size))


class _Examples(Dataset["Example | DatasetError | OSError"]):
    """The training samples, augmented as (seed, epoch, position) say.

    An image that cannot be read is returned as its error, not raised: the loader would wrap it in a worker's traceback.
    """

    def __init__(self, samples: Sequence[Sample], augmentation: Augmentation, seed: int) -> None:
        self._samples, self._augmentation, self._seed = samples, augmentation, seed

    def __getitem__(self, turn: Turn) -> Example | DatasetError | OSError:
        epoch, position, index = turn
        sample = self._samples[index]
        try:
            rgb = np.ascontiguousarray(read_image(sample)[:, :, ::-1])
        except (DatasetError, OSError) as error:
            return error
        labelled = ~sample.crowd
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(np.random.SeedSequence([self._seed, epoch, position]).generate_state(1)[0]))
            image, boxes, classes = self._augmentation(
                torch.from_numpy(rgb).permute(2, 0, 1),
                torch.from_numpy(sample.boxes[labelled]),
                torch.from_numpy(sample.classes[labelled]),
            )
        return image.flip(0).permute(1, 2, 0).contiguous(), boxes, classes


def _stack(examples: list[Example | DatasetError | OSError]) -> Batch | DatasetError | OSError:
    whole = [example for example in examples if not isinstance(example, Exception)]
    errors = [example for example in examples if isinstance(example, Exception)]
    if errors:
        return errors[0]
    images, boxes, classes = zip(*whole, strict=True)
    return Batch(torch.stack(images), torch.cat(boxes), torch.cat(classes), [len(c) for c in classes])


# A terminal sends Ctrl-C, and timeout its SIGTERM, to the whole process group: only the main process is to answer, and ends the others.
def _leave_process_group(_: int) -> None:
    os.setpgrp()


@contextmanager
def _interrupts_kept_from_workers() -> Iterator[None]:
    """Block SIGINT in the processes begun within, from their first instruction on; here it waits until the block's end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
