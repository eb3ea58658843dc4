from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.model_card import InputSpec, NmsSpec
from retinanet_edge.training.model import RetinaNet
from retinanet_edge.training.predict import detect_samples


class BrightnessNetwork(nn.Module):
    """Scores its only anchor, 16 x 8 pixels at (24, 20), by the light at the input's top left pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.tensor([[24.0, 20, 16, 8]]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        light = images[:, 0, 0, 0].float() / 255
        return torch.logit(light)[:, None, None], torch.zeros(len(images), 1, 4)


def grey_sample(path: Path, light: int, height: int, width: int) -> Sample:
    cv2.imwrite(str(path), np.full((height, width, 3), light, np.uint8))
    none = np.zeros(0, np.float32)
    return Sample(path, height, width, none.reshape(0, 4), none.astype(np.int64), none.astype(np.bool_), none)


def test_detections_are_in_the_pixels_of_each_image_in_their_order(tmp_path: Path) -> None:
    samples = [grey_sample(tmp_path / f"{i}.png", *what) for i, what in enumerate([(51, 64, 64), (204, 128, 96), (0, 64, 64)])]
    batches: list[None] = []
    network = cast(RetinaNet, BrightnessNetwork())
    found = detect_samples(
        network, samples, InputSpec(64, 64, (0,) * 3, (1,) * 3), NmsSpec(), 2, lambda: batches.append(None)
    )
    # The anchor is (16, 16, 32, 24) in the input. The second image came in at half its size.
    assert [d.xyxy.tolist() for d in found] == [[[16, 16, 32, 24]], [[32, 32, 64, 48]], []]
    np.testing.assert_allclose([found[0].scores[0], found[1].scores[0]], [51 / 255, 204 / 255], rtol=1e-5)
    assert len(batches) == 2


class LevelsNetwork(nn.Module):
    """As many anchors as cells of 64x64 pixels at strides 8 to 128, small and side by side; the later one, the better its score."""

    def __init__(self) -> None:
        super().__init__()
        self.level_sizes = (64, 16, 4, 1, 1)
        self.register_buffer("anchors", torch.stack([torch.arange(86) / 2 + 1] * 2 + [torch.full((86,), 0.25)] * 2, dim=1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.linspace(0, 5, 86)[None, :, None].expand(len(images), 86, 1), torch.zeros(len(images), 86, 4)


def test_top_k_keeps_the_best_of_each_level(tmp_path: Path) -> None:
    samples = [grey_sample(tmp_path / f"{i}.png", 0, 64, 64) for i in range(3)]
    network = cast(RetinaNet, LevelsNetwork())
    spec, nms = InputSpec(64, 64, (0,) * 3, (1,) * 3), NmsSpec(top_k_per_level=2)
    found = detect_samples(network, samples, spec, nms, 2, lambda: None)
    # Levels of 64, 16, 4, 1 and 1 anchors end before 64, 80, 84, 85 and 86.
    kept = [85, 84, 83, 82, 79, 78, 63, 62]
    assert [d.xyxy[:, 0].tolist() for d in found] == [[anchor / 2 + 1 - 0.125 for anchor in kept]] * 3
    np.testing.assert_allclose(found[2].scores, torch.linspace(0, 5, 86).sigmoid()[kept], rtol=1e-5)
    assert [len(d) for d in detect_samples(network, samples, spec, NmsSpec(), 2, lambda: None)] == [86] * 3


def test_no_images_are_no_detections() -> None:
    network = cast(RetinaNet, BrightnessNetwork())
    assert detect_samples(network, [], InputSpec(64, 64, (0,) * 3, (1,) * 3), NmsSpec(), 2, lambda: None) == []
