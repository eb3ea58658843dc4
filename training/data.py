"""Batches for training: samples read, augmented and stacked, the same for the same seed however many workers read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retinanet_edge.runtime.dataset import Sample, read_image
from retinanet_edge.training.augment import Augmentation


@dataclass(frozen=True)
class Batch:
    """images: uint8 [N, H, W, 3] BGR. boxes, classes: for each image xyxy float32 [n, 4] in input pixels and int64 [n]."""

    images: Tensor
    boxes: list[Tensor]
    classes: list[Tensor]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return Batch(
            self.images.to(device, non_blocking=True), [b.to(device) for b in self.boxes], [c.to(device) for c in self.classes]
        )


Example = tuple[Tensor, Tensor, Tensor]


class _EpochSamples(Dataset[Example]):
    """The training samples of one epoch, in its order, augmented as (seed, epoch, position) say."""

    def __init__(self, samples: Sequence[Sample], augmentation: Augmentation, seed: int, epoch: int) -> None:
        self._samples, self._augmentation = samples, augmentation
        self._seed, self._epoch = seed, epoch
        self._order = np.random.default_rng([seed, epoch]).permutation(len(samples))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> Example:
        sample = self._samples[self._order[position]]
        labelled = ~sample.crowd
        rgb = np.ascontiguousarray(read_image(sample)[:, :, ::-1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self._seed, self._epoch, position]).generate_state(1)[0]))
            image, boxes, classes = self._augmentation(
                torch.from_numpy(rgb).permute(2, 0, 1),
                torch.from_numpy(sample.boxes[labelled]),
                torch.from_numpy(sample.classes[labelled]),
            )
        return image.flip(0).permute(1, 2, 0).contiguous(), boxes, classes


def epoch_batches(
    samples: Sequence[Sample], augmentation: Augmentation, *, seed: int, epoch: int, batch: int, workers: int
) -> DataLoader[Example]:
    """Return the loader of one epoch's batches (`Batch`). The last incomplete batch is dropped where there is a full one."""
    return DataLoader(
        _EpochSamples(samples, augmentation, seed, epoch),
        batch_size=min(batch, len(samples)),
        drop_last=True,
        num_workers=workers,
        collate_fn=_stack,
        generator=torch.Generator().manual_seed(seed),  # or the loader draws a number from the global generator
    )


def _stack(examples: list[Example]) -> Batch:
    images, boxes, classes = zip(*examples, strict=True)
    return Batch(torch.stack(images), list(boxes), list(classes))
