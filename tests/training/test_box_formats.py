import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.box_formats import BOX_FORMATS, check_box_format, convert_boxes

IMAGE = (100, 200)  # height, width
# One box in every format: left 20, top 10, right 60, bottom 40 in an image 200 wide and 100 high.
WRITTEN = {
    "xyxy": [20, 10, 60, 40],
    "rel_xyxy": [0.1, 0.1, 0.3, 0.4],
    "xywh": [20, 10, 40, 30],
    "rel_xywh": [0.1, 0.1, 0.2, 0.3],
    "center_xywh": [40, 25, 40, 30],
    "center_yxhw": [25, 40, 30, 40],
    "yxyx": [10, 20, 40, 60],
    "rel_yxyx": [0.1, 0.1, 0.4, 0.3],
}


@pytest.mark.parametrize("source", BOX_FORMATS)
@pytest.mark.parametrize("target", BOX_FORMATS)
def test_every_format_becomes_every_other(source: str, target: str) -> None:
    found = convert_boxes(torch.tensor([WRITTEN[source]]), source.upper(), target.title(), IMAGE)
    assert torch.allclose(found, torch.tensor([WRITTEN[target]], dtype=torch.float32), atol=1e-4)


@settings(deadline=None)
@given(
    st.sampled_from(BOX_FORMATS),
    st.sampled_from(BOX_FORMATS),
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    st.lists(st.tuples(*[st.floats(0, 1000)] * 4), max_size=4),
)
def test_there_and_back_is_the_same(
    first: str, second: str, image: tuple[int, int], rows: list[tuple[float, float, float, float]]
) -> None:
    xyxy = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64).reshape(-1, 4)
    boxes = convert_boxes(xyxy, "xyxy", first, image)
    back = convert_boxes(convert_boxes(boxes, first, second, image), second, first, image)
    assert back.shape == boxes.shape
    assert torch.allclose(back, boxes, rtol=1e-9, atol=1e-9)


def test_leading_dimensions_stay_and_integers_do_not_lose_halves() -> None:
    found = convert_boxes(torch.tensor([[[0, 0, 3, 5]]]), "xyxy", "center_xywh")
    assert found.tolist() == [[[1.5, 2.5, 3, 5]]]


def test_between_relative_formats_no_image_is_needed() -> None:
    found = convert_boxes(torch.tensor([WRITTEN["rel_xywh"]]), "rel_xywh", "rel_yxyx")
    assert torch.allclose(found, torch.tensor([WRITTEN["rel_yxyx"]]))


@pytest.mark.parametrize(("source", "target"), [("rel_xyxy", "xywh"), ("yxyx", "rel_yxyx")])
def test_relative_boxes_need_the_image_shape(source: str, target: str) -> None:
    with pytest.raises(UserInputError, match=r"only with an image shape: pass \(height, width\)"):
        convert_boxes(torch.zeros(1, 4), source, target)


def test_an_unknown_format_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserInputError, match=r"must be one of xyxy, rel_xyxy, xywh, rel_xywh, .*, rel_yxyx, got coco"):
        check_box_format("coco")
    assert check_box_format("CENTER_xyWH") == "center_xywh"


@pytest.mark.parametrize("shape", [(), (5,), (3, 5)])
def test_boxes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserInputError, match="four columns"):
        convert_boxes(torch.zeros(shape), "xyxy", "xywh")


def test_an_image_without_size_is_refused() -> None:
    with pytest.raises(UserInputError, match="height, width"):
        convert_boxes(torch.zeros(1, 4), "xyxy", "rel_xyxy", (0, 10))
