import pytest
import torch

from retinanet_edge.runtime.letterbox import FILL
from retinanet_edge.training.augment import Augmentation, AugmentationSpec, Example
from retinanet_edge.training.mosaic import make_mosaic

HEIGHT, WIDTH = 96, 128
COLOURS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=torch.uint8)
FITTED = AugmentationSpec(strength=0.0)
MOVED = AugmentationSpec(color_jitter=0.0)


def plain(number: int, height: int = HEIGHT, width: int = WIDTH) -> Example:
    """Return an image of one colour, all of which is one object of class `number`."""
    image = COLOURS[number][:, None, None].repeat(1, height, width)
    return image, torch.tensor([[0.0, 0, width, height]]), torch.tensor([number])


def marked(number: int, height: int, width: int, box: tuple[int, int, int, int]) -> Example:
    """Return a black image in which only the object of class `number`, at `box`, has the colour of that number."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    left, top, right, bottom = box
    image[:, top:bottom, left:right] = COLOURS[number][:, None, None]
    return image, torch.tensor([box]).float(), torch.tensor([number])


def mosaic(spec: AugmentationSpec, examples: list[Example], seed: int) -> Example:
    torch.manual_seed(seed)
    return make_mosaic(Augmentation(HEIGHT, WIDTH, spec), examples)


def test_four_images_fill_the_quadrants_about_a_point_that_moves() -> None:
    points = set()
    for seed in range(60):
        image, boxes, classes = mosaic(FITTED, [plain(number) for number in range(4)], seed)
        assert image.shape == (3, HEIGHT, WIDTH)
        assert image.dtype == torch.uint8
        red = (image == COLOURS[0][:, None, None]).all(dim=0)
        y, x = int(red[:, 0].sum()), int(red[0].sum())
        assert 24 <= y <= 72  # a quarter of 96, three quarters
        assert 32 <= x <= 96  # of 128
        points.add((y, x))
        quadrants = [[0, 0, x, y], [x, 0, WIDTH, y], [0, y, x, HEIGHT], [x, y, WIDTH, HEIGHT]]
        kept = [k for k, (left, top, right, bottom) in enumerate(quadrants) if (right - left) * (bottom - top) >= 0.1 * HEIGHT * WIDTH]
        assert boxes.tolist() == [quadrants[k] for k in kept]  # boxes of whole images, cut where their parts end
        assert classes.tolist() == kept
        for number, (left, top, right, bottom) in enumerate(quadrants):
            assert (image[:, top:bottom, left:right] == COLOURS[number][:, None, None]).all()
    assert len(points) > 55
    assert max(y for y, _ in points) - min(y for y, _ in points) > 40
    assert max(x for _, x in points) - min(x for _, x in points) > 50


@pytest.mark.parametrize("spec", [MOVED, AugmentationSpec(strength=0.5, color_jitter=0.0), FITTED])
def test_objects_keep_their_pixels_under_their_boxes(spec: AugmentationSpec) -> None:
    sizes = [(120, 140), (96, 128), (300, 200), (60, 60)]
    examples = [marked(k, h, w, (w // 4, h // 4, w // 4 + w // 2, h // 4 + h // 2)) for k, (h, w) in enumerate(sizes)]
    shown: list[int] = []
    for seed in range(60):
        image, boxes, classes = mosaic(spec, examples, seed)
        for box, number in zip(boxes.round().int().tolist(), classes.tolist(), strict=True):
            painted = (image == COLOURS[number][:, None, None]).all(dim=0)
            left, top, right, bottom = box
            assert painted[top + 2 : bottom - 2, left + 2 : right - 2].all()  # scaling mixes the colours of an edge
            painted[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
            assert not painted.any()
        shown += classes.tolist()
    assert min(shown.count(number) for number in range(4)) > 20


def test_each_part_has_its_own_scale_and_objects_the_sizes_that_they_have_in_single_images() -> None:
    spec = AugmentationSpec(scale_jitter=(0.5, 1.5), color_jitter=0.0)
    examples = [marked(k, HEIGHT, WIDTH, (60, 40, 70, 50)) for k in range(4)]
    scales = []
    for seed in range(100):
        _, boxes, classes = mosaic(spec, examples, seed)
        sides = boxes[:, 2:] - boxes[:, :2]
        whole = (boxes > 0).all(dim=1) & ((sides[:, 0] - sides[:, 1]).abs() < 0.2)  # squares that are cut are squares no longer
        scales.append({int(number): float(side[0]) / 10 for number, side in zip(classes[whole], sides[whole], strict=True)})
    found = torch.tensor([scale for each in scales for scale in each.values()])
    # Sides of 96 are rounded to a pixel: a scale is off by 0.5 / 96 at most.
    assert found.min() >= 0.5 - 0.006
    assert found.max() <= 1.5 + 0.006
    assert found.max() > 1.2
    assert found.min() < 0.6
    pairs = torch.tensor([[each[0], each[3]] for each in scales if {0, 3} <= set(each)])
    assert len(pairs) > 10
    assert (pairs[:, 0] - pairs[:, 1]).abs().mean() > 0.1


def test_tiny_remains_of_objects_are_dropped() -> None:
    counts = set()
    for seed in range(100):
        _, boxes, _ = mosaic(MOVED, [marked(k, HEIGHT, WIDTH, (0, 0, 40, 40)) for k in range(4)], seed)
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (sides >= 2).all()
        assert (sides.prod(dim=1) >= 0.1 * (0.6 * 40 - 0.5) ** 2).all()  # a tenth of the smallest that the object can be
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([WIDTH, HEIGHT])).all()
        counts.add(len(boxes))
    assert len(counts) > 2


def test_the_grey_beside_small_images_keeps_its_colour() -> None:
    spec = AugmentationSpec(scale_jitter=(0.1, 0.1), rand_augment=2)  # 10 x 13 pixels, each in a part of 24 x 32 or more
    for seed in range(20):
        image, _, _ = mosaic(spec, [plain(number) for number in range(4)], seed)
        changed = (image != FILL).any(dim=0).sum()
        assert changed <= 4 * 10 * 13


def test_images_without_objects_make_a_mosaic_without() -> None:
    image, boxes, classes = mosaic(MOVED, [(plain(k)[0], torch.zeros(0, 4), torch.zeros(0).long()) for k in range(4)], 0)
    assert image.shape == (3, HEIGHT, WIDTH)
    assert (boxes.shape, boxes.dtype) == ((0, 4), torch.float32)
    assert (classes.shape, classes.dtype) == ((0,), torch.int64)
