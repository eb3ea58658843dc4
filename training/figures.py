"""Pictures of a training run for people: curves of loss and AP, precision over recall, detections on validation images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from retinanet_edge.runtime.coco import CocoMetrics
from retinanet_edge.runtime.dataset import Sample, read_image
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.draw import draw_detections
from retinanet_edge.runtime.model_folder import atomic_path, write_atomically
from retinanet_edge.training.loop import EpochRecord

_SHEET_IMAGES, _SHEET_COLUMNS, _TILE_WIDTH = 12, 4, 320
_SHOWN_SCORE = 0.4
_PR_CLASSES = 10  # matplotlib's colours before they repeat


def save_loss_curve(path: Path, history: Sequence[EpochRecord]) -> None:
    """Write the losses and the validation AP over epochs as a PNG."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    losses, accuracy = figure.subplots(1, 2)
    epochs = [record.epoch for record in history]
    losses.plot(epochs, [record.class_loss for record in history], marker="o", markersize=3, label="classes")
    losses.plot(epochs, [record.box_loss for record in history], marker="o", markersize=3, label="boxes")
    losses.set(xlabel="epoch", ylabel="training loss", yscale="log")
    evaluated = [record for record in history if record.ap is not None]
    accuracy.plot([r.epoch for r in evaluated], [r.ap50 for r in evaluated], marker="o", markersize=3, label="AP50")
    accuracy.plot([r.epoch for r in evaluated], [r.ap for r in evaluated], marker="o", markersize=3, label="AP")
    accuracy.set(xlabel="epoch", ylabel="validation AP", ylim=(0, 1))
    for axes in (losses, accuracy):
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def save_pr_curve(path: Path, metrics: CocoMetrics) -> None:
    """Write precision over recall at IoU 0.5 of each class as a PNG; of the 10 with the lowest AP50 where there are more."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    present = {name: figures.ap50 for name, figures in metrics.per_class.items() if not np.isnan(figures.ap50)}
    worst = sorted(present, key=lambda name: present[name])[:_PR_CLASSES]
    for name in worst:
        recall, precision = metrics.pr_curves[name]
        text = name.replace("$", r"\$")  # else what stands between two of them is taken for a formula
        axes.plot(recall, precision, label=f"AP50 {present[name]:.3f}: {text}")  # the name last: a leading _ would hide the line
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=f"IoU 0.5, AP50 {metrics.ap50:.3f}")
    axes.grid(alpha=0.3)
    if worst:
        axes.legend(fontsize="small", loc="lower left")
    _save(figure, path)


def save_detection_sheet(
    path: Path, samples: Sequence[Sample], detections: Sequence[Detections], class_names: Sequence[str]
) -> None:
    """Write validation images, evenly picked, with their detections of score 0.4 and more, as one picture."""
    picked = np.linspace(0, len(samples) - 1, min(_SHEET_IMAGES, len(samples))).round().astype(int)
    shape = float(np.median([samples[i].height / samples[i].width for i in picked]))
    height = round(_TILE_WIDTH * min(max(shape, 0.25), 2))
    tiles = [
        _tile(draw_detections(read_image(samples[i]), detections[i].filtered(_SHOWN_SCORE), class_names), height) for i in picked
    ]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % min(_SHEET_COLUMNS, len(tiles)))
    columns = min(_SHEET_COLUMNS, len(tiles))
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    ok, data = cv2.imencode(path.suffix, np.vstack(rows))
    assert ok, f"OpenCV writes {path.suffix}"
    write_atomically(path, data.tobytes())


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # class names in scripts that matplotlib's font lacks
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=110)


def _tile(image: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """Return `image` made to fit a white tile."""
    scale = min(_TILE_WIDTH / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    tile = np.full((height, _TILE_WIDTH, 3), 255, np.uint8)
    tile[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return tile
