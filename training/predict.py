"""Detections of a PyTorch network on a data set's images, through the same letterbox and NMS as every other backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from retinanet_edge.runtime.dataset import Sample, read_image
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.level_top_k import keep_best_of_levels
from retinanet_edge.runtime.model_card import InputSpec, NmsSpec
from retinanet_edge.runtime.progress import Progress
from retinanet_edge.training.model import RetinaNet


def detect_samples(
    network: RetinaNet, samples: Sequence[Sample], input_spec: InputSpec, nms: NmsSpec, batch: int, after_batch: Callable[[], None]
) -> list[Detections]:
    """Return the detections of each sample, in the pixels of its image. The network must be in evaluation mode.

    They are those of its model.onnx, with which it shares post-processing and nms.top_k_per_level.
    """
    device = network.anchors.device
    anchors = network.anchors.cpu().numpy()[None]
    found: list[Detections] = []
    with torch.inference_mode(), Progress("evaluating", len(samples)) as progress:
        for images, letterboxes in _letterboxed(samples, input_spec, batch):
            class_logits, box_deltas = (outputs.float().cpu().numpy() for outputs in network(torch.from_numpy(images).to(device)))
            candidates = class_logits, box_deltas, anchors
            if nms.top_k_per_level is not None:
                candidates = keep_best_of_levels(*candidates, network.level_sizes, nms.top_k_per_level)
            kept = efficient_nms(*candidates, nms)
            found += [box.detections_to_frame(d) for d, box in zip(kept, letterboxes, strict=True)]
            progress.advance(len(images))
            after_batch()
    return found


def _letterboxed(
    samples: Sequence[Sample], spec: InputSpec, batch: int
) -> Iterator[tuple[NDArray[np.uint8], list[Letterbox]]]:
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        boxes = [Letterbox(sample.height, sample.width, spec.height, spec.width) for sample in part]
        yield np.stack([box.apply(read_image(sample)) for box, sample in zip(boxes, part, strict=True)]), boxes
