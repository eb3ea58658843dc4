"""Which images a model does best and worst on, by the F1 of each at one score threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from retinanet_edge.runtime.matching import ImageOutcome


def best_and_worst(outcomes: Sequence[ImageOutcome], count: int) -> tuple[list[int], list[int]]:
    """Return the indices of up to `count` images each, most telling first: the best with a right detection, the worst with a mistake.

    By F1; among equals, best is the image with more right detections, worst that with more mistakes. No image is in both. Images with
    nothing to find on which nothing was found are left out.
    """
    ranked = sorted((i for i, outcome in enumerate(outcomes) if not math.isnan(outcome.f1)), key=lambda i: _merit(outcomes[i]))
    worst = [i for i in ranked if outcomes[i].f1 < 1][: min(count, (len(ranked) + 1) // 2)]
    best = [i for i in reversed(ranked) if outcomes[i].f1 > 0 and i not in worst][:count]
    return best, worst


def _merit(outcome: ImageOutcome) -> tuple[float, int]:
    right, wrong, missed = outcome.counts
    return outcome.f1, right - wrong - missed
