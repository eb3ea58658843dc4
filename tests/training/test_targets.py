import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.ops import box_iou

from retinanet_edge.training.targets import BACKGROUND, IGNORED, Matcher, decode, encode, match

MATCHER = Matcher(foreground_iou=0.5, background_iou=0.4)


def test_iou_decides_between_object_ignored_and_background() -> None:
    box = torch.tensor([[0.0, 0, 100, 100]])
    # Same left, top and height: IoU is the ratio of the widths. The first anchor fits best, so none of the others is rescued.
    anchors = torch.tensor([[0.0, 0, 90, 100], [0, 0, 50, 100], [0, 0, 45, 100], [0, 0, 40, 100], [0, 0, 39, 100]])
    assert match(anchors, box, MATCHER).tolist() == [0, 0, IGNORED, IGNORED, BACKGROUND]


def test_a_box_that_no_anchor_fits_takes_its_best_anchors() -> None:
    box = torch.tensor([[0.0, 0, 10, 10]])
    anchors = torch.tensor([[0.0, 0, 100, 100], [5, 5, 105, 105], [200, 200, 300, 300]])  # IoU 0.01, 25 / 10075, 0
    assert match(anchors, box, MATCHER).tolist() == [0, BACKGROUND, BACKGROUND]


def test_a_box_outside_every_anchor_rescues_none() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    assert match(anchors, torch.tensor([[50.0, 50, 60, 60]]), MATCHER).tolist() == [BACKGROUND]


def test_no_boxes_make_everything_background() -> None:
    assert match(torch.rand(5, 4), torch.zeros(0, 4), MATCHER).tolist() == [BACKGROUND] * 5


def test_matches_are_torchvisions() -> None:
    theirs = TorchvisionMatcher(0.5, 0.4, allow_low_quality_matches=True)
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        corners = torch.rand(200, 2, generator=generator) * 80
        anchors = torch.cat([corners, corners + 5 + torch.rand(200, 2, generator=generator) * 40], dim=1)
        boxes = anchors[torch.randperm(200, generator=generator)[:6]] + torch.rand(6, 4, generator=generator) * 6
        assert torch.equal(match(anchors, boxes, MATCHER), theirs(box_iou(boxes, anchors)))


def test_encoding_by_hand() -> None:
    anchor = torch.tensor([[50.0, 50, 20, 40]])
    # Box centre (60, 40), size 40 x 20: dx = 10 / 20, dy = -10 / 40, dw = ln 2, dh = -ln 2.
    expected = torch.tensor([[0.5, -0.25, 0.6931472, -0.6931472]])
    assert torch.allclose(encode(torch.tensor([[40.0, 30, 80, 50]]), anchor), expected)


@given(st.lists(st.floats(1, 200, width=32), min_size=8, max_size=8))
def test_decoding_is_the_inverse_of_encoding(numbers: list[float]) -> None:
    left, top, width, height, *anchor = numbers
    boxes, anchors = torch.tensor([[left, top, left + width, top + height]]), torch.tensor([anchor])
    assert torch.allclose(decode(encode(boxes, anchors), anchors), boxes, rtol=1e-3, atol=1e-2)
