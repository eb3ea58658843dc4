"""The fewest layers that must stay out of INT8 for AP to hold.

The most sensitive layers are kept, 1, 2, 4, ... of them until AP holds, then a number in between, and at last each is tried without: AP
is measured on the whole validation split every time. Layers are convolutions; kept ones are FP16 on TensorRT and FP32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from retinanet_edge.export.calibrate import activation_ranges
from retinanet_edge.export.measurement import Measurement
from retinanet_edge.export.placement import choosable_tensors, find_placement, quantizable_layers
from retinanet_edge.export.quantize import insert_qdq
from retinanet_edge.export.sensitivity import layer_errors
from retinanet_edge.runtime.model_card import CalibrationMethod, Precision

_SENSITIVITY_IMAGES = 8  # 4 and 16 were seen to rank the same
_SHOWN = 12


Measure = Callable[[Path, Precision], Measurement]


@dataclass(frozen=True)
class Trial:
    """AP, 0..1, and milliseconds of a call on the CPU with some of the layers kept out of INT8."""

    kept: int
    ap: float
    milliseconds: float


@dataclass(frozen=True)
class Found:
    """The layers to keep, none where none need be or no choice of them suffices; what FP32 and that INT8 model measure; all trials.

    trials: the best of each number of layers kept, by that number, up to all of them, which is FP32.
    """

    kept: tuple[str, ...]
    fp32: Measurement
    int8: Measurement
    trials: tuple[Trial, ...]


def search(
    source: Path, target: Path, images: Sequence[NDArray[np.uint8]], method: CalibrationMethod, measure: Measure,
    max_ap_drop: float, score_threshold: float,
) -> Found:  # fmt: skip
    """Write `source`, the portable FP32 graph, with Q/DQ to `target`, with the fewest layers kept; as quantize would with these.

    max_ap_drop: AP, 0..1, that INT8 may lose. score_threshold: from which a detection counts. Raises UserInputError as
    measure_activations does.
    """
    model = onnx.load(source)
    ranges = activation_ranges(model, choosable_tensors(model.graph), images, method)
    trials = _Trials(model, ranges, target, measure, measure(source, "fp32"), max_ap_drop)
    if trials.passes(()):
        print("no layer need be kept out of INT8", flush=True)
        return trials.ended(())
    errors = layer_errors(model, ranges, images[:_SENSITIVITY_IMAGES], score_threshold)
    _print_errors(errors)
    order = tuple(errors)
    count = fewest(len(order), lambda count: trials.passes(order[:count]))
    if count is None:
        print("no choice of layers suffices, short of all of them: build_engine.py --fp16 builds without INT8", flush=True)
        return trials.ended(())
    kept = needed(order[:count], trials.passes)
    print(f"kept out of INT8, {len(kept)} of {len(order)} layers: {', '.join(kept)}", flush=True)
    return trials.ended(kept)


def fewest(total: int, passes: Callable[[int], bool]) -> int | None:
    """Return the least number from 1 to total - 1 that passes, if more of them always does where fewer do; None where none is found."""
    low, high = 0, 1
    while high < total and not passes(high):
        low, high = high, 2 * high
    high = min(high, total)
    while high - low > 1:
        middle = (low + high) // 2
        if passes(middle):
            high = middle
        else:
            low = middle
    return high if high < total else None


def needed(kept: tuple[str, ...], passes: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...]:
    """Return the layers without those that prove dispensable, tried one by one from the least sensitive; the last is known to be needed."""
    for layer in reversed(kept[:-1]):
        fewer = tuple(name for name in kept if name != layer)
        if passes(fewer):
            kept = fewer
    return kept


class _Trials:
    """Writes, measures and remembers INT8 models by the layers they keep."""

    def __init__(
        self, model: onnx.ModelProto, ranges: Mapping[str, float], target: Path, measure: Measure, fp32: Measurement, max_ap_drop: float
    ) -> None:
        self._model, self._ranges, self._target = model, ranges, target
        self._measure, self._fp32, self._max_ap_drop = measure, fp32, max_ap_drop
        self._layers = len(quantizable_layers(model.graph))
        self._measured: dict[tuple[str, ...], Measurement] = {}

    def passes(self, kept: tuple[str, ...]) -> bool:
        """Say whether AP holds with these layers kept."""
        self._write(kept)
        found = self._measured[kept] = self._measure(self._target, "int8")
        drop = self._fp32.metrics.ap - found.metrics.ap
        passed = drop <= self._max_ap_drop
        print(
            f"{len(kept):4d} of {self._layers} layers kept: AP {found.metrics.ap:.4f}, {-100 * drop:+.2f} points, "
            f"{found.milliseconds:.1f} ms a call{', enough' if passed else ''}", flush=True,
        )  # fmt: skip
        return passed

    def ended(self, kept: tuple[str, ...]) -> Found:
        """Write the model that keeps these layers, which has been measured, and return all that was found."""
        self._write(kept)
        best = {self._layers: self._fp32}  # of as many layers kept
        for names, found in self._measured.items():
            if len(names) not in best or found.metrics.ap > best[len(names)].metrics.ap:
                best[len(names)] = found
        trials = (Trial(count, best[count].metrics.ap, best[count].milliseconds) for count in sorted(best))
        return Found(kept, self._fp32, self._measured[kept], tuple(trials))

    def _write(self, kept: tuple[str, ...]) -> None:
        onnx.save(insert_qdq(self._model, find_placement(self._model.graph, kept), self._ranges), self._target)


def _print_errors(errors: Mapping[str, float]) -> None:
    print("what INT8 of one layer alone changes in scores and boxes:")
    for name, error in list(errors.items())[:_SHOWN]:
        print(f"  {error:8.4f}  {name}")
    if rest := list(errors.values())[_SHOWN:]:
        print(f"  {len(rest)} others, each at most {rest[0]:.4f}", flush=True)
