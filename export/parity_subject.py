"""What a parity check is about: a model folder whose card vouches for its files, and images of the validation split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.export.graph_file import load_graph
from retinanet_edge.runtime.accuracy import check_classes
from retinanet_edge.runtime.dataset import Sample, read_dataset, read_image
from retinanet_edge.runtime.errors import DatasetError
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.model_card import ModelCard, Precision
from retinanet_edge.runtime.model_folder import (
    FP16_FILE,
    INT8_FILE,
    ONNX_FILE,
    TYPED_INT8_FILE,
    data_of_card,
    find_model_folder,
    read_card,
    vouched_file,
)  # fmt: skip

_FILES: tuple[tuple[str, Precision], ...] = (
    (ONNX_FILE, "fp32"), (INT8_FILE, "int8"), (FP16_FILE, "fp16"), (TYPED_INT8_FILE, "int8"),
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model and the images to run it on. files: its ONNX files with their precision; the first is model.onnx, the reference."""

    folder: Path
    card: ModelCard
    files: tuple[tuple[Path, Precision], ...]
    data: Path
    samples: tuple[Sample, ...]

    @property
    def reference(self) -> Path:
        """The file model.onnx."""
        return self.files[0][0]

    def inputs(self) -> Iterator[tuple[Letterbox, NDArray[np.uint8]]]:
        """Yield each image as the network takes it, uint8 [1, H, W, 3], and how it was fitted. Raises DatasetError for a broken one."""
        for sample in self.samples:
            boxing = Letterbox(sample.height, sample.width, self.card.input.height, self.card.input.width)
            yield boxing, boxing.apply(read_image(sample))[None]


def open_subject(model: Path, data: Path | None, images: int, seed: int) -> Subject:
    """Return the model in a folder with at most `images` of the validation images, chosen by `seed`; data: None for the card's own.

    Raises ModelFolderError for a folder, card or ONNX file that is missing, broken or another's, DatasetError for data that are missing,
    broken, of other classes, or without an object on the chosen images.
    """
    folder = find_model_folder(model)
    card = read_card(folder)
    files = _onnx_files(folder, card)
    dataset = read_dataset(data or data_of_card(folder, card))
    check_classes(dataset, card)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(dataset.val))[:images])
    samples = tuple(dataset.val[index] for index in chosen)
    if not any((~sample.crowd).any() for sample in samples):
        raise DatasetError(
            f"the images to compare on must have objects, got {len(samples)} of the val split of {dataset.root} without any: "
            "give more --images or another --seed"
        )
    return Subject(folder, card, files, dataset.root, samples)


def _onnx_files(folder: Path, card: ModelCard) -> tuple[tuple[Path, Precision], ...]:
    """Return those that are there, each checked against the card."""
    records = {ONNX_FILE: card.onnx, INT8_FILE: card.int8}
    for name, record in records.items():
        if name == ONNX_FILE or (folder / name).is_file():
            vouched_file(folder, name, record.sha256 if record else None)
    files = tuple((folder / name, precision) for name, precision in _FILES if (folder / name).is_file())
    for path, _ in files:
        load_graph(path, card)
    return files
