import pickle

import numpy as np
import pytest
import torch

from retinanet_edge.runtime.letterbox import FILL, Letterbox
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


@pytest.mark.parametrize("size", [(96, 128), (480, 640), (100, 37), (33, 900), (1333, 999), (50, 60)])
def test_strength_zero_is_the_letterbox_up_to_rounding(size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    box = np.array([[5.0, 7, 25, 31]], np.float32)
    letterbox = Letterbox(*size, 96, 128)
    expected = letterbox.boxes_to_input(box)
    image, boxes, _ = Augmentation(96, 128, 0.0)(torch.from_numpy(frame).permute(2, 0, 1), torch.from_numpy(box), torch.tensor([0]))
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - letterbox.apply(frame)).max() <= 1
    if (expected[:, 2:] - expected[:, :2] >= 2).all():
        np.testing.assert_allclose(boxes, expected, atol=1e-4)
    else:
        assert len(boxes) == 0


def test_the_border_keeps_its_grey_whatever_happens_to_the_colours() -> None:
    augmentation, bordered = Augmentation(96, 96, 1.0), 0
    for seed in range(30):
        torch.manual_seed(seed)
        image, _, _ = augmentation(torch.full((3, 60, 96), 200, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0).long())
        rows = (image == FILL).all(dim=0).all(dim=1)
        content = image[:, ~rows]
        assert 0 < content.shape[1] <= 96  # 60 rows of 96 at 0.6 to 1.6 times their size
        bordered += int(rows.any())
    assert bordered > 20


def test_an_object_of_which_little_is_left_is_no_example_of_it() -> None:
    augmentation, box = Augmentation(64, 64, 1.0), torch.tensor([[0.0, 0, 20, 20]])
    shown = []
    for seed in range(400):
        torch.manual_seed(seed)
        _, kept, _ = augmentation(torch.zeros(3, 64, 64, dtype=torch.uint8), box, torch.tensor([0]))
        sides = kept[:, 2:] - kept[:, :2]
        shown.append(float(sides.prod(dim=1).sum()))
    # Only an enlarged image is cut, in which the whole box has at least 20 * 20 pixels: a tenth of that.
    assert min(area for area in shown if area) >= 40 - 1e-3
    assert min(shown) == 0


def test_large_photographs_are_made_small_before_their_colours_change() -> None:
    seen = []
    augmentation = Augmentation(32, 32, 1.0)
    augmentation._flip_and_colour.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    augmentation(torch.zeros(3, 900, 1200, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0).long())
    assert max(seen[0][-2:]) <= 32


def test_it_can_be_sent_to_processes_that_share_no_memory() -> None:
    sent = pickle.loads(pickle.dumps(Augmentation(32, 48, 0.5)))
    image, _, _ = sent(torch.zeros(3, 50, 40, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0).long())
    assert image.shape == (3, 32, 48)


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
