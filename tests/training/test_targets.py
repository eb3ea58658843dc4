import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.ops import box_convert, box_iou

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.anchors import KERAS_ANCHORS, AnchorGenerator
from retinanet_edge.training.box_formats import BOX_FORMATS, convert_boxes
from retinanet_edge.training.targets import BACKGROUND, IGNORED, LabelEncoder, Matcher, decode, encode, match

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


@settings(deadline=None)
@given(st.lists(st.floats(1, 200, width=32), min_size=8, max_size=8))
def test_decoding_is_the_inverse_of_encoding(numbers: list[float]) -> None:
    left, top, width, height, *anchor = numbers
    boxes, anchors = torch.tensor([[left, top, left + width, top + height]]), torch.tensor([anchor])
    assert torch.allclose(decode(encode(boxes, anchors), anchors), boxes, rtol=1e-3, atol=1e-2)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 80
    return torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=generator) * 40], dim=1)


@pytest.mark.parametrize("force_match", [True, False])
@pytest.mark.parametrize(("upper", "lower"), [(0.5, 0.4), (0.7, 0.3), (0.9, 0.1)])
def test_matches_are_torchvisions_at_every_threshold(upper: float, lower: float, force_match: bool) -> None:
    anchors, boxes = random_boxes(300, 1), random_boxes(8, 2)
    theirs = TorchvisionMatcher(upper, lower, allow_low_quality_matches=force_match)
    assert torch.equal(match(anchors, boxes, Matcher(upper, lower, force_match)), theirs(box_iou(boxes, anchors)))


def test_deltas_and_boxes_are_torchvisions() -> None:
    anchors, boxes = random_boxes(50, 3), random_boxes(50, 4)
    centred = box_convert(anchors, "xyxy", "cxcywh")
    coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
    deltas = encode(boxes, centred)
    assert torch.allclose(deltas, coder.encode_single(boxes, anchors), atol=1e-5)
    loud = deltas * 30  # beyond torchvision's bound of the sides
    assert loud[:, 2:].max() > coder.bbox_xform_clip
    assert torch.allclose(decode(loud, centred, coder.bbox_xform_clip), coder.decode_single(loud, anchors), rtol=1e-5, atol=1e-3)


def test_without_force_match_a_box_that_no_anchor_fits_has_none() -> None:
    anchors = torch.tensor([[0.0, 0, 100, 100], [5, 5, 105, 105]])
    box = torch.tensor([[0.0, 0, 10, 10]])
    assert match(anchors, box, Matcher(force_match=False)).tolist() == [BACKGROUND, BACKGROUND]


@pytest.mark.parametrize(("upper", "lower"), [(0.4, 0.5), (0.5, 0.0), (1.1, 0.4), (0.5, -0.1)])
def test_thresholds_out_of_order_are_refused(upper: float, lower: float) -> None:
    with pytest.raises(UserInputError, match="0 < background <= foreground <= 1, got"):
        Matcher(upper, lower)


def test_boxes_and_anchors_without_area_match_nothing_and_stay_finite() -> None:
    flat = torch.tensor([[10.0, 10, 10, 20]])
    assert match(flat, flat, Matcher()).tolist() == [BACKGROUND]  # 0 / 0
    assert torch.isfinite(encode(flat, torch.tensor([[10.0, 10, 4, 4]]))).all()


KERAS_ENCODER = LabelEncoder(KERAS_ANCHORS)


def test_labels_are_those_that_keras_computed() -> None:
    box = torch.tensor([[12.904756546020508, 34.41838836669922, 74.42190551757812, 61.900787353515625]])
    labels = KERAS_ENCODER((128, 192), [box], [torch.tensor([4])])  # copied from KerasCV's own values, there (dy, dx, dh, dw)
    assert labels.classes.shape == (1, 4608)
    assert {number: int((labels.classes == number).sum()) for number in (4, BACKGROUND, IGNORED)} == {4: 26, -1: 4538, -2: 44}
    assert labels.classes[0, [907, 1115, 1118]].tolist() == [IGNORED, 4, 4]
    expected = {1115: [1.8310637, 1.1580535, -0.1914864, -1.3385733], 1118: [1.6933726, 1.8382953, 1.5350324, 0.9719169]}
    for index, deltas in expected.items():
        assert labels.boxes[0, index].tolist() == pytest.approx(deltas, abs=1e-4)


@pytest.mark.parametrize("written", BOX_FORMATS)
def test_labels_do_not_depend_on_the_format(written: str) -> None:
    box = torch.tensor([[12.0, 34, 74, 62]])
    expected = KERAS_ENCODER((128, 192), [box], [torch.tensor([1])])
    found = LabelEncoder(KERAS_ANCHORS, written)((128, 192), [convert_boxes(box, "xyxy", written, (128, 192))], [torch.tensor([1])])
    assert torch.equal(found.classes, expected.classes)
    assert torch.allclose(found.boxes, expected.boxes, atol=1e-3)


def test_an_image_without_boxes_is_background() -> None:
    boxes = [torch.zeros(0, 4), torch.tensor([[12.0, 34, 74, 62]])]
    labels = KERAS_ENCODER((128, 192), boxes, [torch.zeros(0, dtype=torch.int64), torch.tensor([0])])
    assert (labels.classes[0] == BACKGROUND).all()
    assert (labels.classes[1] == 0).any()
    assert (labels.boxes[0] == 0).all()


def test_decoding_the_box_targets_gives_the_boxes_back() -> None:
    box = torch.tensor([[12.0, 34, 74, 62]])
    encoder = LabelEncoder(AnchorGenerator(), box_variance=(0.1, 0.2, 0.3, 0.4))
    labels = encoder((128, 192), [box], [torch.tensor([0])])
    decoded = decode(labels.boxes[0] * torch.tensor(encoder.box_variance), encoder.anchor_generator(128, 192))
    assert torch.allclose(decoded, box.expand_as(decoded), atol=1e-2)


def test_an_impossible_encoder_is_refused() -> None:
    with pytest.raises(UserInputError, match="must be one of xyxy"):
        LabelEncoder(KERAS_ANCHORS, "voc")
    with pytest.raises(UserInputError, match="four positive numbers"):
        LabelEncoder(KERAS_ANCHORS, box_variance=(0.1, 0.1, 0.2, 0.0))
