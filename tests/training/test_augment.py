import pickle
from typing import Any

import numpy as np
import pytest
import torch

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.letterbox import FILL, Letterbox
from retinanet_edge.training.augment import Augmentation, AugmentationSpec

FULL, FITTED = AugmentationSpec(), AugmentationSpec(strength=0.0)
EVERYTHING = AugmentationSpec(rand_augment=2, mosaic=0.5)
NO_OBJECTS = (torch.zeros(0, 4), torch.zeros(0).long())


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
    augmentation = Augmentation(96, 128, FITTED)
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
    image, boxes, _ = Augmentation(96, 128, FITTED)(torch.from_numpy(frame).permute(2, 0, 1), torch.from_numpy(box), torch.tensor([0]))
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - letterbox.apply(frame)).max() <= 1
    if (expected[:, 2:] - expected[:, :2] >= 2).all():
        np.testing.assert_allclose(boxes, expected, atol=1e-4)
    else:
        assert len(boxes) == 0


@pytest.mark.parametrize("spec", [FULL, EVERYTHING])
def test_the_border_keeps_its_grey_whatever_happens_to_the_colours(spec: AugmentationSpec) -> None:
    augmentation, bordered = Augmentation(96, 96, spec), 0
    for seed in range(30):
        torch.manual_seed(seed)
        image, _, _ = augmentation(torch.full((3, 60, 96), 200, dtype=torch.uint8), *NO_OBJECTS)
        rows = (image == FILL).all(dim=0).all(dim=1)
        content = image[:, ~rows]
        assert 0 < content.shape[1] <= 96  # 60 rows of 96 at 0.6 to 1.6 times their size
        bordered += int(rows.any())
    assert bordered > 20


def test_an_object_of_which_little_is_left_is_no_example_of_it() -> None:
    augmentation, box = Augmentation(64, 64, FULL), torch.tensor([[0.0, 0, 20, 20]])
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
    augmentation = Augmentation(32, 32, FULL)
    augmentation._flip_and_colour.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    augmentation(torch.zeros(3, 900, 1200, dtype=torch.uint8), *NO_OBJECTS)
    assert max(seen[0][-2:]) <= 32


def test_it_can_be_sent_to_processes_that_share_no_memory() -> None:
    sent = pickle.loads(pickle.dumps(Augmentation(32, 48, EVERYTHING)))
    image, _, _ = sent(torch.zeros(3, 50, 40, dtype=torch.uint8), *NO_OBJECTS)
    assert image.shape == (3, 32, 48)


def test_boxes_stay_on_their_pixels() -> None:
    augmentation = Augmentation(96, 128, FULL)
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
    augmentation = Augmentation(64, 64, FULL)
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
    augmentation = Augmentation(64, 64, AugmentationSpec(strength=0.2, flip=False))
    for seed in range(20):
        torch.manual_seed(seed)
        _, boxes, _ = augmentation(marked_image(64, 64, (0, 20, 20, 40)), torch.tensor([[0.0, 20, 20, 40]]), torch.tensor([0]))
        assert boxes[0, 0] < 16


def test_an_image_without_boxes_passes() -> None:
    image, boxes, classes = Augmentation(64, 64, FULL)(torch.zeros(3, 50, 70, dtype=torch.uint8), *NO_OBJECTS)
    assert image.shape == (3, 64, 64)
    assert boxes.shape == (0, 4)
    assert classes.shape == (0,)


@pytest.mark.parametrize("size", [(96, 128), (48, 64), (240, 320)])
@pytest.mark.parametrize(("strength", "low", "high"), [(1.0, 0.5, 0.8), (0.5, 0.75, 0.9)])  # 1 - 0.5 * 0.5 = 0.75, 1 - 0.5 * 0.2 = 0.9
def test_scales_stay_in_their_range_and_squares_stay_squares(size: tuple[int, int], strength: float, low: float, high: float) -> None:
    augmentation = Augmentation(96, 128, AugmentationSpec(strength=strength, scale_jitter=(0.5, 0.8)))
    side = size[0] / 4  # 24 pixels where the image fits the input
    box = torch.tensor([[size[1] / 4, size[0] / 3, size[1] / 4 + side, size[0] / 3 + side]])
    sides = []
    for seed in range(60):
        torch.manual_seed(seed)
        _, boxes, _ = augmentation(torch.zeros(3, *size, dtype=torch.uint8), box, torch.tensor([0]))
        sides.append(boxes[0, 2:] - boxes[0, :2])
    widths, heights = torch.stack(sides).unbind(dim=1)
    # The whole image is rounded to pixels, by half of one in 96 or 128 at most: 24 * 0.5 / 96 = 0.125, 24 * 0.5 / 128 = 0.094.
    assert heights.min() >= 24 * low - 0.13
    assert heights.max() <= 24 * high + 0.13
    assert (widths - heights).abs().max() <= 0.125 + 0.094 + 1e-3
    assert heights.max() - heights.min() > 0.8 * 24 * (high - low)


