from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import tv_tensors

from retinanet_edge.training.rand_augment import RandAugment


def noise(low: int = 40, high: int = 200) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(low, high, (3, 24, 40), np.uint8))


def apply(image: torch.Tensor, seed: int, operations: int = 1, magnitude: float = 0.5) -> torch.Tensor:
    torch.manual_seed(seed)
    return RandAugment(operations, magnitude)(tv_tensors.Image(image)).as_subclass(torch.Tensor)


@pytest.mark.parametrize("operations", [1, 3])
def test_no_pixel_moves(operations: int) -> None:
    """Shuffled pixels come out as they would have come out in their places."""
    image, order = noise(), torch.from_numpy(np.random.default_rng(1).permutation(24 * 40))
    for seed in range(60):
        shuffled = apply(image.flatten(1)[:, order].reshape(image.shape), seed, operations)
        expected = apply(image, seed, operations).flatten(1)[:, order].reshape(image.shape)
        assert (shuffled.int() - expected.int()).abs().max() <= operations  # the mean in contrast adds up in another order


def test_two_colours_keep_the_edge_between_them() -> None:
    image = torch.empty(3, 24, 40, dtype=torch.uint8)
    image[:, :, :17] = torch.tensor([180, 60, 70], dtype=torch.uint8)[:, None, None]
    image[:, :, 17:] = torch.tensor([60, 90, 150], dtype=torch.uint8)[:, None, None]
    distinct = 0
    for seed in range(60):
        found = apply(image, seed, operations=3)
        left, right = found[:, :, :17].flatten(1), found[:, :, 17:].flatten(1)
        assert (left == left[:, :1]).all()
        assert (right == right[:, :1]).all()
        distinct += int(not torch.equal(left[:, 0], right[:, 0]))
    assert distinct > 55


def test_each_of_eleven_draws_does_nothing_and_the_others_are_shared_by_six_operations() -> None:
    image = noise()
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    known = {
        "nothing": image.numpy(),
        "autocontrast": np.asarray(ImageOps.autocontrast(picture)).transpose(2, 0, 1),
        "equalize": np.asarray(ImageOps.equalize(picture)).transpose(2, 0, 1),
    }
    seen: Counter[str] = Counter()
    for seed in range(660):
        found = apply(image, seed).numpy().astype(int)
        names = [name for name, expected in known.items() if np.abs(found - expected).max() <= 1]
        seen.update(names[:1] or ["other"])
    # Of 660: 1/11 is 60, 10/11 * 1/6 is 100 and 10/11 * 4/6 is 400. Standard deviations are 7.4, 9.2 and 12.5, limits four of them.
    # A faint contrast or brightness may pass for nothing: 2 * 100 draws, factors from 0.5 to 1.5, of which 1 in 100 changes 1 at most.
    assert 30 < seen["nothing"] < 95
    assert 63 < seen["autocontrast"] < 137
    assert 63 < seen["equalize"] < 137
    assert 350 < seen["other"] < 450


def test_the_magnitude_says_how_far_operations_go() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(3, 1, 1)
    ramp[0] = ramp[0].flip(0)  # colours, which are lost where they fade; each channel fills its range: it needs no auto contrast

    def change(magnitude: float) -> float:
        return float(np.mean([(apply(ramp, seed, 1, magnitude).int() - ramp.int()).abs().float().mean() for seed in range(150)]))

    weak, middle, strong = change(0.0), change(0.5), change(1.0)
    assert weak < 0.35 * middle
    assert middle < 0.8 * strong


def test_no_operations_leave_the_image_alone() -> None:
    assert torch.equal(apply(noise(), 0, operations=0), noise())


@pytest.mark.parametrize("magnitude", [0.0, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (24, 40)])
def test_every_image_stays_an_image_of_bytes(size: tuple[int, int], magnitude: float) -> None:
    for value in (0, 114, 255):
        for seed in range(30):
            torch.manual_seed(seed)
            found = RandAugment(2, magnitude)(tv_tensors.Image(torch.full((3, *size), value, dtype=torch.uint8)))
            assert isinstance(found, tv_tensors.Image)
            assert (found.dtype, tuple(found.shape)) == (torch.uint8, (3, *size))
