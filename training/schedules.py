"""How the learning rate goes, and when a run that no longer gains has gone on long enough: plain functions of steps and scores.

What depends on earlier scores is computed from the run's history, so that a resumed run needs no state of its own for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ScheduleKind = Literal["cosine", "step", "plateau", "constant"]

_FINAL_FRACTION = 0.01  # of the peak, where the cosine ends
_USUAL_DROPS = (2 / 3, 11 / 12)  # of the epochs, where `step` lowers the rate: 8 and 11 of 12 (He et al., Detectron)


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a fraction of its peak: a linear rise over `warmup_epochs`, then as `kind` says.

    cosine: half a cosine down to 0.01 at the last epoch. step: times `drop_factor` after each of `drop_epochs` (none given: after 2/3 and
    11/12 of the epochs). plateau: times `drop_factor` whenever `patience` evaluations in a row gave no better score. constant: 1.
    """

    kind: ScheduleKind
    epochs: int
    steps_per_epoch: int
    warmup_epochs: float = 0.0
    drop_epochs: tuple[float, ...] = ()
    drop_factor: float = 0.1
    patience: int = 3

    def fraction(self, step: int, scores: Sequence[float] = ()) -> float:
        """Return the fraction of the peak at `step`, counted from the run's beginning, after evaluations that gave `scores`."""
        warmup = round(self.warmup_epochs * self.steps_per_epoch)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.kind == "cosine":
            done = (step - warmup) / max(self.epochs * self.steps_per_epoch - warmup, 1)
            return _FINAL_FRACTION + (1 - _FINAL_FRACTION) * (1 + math.cos(math.pi * done)) / 2
        if self.kind == "step":
            drops = self.drop_epochs or tuple(fraction * self.epochs for fraction in _USUAL_DROPS)
            return self.drop_factor ** sum(step >= round(drop * self.steps_per_epoch) for drop in drops)
        return self.drop_factor ** times_stalled(scores, self.patience) if self.kind == "plateau" else 1.0


def times_stalled(scores: Sequence[float], patience: int) -> int:
    """Return how often `patience` scores in a row were no better than the best before; after each such time counting begins anew."""
    best, waited, times = -math.inf, 0, 0
    for score in scores:
        best, waited = (score, 0) if score > best else (best, waited + 1)
        if waited == patience:
            times, waited = times + 1, 0
    return times


def scores_since_best(scores: Sequence[float]) -> int:
    """Return how many scores came after the best, the first of equals."""
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0
