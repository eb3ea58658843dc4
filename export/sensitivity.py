"""How much each convolution's INT8 alone changes what is detected: the order in which layers are worth keeping out of INT8.

A proxy of AP, which one layer alone changes by less than a validation split can tell apart; benchmarks/int8_sensitivity.py shows that it
ranks layers as AP does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from retinanet_edge.export.placement import find_placement, quantizable_layers
from retinanet_edge.export.quantize import insert_qdq
from retinanet_edge.runtime.progress import Progress

_BOX_FACTOR: Final = 8

Heads = tuple[NDArray[np.float32], NDArray[np.float32]]  # probabilities [A, K] and box_deltas [A, 4] of one image


def layer_errors(
    model: onnx.ModelProto, ranges: Mapping[str, float], images: Sequence[NDArray[np.uint8]], score_threshold: float
) -> dict[str, float]:
    """Return for each layer what INT8 of it alone changes, the largest first; `detection_error` says in which unit.

    ranges: of placement.choosable_tensors. images: letterboxed uint8 [H, W, 3] BGR.
    """
    reference, layers = heads(model, images), quantizable_layers(model.graph)
    errors = {}
    with Progress("sensitivity", len(layers), "layer") as progress:
        for layer in layers:
            others = [name for name in layers if name != layer]
            alone = insert_qdq(model, find_placement(model.graph, others), ranges)
            errors[layer] = detection_error(reference, heads(alone, images), score_threshold)
            progress.advance()
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def detection_error(expected: Sequence[Heads], found: Sequence[Heads], score_threshold: float) -> float:
    """Return how far detections of some images are from the expected ones, 0 for the same: scores, and boxes eight times, added.

    Scores: the differences of those that reach the threshold on either side, as a share of all expected ones. Boxes: |dx| + |dy| + |dw|
    + |dh|, which is about the loss of IoU, as a mean over what is expected, each box by its score. With the factor 8 layers rank most as
    by AP, which asks for the IoU of a box but only for the order of scores.
    """
    score_error = box_error = scores = boxes = 0.0
    for (before, deltas), (after, moved) in zip(expected, found, strict=True):
        seen = (before >= score_threshold) | (after >= score_threshold)
        score_error += float(np.abs(after - before)[seen].sum())
        scores += float(before[before >= score_threshold].sum())
        best = before.max(axis=1)
        weights = np.where(best >= score_threshold, best, 0)
        box_error += float((weights * np.abs(moved - deltas).sum(axis=1)).sum())
        boxes += float(weights.sum())
    return score_error / max(scores, 1.0) + _BOX_FACTOR * box_error / max(boxes, 1.0)


def heads(model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]]) -> list[Heads]:
    """Return what a network gives for each of the images."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = []
    for image in images:
        logits, deltas = session.run(["class_logits", "box_deltas"], {"images": image[None]})
        found.append(((1 + np.tanh(logits[0] / 2)) / 2, deltas[0]))  # the sigmoid, without overflow
    return found
