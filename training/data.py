"""Batches for training: samples read, augmented and stacked, the same for the same seed however many workers read them."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retinanet_edge.runtime.dataset import Sample, read_image
from retinanet_edge.runtime.errors import DatasetError, UserInputError
from retinanet_edge.training.augment import Augmentation, Example
from retinanet_edge.training.mosaic import IMAGES, make_mosaic


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


@dataclass(frozen=True)
class Share:
    """What one process takes of every batch: the share of its `rank` among `processes`, in `parts` that are run one after the other."""

    rank: int = 0
    processes: int = 1
    parts: int = 1

    @property
    def shares(self) -> int:
        """Into how many a batch is cut."""
        return self.processes * self.parts

    def even_batch(self, batch: int, samples: int) -> int:
        """Return the size of a batch, no more than there are samples. Raises UserInputError where it cannot be cut evenly."""
        if batch % self.shares:
            nearest = " or ".join(str(n) for n in (batch // self.shares * self.shares, -(-batch // self.shares) * self.shares) if n)
            raise UserInputError(
                f"--batch must divide by processes x --accumulate, {self.processes} x {self.parts}, got {batch}: give {nearest}"
            )
        if samples < self.shares:
            raise UserInputError(
                f"{samples} training images cannot be cut into processes x --accumulate, {self.processes} x {self.parts}: give less of them"
            )
        return min(batch, samples // self.shares * self.shares)


Turn = tuple[int, int, tuple[int, ...]]  # epoch, position in it, index of the sample or of each one in a mosaic


class TrainingBatches:
    """The batches of every epoch, each in an order and with an augmentation that only the seed decides.

    Every batch is full: the last one is filled up from the beginning of the epoch's order. Workers live from the first epoch on.
    A batch is cut evenly into the `share` of each process, in as many parts, so that all shares together are always the same images.
    """

    def __init__(
        self, samples: Sequence[Sample], augmentation: Augmentation, *, seed: int, batch: int, workers: int, share: Share | None = None,
        last_epoch: int | None = None,
    ) -> None:  # fmt: skip
        """Prepare to read; `last_epoch`, counted from 1, says when mosaics end.

        Raises UserInputError where a batch cannot be cut evenly, or mosaics would end before the first epoch.
        """
        share = share or Share()
        if last_epoch is not None:
            augmentation.spec.check_epochs(last_epoch)
        self._samples, self._share = samples, share
        mosaic_share = partial(augmentation.spec.mosaic_share, last_epoch=last_epoch)
        self._turns = _Turns(len(samples), share.even_batch(batch, len(samples)), seed, share, mosaic_share)
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
        return self._turns.batches

    @property
    def size(self) -> int:
        """Images in a batch: no more than there are."""
        return self._turns.size

    def members(self, epoch: int, index: int) -> list[Sample]:
        """Return the samples of a batch, its `index` in the epoch counted from 0, in all of its shares; of a mosaic all four."""
        return [self._samples[sample] for _, _, shown in self._turns.of_batch(epoch, index) for sample in shown]

    def steps(self, number: int) -> Iterator[list[Batch]]:
        """Yield of each batch of an epoch the parts that are this process's share. Raises as `epoch` does."""
        parts = self.epoch(number)
        while step := list(itertools.islice(parts, self._share.parts)):
            yield step

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield all parts of an epoch in turn. Raises DatasetError or OSError where an image cannot be read."""
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
    """Lists of turns, each one part of a batch: what the loader hands to its workers. Set `epoch` before iterating."""

    def __init__(self, samples: int, size: int, seed: int, share: Share, mosaic_share: Callable[[int], float]) -> None:
        self.epoch, self.size, self.batches = 0, size, -(-samples // size)
        self._samples, self._seed, self._share, self._mosaic_share = samples, seed, share, mosaic_share

    def __len__(self) -> int:
        return self.batches * self._share.parts

    def __iter__(self) -> Iterator[list[Turn]]:
        width = self.size // self._share.shares
        turns = self._turns(self.epoch)
        for start in range(0, len(turns), self.size):
            for part in range(self._share.parts):
                first = start + (part * self._share.processes + self._share.rank) * width
                yield turns[first : first + width]

    def of_batch(self, epoch: int, index: int) -> list[Turn]:
        """Return the turns of a whole batch."""
        return self._turns(epoch)[index * self.size : (index + 1) * self.size]

    def _turns(self, epoch: int) -> list[Turn]:
        generator = np.random.default_rng([self._seed, epoch])
        order = np.resize(generator.permutation(self._samples), self.batches * self.size)
        shown = [1 + (IMAGES - 1) * mosaic for mosaic in generator.random(len(order)) < self._mosaic_share(epoch)]
        indices = np.column_stack([order, generator.integers(self._samples, size=(len(order), IMAGES - 1))]).tolist()
        return [(epoch, position, tuple(indices[position][:count])) for position, count in enumerate(shown)]


class _Examples(Dataset["Example | DatasetError | OSError"]):
    """The training samples, augmented as (seed, epoch, position) say.

    An image that cannot be read is returned as its error, not raised: the loader would wrap it in a worker's traceback.
    """

    def __init__(self, samples: Sequence[Sample], augmentation: Augmentation, seed: int) -> None:
        self._samples, self._augmentation, self._seed = samples, augmentation, seed

    def __getitem__(self, turn: Turn) -> Example | DatasetError | OSError:
        epoch, position, indices = turn
        try:
            examples = [_read(self._samples[index]) for index in indices]
        except (DatasetError, OSError) as error:
            return error
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(np.random.SeedSequence([self._seed, epoch, position]).generate_state(1)[0]))
            single = len(examples) == 1
            image, boxes, classes = self._augmentation(*examples[0]) if single else make_mosaic(self._augmentation, examples)
        return image.flip(0).permute(1, 2, 0).contiguous(), boxes, classes


def _read(sample: Sample) -> Example:
    rgb = torch.from_numpy(np.ascontiguousarray(read_image(sample)[:, :, ::-1]))
    labelled = ~sample.crowd
    return rgb.permute(2, 0, 1), torch.from_numpy(sample.boxes[labelled]), torch.from_numpy(sample.classes[labelled])


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
