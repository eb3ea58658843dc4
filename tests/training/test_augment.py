import pytest
import torch

from retinanet_edge.runtime.letterbox import FILL
from retinanet_edge.training.augment import Augmentation


def marked_image(height: int, width: int, box: tuple[int, int, int, int]) -> torch.Tensor:
    """Return a dark image uint8 [3, height, width] whose only white pixels are those of `box`."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    left, top, right, bottom = box
    image[:, top:bottom, left:right] = 255
    return image


def white_extent(image: torch.Tensor) -> torch.Tensor:
    light = image.float().mean(dim=0)
    rows, columns = torch.nonzero(light > (FILL + light.max()) / 2, as_tuple=True)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


@pytest.mark.parametrize("size", [(96, 128), (128, 96), (40, 50), (300, 200)])
def test_strength_zero_only_fits_the_image(size: tuple[int, int]) -> None:
    height, width = size
    box = (width // 4, height // 4, width // 2, height // 2)
    augmentation = Augmentation(96, 128, 0.0)
    image, boxes, classes = augmentation(marked_image(height, width, box), torch.tensor([box]).float(), torch.tensor([7]))
    scale = min(96 / height, 128 / width)
    assert image.shape == (3, 96, 128)
    assert torch.allclose(boxes, torch.tensor([box]) * scale, atol=1.0)
    assert classes.tolist() == [7]
    border_right = image[:, :, round(width * scale) + 1 :]
    border_below = image[:, round(height * scale) + 1 :]
    assert (border_right == FILL).all()
    assert (border_below == FILL).all()


def test_boxes_stay_on_their_pixels() -> None:
    augmentation = Augmentation(96, 128, 1.0)
    box = (40, 30, 90, 80)
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        image, boxes, _ = augmentation(marked_image(120, 140, box), torch.tensor([box]).float(), torch.tensor([0]))
        if len(boxes) and image.max() > FILL + 40:  # else darkened so far that the border outshines the box
            assert torch.allclose(boxes[0], white_extent(image), atol=2.0)
            seen.add(tuple(boxes[0].round().int().tolist()))
    assert len(seen) > 40


def test_boxes_cut_away_leave_with_their_classes() -> None:
    augmentation = Augmentation(64, 64, 1.0)
    boxes = torch.tensor([[0.0, 0, 6, 6], [58, 58, 64, 64], [0, 58, 6, 64], [58, 0, 64, 6]])
    counts = set()
    for seed in range(60):
        torch.manual_seed(seed)
        _, kept, classes = augmentation(torch.zeros(3, 64, 64, dtype=torch.uint8), boxes, torch.arange(4))
        assert len(kept) == len(classes)
        assert (kept[:, 2:] - kept[:, :2] >= 2).all()
        assert (kept >= 0).all()
        assert (kept <= 64).all()
        counts.add(len(kept))
    assert len(counts) > 1


def test_mirroring_can_be_turned_off() -> None:
    augmentation = Augmentation(64, 64, 0.2, flip=False)
    for seed in range(20):
        torch.manual_seed(seed)
        _, boxes, _ = augmentation(marked_image(64, 64, (0, 20, 20, 40)), torch.tensor([[0.0, 20, 20, 40]]), torch.tensor([0]))
        assert boxes[0, 0] < 16


def test_an_image_without_boxes_passes() -> None:
    image, boxes, classes = Augmentation(64, 64, 1.0)(torch.zeros(3, 50, 70, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0).long())
    assert image.shape == (3, 64, 64)
    assert boxes.shape == (0, 4)
    assert classes.shape == (0,)
