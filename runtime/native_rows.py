"""What a graph without the plugin gives (export/native_nms.py), one row for each box found in any image, as detections of each image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detections import Detections

COLUMNS = 7  # image, x1, y1, x2, y2, score, class


def group_rows(rows: NDArray[np.float32], images: int, max_detections: int) -> list[Detections]:
    """Return the detections of each of `images` images, best first, at most max_detections each; equal scores stay in their order.

    rows: float32 [S, 7] (image, x1, y1, x2, y2, score, class), in any order, boxes in any pixels. Rows of images from `images` on, with
    which a batch was filled up, are left out. Nothing returned shares memory with them. Raises ValueError for another shape or type.
    """
    if rows.ndim != 2 or rows.shape[1] != COLUMNS or rows.dtype != np.float32:
        raise ValueError(f"rows must be float32 [S, {COLUMNS}], got {rows.dtype} {list(rows.shape)}")
    best_first = rows[np.argsort(-rows[:, 5], kind="stable")]
    return [_detections(best_first[best_first[:, 0] == image][:max_detections]) for image in range(images)]


def _detections(rows: NDArray[np.float32]) -> Detections:
    return Detections(rows[:, 1:5].copy(), rows[:, 5].copy(), rows[:, 6].astype(np.int64))
