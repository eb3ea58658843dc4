"""How far an exported graph is from PyTorch, on real images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from retinanet_edge.runtime.dataset import Sample, read_image
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.model_card import InputSpec
from retinanet_edge.training.model import RetinaNet


def max_difference(network: RetinaNet, model: Path, samples: Sequence[Sample], spec: InputSpec) -> float:
    """Return the largest absolute difference over class_logits and box_deltas, between PyTorch and ONNX Runtime, image by image.

    Anchors must agree exactly. The images also run as one batch, so that a batch frozen into the graph is found.
    """
    images = np.stack([
        Letterbox(sample.height, sample.width, spec.height, spec.width).apply(read_image(sample)) for sample in samples
    ])  # fmt: skip
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    batched = _run(session, images)
    with torch.inference_mode():
        expected = [[output.numpy() for output in network(torch.from_numpy(image[None]))] for image in images]
    differences = [0.0]
    for index, (logits, deltas) in enumerate(expected):
        for class_logits, box_deltas, anchors in (_run(session, images[index : index + 1]), _part(batched, index)):
            assert np.array_equal(anchors[0], network.anchors.numpy()), "anchors are constants of both"
            differences += [float(np.abs(class_logits - logits).max()), float(np.abs(box_deltas - deltas).max())]
    return float(np.max(differences))  # NaN if one is, unlike max()


def _run(session: onnxruntime.InferenceSession, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    outputs: list[NDArray[np.float32]] = session.run(["class_logits", "box_deltas", "anchors"], {"images": images})
    return outputs


def _part(outputs: list[NDArray[np.float32]], index: int) -> list[NDArray[np.float32]]:
    class_logits, box_deltas, anchors = outputs
    return [class_logits[index : index + 1], box_deltas[index : index + 1], anchors]