def test_a_smaller_image_lies_anywhere_in_the_input() -> None:
    augmentation = Augmentation(64, 64, AugmentationSpec(flip=False, scale_jitter=(0.5, 0.5), color_jitter=0.0))
    corners = []
    for seed in range(100):
        torch.manual_seed(seed)
        image, _, _ = augmentation(torch.full((3, 64, 64), 200, dtype=torch.uint8), *NO_OBJECTS)
        assert (image == 200).sum() == 3 * 32 * 32
        corners.append(white_extent(image)[:2])
    assert torch.stack(corners).min(dim=0).values.tolist() <= [3, 3]
    assert torch.stack(corners).max(dim=0).values.tolist() >= [29, 29]


def test_mirroring_alone_gives_the_image_or_its_mirror_image() -> None:
    augmentation = Augmentation(96, 128, AugmentationSpec(scale_jitter=(1.0, 1.0), color_jitter=0.0))
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 96, 128), np.uint8))
    mirrored = 0
    for seed in range(100):
        torch.manual_seed(seed)
        found, boxes, _ = augmentation(image, torch.tensor([[10.0, 20, 40, 70]]), torch.tensor([0]))
        if torch.equal(found, image.flip(2)):
            mirrored += 1
            assert boxes.tolist() == [[88, 20, 118, 70]]  # 128 - 40, 128 - 10
        else:
            assert torch.equal(found, image)
            assert boxes.tolist() == [[10, 20, 40, 70]]
    assert 30 < mirrored < 70  # four standard deviations of 5


def test_rand_augment_works_at_any_strength_and_leaves_boxes_where_they_are() -> None:
    augmentation = Augmentation(96, 128, AugmentationSpec(strength=0.0, rand_augment=3))
    image = torch.from_numpy(np.random.default_rng(0).integers(40, 200, (3, 96, 128), np.uint8))
    changed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        found, boxes, _ = augmentation(image, torch.tensor([[10.0, 20, 40, 70]]), torch.tensor([0]))
        changed += int(not torch.equal(found, image))
        assert boxes.tolist() == [[10, 20, 40, 70]]
    assert changed > 15


@pytest.mark.parametrize(("epoch", "last", "share"), [
    (1, 10, 0.5), (7, 10, 0.5), (8, 10, 0.0), (10, 10, 0.0), (1, None, 0.5), (1, 3, 0.0), (1, 4, 0.5),
])  # fmt: skip
def test_mosaics_end_before_the_last_epochs(epoch: int, last: int | None, share: float) -> None:
    assert AugmentationSpec(mosaic=0.5, mosaic_off_epochs=3).mosaic_share(epoch, last) == share


def test_mosaics_that_would_never_be_made_are_refused() -> None:
    AugmentationSpec(mosaic=0.5, mosaic_off_epochs=3).check_epochs(4)
    AugmentationSpec(mosaic=0.0, mosaic_off_epochs=3).check_epochs(1)
    with pytest.raises(UserInputError, match=r"--mosaic-off-epochs must be less than --epochs 3, got 3: lower it"):
        AugmentationSpec(mosaic=0.5, mosaic_off_epochs=3).check_epochs(3)


@pytest.mark.parametrize(("changes", "message"), [
    ({"strength": 1.5}, r"--augment must be from 0 to 1, got 1\.5"),
    ({"strength": float("nan")}, "--augment must be from 0 to 1, got nan"),
    ({"color_jitter": -0.1}, r"--color-jitter must be from 0 to 1, got -0\.1"),
    ({"rand_augment": -1}, "--rand-augment must be 0 or more, got -1"),
    ({"rand_magnitude": 5.0}, "--rand-magnitude must be from 0 to 1, got 5"),
    ({"mosaic": 2.0}, "--mosaic must be from 0 to 1, got 2"),
    ({"mosaic_off_epochs": -1}, "--mosaic-off-epochs must be 0 or more, got -1"),
    ({"scale_jitter": (1.25, 0.8)}, r"--scale-jitter must be LOW,HIGH .* got 1\.25,0\.8"),
    ({"scale_jitter": (0.0, 1.0)}, "got 0,1"),
    ({"scale_jitter": (1.0, 40.0)}, "HIGH <= 4, as 0.8,1.25, got 1,40"),
    ({"scale_jitter": (0.8,)}, "got 0.8"),
    ({"scale_jitter": (float("nan"), 1.0)}, "got nan,1"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_its_flag(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        AugmentationSpec(**changes)
