"""What brings AP of INT8 back at the least cost: equalized channels, which cost nothing, then the fewest layers kept out of INT8.

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
from retinanet_edge.export.equalization import equalized, is_same_function, pairs
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
    """AP, 0..1, and milliseconds of a call on the CPU with some of the layers kept out of INT8, with equalized channels or without."""

    kept: int
    ap: float
    milliseconds: float
    equalized: bool = False


@dataclass(frozen=True)
class Found:
    """What to make, what FP32 and that INT8 model measure, and the trials.

    kept: layers, none where none need be or no choice of them suffices. equalized: whether channels are. trials: the best of each number
    of layers kept, by that number, up to all of them, which is FP32; with none kept also the one that was not gone on with, first.
    """

    kept: tuple[str, ...]
    equalized: bool
    fp32: Measurement
    int8: Measurement
    trials: tuple[Trial, ...]

    @property
    def chosen(self) -> Trial:
        """The trial of what is to be made."""
        return Trial(len(self.kept), self.int8.metrics.ap, self.int8.milliseconds, self.equalized)


def search(
    source: Path, target: Path, images: Sequence[NDArray[np.uint8]], method: CalibrationMethod, measure: Measure,
    max_ap_drop: float, score_threshold: float, *, equalize: bool = True,
) -> Found:  # fmt: skip
    """Write `source`, the portable FP32 graph, with Q/DQ to `target`; as quantize would with what is found.

    max_ap_drop: AP, 0..1, that INT8 may lose. score_threshold: from which a detection counts. equalize: try that. Raises UserInputError
    as measure_activations does.
    """
    model = onnx.load(source)
    plain = _calibrated(model, images, method, equalized=False)
    trials = _Trials(target, measure, measure(source, "fp32"), max_ap_drop, len(quantizable_layers(model.graph)))
    if trials.passes(plain, ()):
        print("no layer need be kept out of INT8", flush=True)
        return trials.ended(plain, ())
    graph = plain
    if equalize and (other := _equalized(plain, images, method)) is not None:
        if trials.passes(other, ()):
            print("with equalized channels no layer need be kept out of INT8", flush=True)
            return trials.ended(other, ())
        graph = other if trials.ap(other) > trials.ap(plain) else plain
        print(f"going on {'with' if graph.equalized else 'without'} equalized channels", flush=True)
    errors = layer_errors(graph.model, graph.ranges, images[:_SENSITIVITY_IMAGES], score_threshold)
    _print_errors(errors)
    order = tuple(errors)
    count = fewest(len(order), lambda count: trials.passes(graph, order[:count]))
    if count is None:
        print("no choice of layers suffices, short of all of them: build_engine.py --fp16 builds without INT8", flush=True)
        return trials.ended(graph, ())
    kept = needed(order[:count], lambda kept: trials.passes(graph, kept))
    print(f"kept out of INT8, {len(kept)} of {len(order)} layers: {', '.join(kept)}", flush=True)
    return trials.ended(graph, kept)


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


@dataclass(frozen=True)
class _Graph:
    """The FP32 graph that is made INT8, with the reach of each tensor that can be."""

    model: onnx.ModelProto
    ranges: Mapping[str, float]
    equalized: bool


def _calibrated(model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]], method: CalibrationMethod, *, equalized: bool) -> _Graph:
    return _Graph(model, activation_ranges(model, choosable_tensors(model.graph), images, method), equalized)


def _equalized(plain: _Graph, images: Sequence[NDArray[np.uint8]], method: CalibrationMethod) -> _Graph | None:
    """Return the graph with equalized channels, None, after a line that says why, where it has none or is another network then."""
    if not pairs(plain.model.graph):
        print("no convolutions to equalize: none is alone read by another, at once or through a ReLU", flush=True)
        return None
    model = equalized(plain.model, images)
    if not is_same_function(plain.model, model, images):
        print("not equalizing channels: that would change what FP32 gives", flush=True)
        return None
    return _calibrated(model, images, method, equalized=True)


class _Trials:
    """Writes, measures and remembers INT8 models by their graph and the layers that they keep."""

    def __init__(self, target: Path, measure: Measure, fp32: Measurement, max_ap_drop: float, layers: int) -> None:
        self._target, self._measure, self._fp32, self._max_ap_drop, self._layers = target, measure, fp32, max_ap_drop, layers
        self._measured: dict[tuple[bool, tuple[str, ...]], Measurement] = {}

    def passes(self, graph: _Graph, kept: tuple[str, ...]) -> bool:
        """Say whether AP holds with these layers kept."""
        self._write(graph, kept)
        found = self._measured[graph.equalized, kept] = self._measure(self._target, "int8")
        drop = self._fp32.metrics.ap - found.metrics.ap
        passed = drop <= self._max_ap_drop
        print(
            f"{len(kept):4d} of {self._layers} layers kept{', equalized' if graph.equalized else ''}: AP {found.metrics.ap:.4f}, "
            f"{-100 * drop:+.2f} points, {found.milliseconds:.1f} ms a call{', enough' if passed else ''}", flush=True,
        )  # fmt: skip
        return passed

    def ap(self, graph: _Graph) -> float:
        """Return AP of a graph that has been measured with no layer kept."""
        return self._measured[graph.equalized, ()].metrics.ap

    def ended(self, graph: _Graph, kept: tuple[str, ...]) -> Found:
        """Write the model that keeps these layers, which has been measured, and return all that was found."""
        self._write(graph, kept)
        best: dict[tuple[int, bool], Trial] = {}
        for (scaled, names), found in self._measured.items():
            trial = Trial(len(names), found.metrics.ap, found.milliseconds, scaled)
            key = (trial.kept, scaled == graph.equalized)  # what was gone on with comes second
            best[key] = max(best.get(key, trial), trial, key=lambda trial: trial.ap)
        fp32 = Trial(self._layers, self._fp32.metrics.ap, self._fp32.milliseconds)
        trials = (*(best[key] for key in sorted(best)), fp32)
        return Found(kept, graph.equalized, self._fp32, self._measured[graph.equalized, kept], trials)

    def _write(self, graph: _Graph, kept: tuple[str, ...]) -> None:
        onnx.save(insert_qdq(graph.model, find_placement(graph.model.graph, kept), graph.ranges), self._target)


def _print_errors(errors: Mapping[str, float]) -> None:
    print("what INT8 of one layer alone changes in scores and boxes:")
    for name, error in list(errors.items())[:_SHOWN]:
        print(f"  {error:8.4f}  {name}")
    if rest := list(errors.values())[_SHOWN:]:
        print(f"  {len(rest)} others, each at most {rest[0]:.4f}", flush=True)
