"""Top-K per pyramid level in NumPy: of each level only the K anchors with the best class go on to suppression.

Training's evaluation uses it; export/level_top_k.py writes the same selection into the graph, row by row in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec


def level_sizes(anchor_spec: AnchorSpec, input_spec: InputSpec) -> tuple[int, ...]:
    """Return the anchors of each level, fine to coarse: ceil(side / stride) cells to a side, `per_cell` anchors in each."""
    return tuple(
        math.ceil(input_spec.height / stride) * math.ceil(input_spec.width / stride) * anchor_spec.per_cell
        for stride in anchor_spec.strides
    )


def keep_best_of_levels(
    class_logits: NDArray[np.float32], box_deltas: NDArray[np.float32], anchors: NDArray[np.float32], sizes: Sequence[int], k: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return class_logits [N, A', K], box_deltas [N, A', 4] and anchors [N, A', 4] of what goes on; A' is the sum of min(size, k).

    class_logits: [N, A, K]. box_deltas: [N, A, 4]. anchors: [1, A, 4]. sizes: anchors of each level. A level of more than k keeps the k
    with the highest logit over all classes, best first, of equal ones the first; a smaller one stays as it is. Where none is larger
    the arrays themselves come back, anchors [1, A, 4]. Raises ValueError for sizes that are not these anchors', or k below 1.
    """
    if sum(sizes) != class_logits.shape[1] or k < 1:
        raise ValueError(f"sizes must add up to the {class_logits.shape[1]} anchors and k be at least 1, got {tuple(sizes)} and {k}")
    if max(sizes) <= k:
        return class_logits, box_deltas, anchors
    levels = np.split(class_logits.max(axis=2), np.cumsum(sizes)[:-1], axis=1)
    starts = np.cumsum([0, *sizes[:-1]])
    rows = np.concatenate([start + _best(level, k) for start, level in zip(starts, levels, strict=True)], axis=1)  # [N, A']
    class_logits, box_deltas = (np.take_along_axis(values, rows[..., None], axis=1) for values in (class_logits, box_deltas))
    return class_logits, box_deltas, anchors[0][rows]


def _best(logits: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return the columns of the k highest in each row of logits [N, A of the level]; where there are no more than k, all in order."""
    if logits.shape[1] <= k:
        return np.broadcast_to(np.arange(logits.shape[1]), logits.shape)
    return np.argsort(-logits, axis=1, kind="stable")[:, :k]
