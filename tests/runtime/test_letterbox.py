import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet_edge.runtime.letterbox import Letterbox

sizes = st.integers(1, 4000)


@pytest.mark.parametrize(
    ("frame", "net", "content"),
    [
        ((480, 640), (640, 640), (480, 640)),  # scale min(640/480, 640/640) = 1
        ((1080, 1920), (640, 640), (360, 640)),  # scale 1/3
        ((1920, 1080), (640, 640), (640, 360)),
        ((720, 1280), (384, 640), (360, 640)),  # scale min(0.533, 0.5)
        ((100, 300), (640, 640), (213, 640)),  # scale 2.1333: 213.33 rows
        ((333, 500), (320, 320), (213, 320)),  # scale 0.64: 213.12 rows
        ((500, 375), (300, 400), (300, 225)),  # scale 0.6
        ((2, 4000), (640, 640), (1, 640)),  # scale 0.16: 0.32 rows, but never none
        ((4000, 1), (64, 64), (64, 1)),
        ((1, 1), (64, 96), (64, 64)),
    ],
)
def test_content_size(frame, net, content):
    boxing = Letterbox(*frame, *net)
    assert (boxing.content_height, boxing.content_width) == content


@given(sizes, sizes, st.integers(1, 1500), st.integers(1, 1500))
def test_content_fits_and_touches_one_side(height, width, net_height, net_width):
    boxing = Letterbox(height, width, net_height, net_width)
    assert 1 <= boxing.content_height <= net_height
    assert 1 <= boxing.content_width <= net_width
    assert boxing.content_height == net_height or boxing.content_width == net_width


def test_the_frame_lies_top_left_and_the_rest_is_114():
    frame = np.full((20, 40, 3), 7, np.uint8)
    image = Letterbox(20, 40, 32, 32).apply(frame)  # scale 0.8: 16 x 32
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    assert (image[:16] == 7).all()
    assert (image[16:] == 114).all()


def test_a_tall_frame_is_filled_at_its_right():
    image = Letterbox(40, 20, 32, 32).apply(np.full((40, 20, 3), 7, np.uint8))
    assert (image[:, :16] == 7).all()
    assert (image[:, 16:] == 114).all()


def test_a_frame_of_the_input_size_passes_unchanged():
    frame = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    np.testing.assert_array_equal(Letterbox(24, 32, 24, 32).apply(frame), frame)


def test_enlarging_by_two_interpolates_linearly():
    # Pixel centres of the input lie at -0.25, 0.25, 0.75, 1.25 of the frame's: 0, 25, 75, 100 between 0 and 100.
    frame = np.zeros((1, 2, 3), np.uint8)
    frame[0, 1] = 100
    image = Letterbox(1, 2, 2, 4).apply(frame)
    assert image[:, :, 0].tolist() == [[0, 25, 75, 100]] * 2


def test_channels_keep_their_order():
    frame = np.tile(np.array([10, 20, 30], np.uint8), (9, 15, 1))
    assert Letterbox(9, 15, 32, 32).apply(frame)[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 1000), (1000, 3)])
def test_frames_of_a_pixel_or_a_line(shape):
    image = Letterbox(*shape, 64, 96).apply(np.full((*shape, 3), 200, np.uint8))
    boxing = Letterbox(*shape, 64, 96)
    assert (image[: boxing.content_height, : boxing.content_width] == 200).all()
    assert (image == 200).all(axis=2).sum() == boxing.content_height * boxing.content_width


def test_the_buffer_is_written_in_place_and_wholly():
    buffer = np.full((2, 32, 48, 3), 99, np.uint8)
    frame = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    boxing = Letterbox(30, 20, 32, 48)
    assert boxing.apply(frame, out=buffer[1]).base is buffer
    np.testing.assert_array_equal(buffer[1], boxing.apply(frame))
    assert (buffer[0] == 99).all()


def test_the_frame_is_not_changed_and_may_be_a_view():
    whole = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    view = whole[5:35, 10:50:2]
    before = view.copy()
    image = Letterbox(30, 20, 64, 64).apply(view)
    np.testing.assert_array_equal(view, before)
    np.testing.assert_array_equal(image, Letterbox(30, 20, 64, 64).apply(before))


@pytest.mark.parametrize("shape", [(40, 20, 3), (20, 40), (20, 40, 4)])
def test_refuses_a_frame_of_another_size(shape):
    with pytest.raises(ValueError, match=r"frame must be \[20, 40, 3\], got \["):
        Letterbox(20, 40, 32, 32).apply(np.zeros(shape, np.uint8))


def test_refuses_a_buffer_of_another_size():
    with pytest.raises(ValueError, match=r"out must be \[32, 32, 3\], got \[2, 32, 32, 3\]"):
        Letterbox(20, 40, 32, 32).apply(np.zeros((20, 40, 3), np.uint8), out=np.zeros((2, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("sizes", [(0, 5, 5, 5), (5, 0, 5, 5), (5, 5, 0, 5), (5, 5, 5, -1)])
def test_refuses_sizes_without_area(sizes):
    with pytest.raises(ValueError, match="at least one pixel"):
        Letterbox(*sizes)


def test_boxes_move_as_the_pixels_do():
    # 1080 x 1920 in 640 x 640: 1/3 both ways.
    boxing = Letterbox(1080, 1920, 640, 640)
    np.testing.assert_allclose(boxing.boxes_to_input(np.array([[300, 600, 960, 1080]])), [[100, 200, 320, 360]], rtol=1e-6)
    np.testing.assert_allclose(boxing.boxes_to_frame(np.array([[100, 200, 320, 360]])), [[300, 600, 960, 1080]], rtol=1e-6)


def test_boxes_use_the_scale_of_each_axis_after_rounding():
    # 100 x 300 in 640 x 640 becomes 213 x 640: 2.13 down and 2.1333 across.
    boxes = Letterbox(100, 300, 640, 640).boxes_to_input(np.array([[0, 0, 300, 100]]))
    np.testing.assert_allclose(boxes, [[0, 0, 640, 213]], rtol=1e-6)


def test_boxes_in_the_filling_are_clipped_to_the_frame():
    boxes = Letterbox(20, 40, 32, 32).boxes_to_frame(np.array([[-5, -5, 50, 50]]))
    assert boxes.tolist() == [[0, 0, 40, 20]]


def test_no_boxes_stay_no_boxes():
    boxing = Letterbox(20, 40, 32, 32)
    for boxes in (boxing.boxes_to_input(np.zeros((0, 4))), boxing.boxes_to_frame(np.zeros((0, 4)))):
        assert boxes.shape == (0, 4)
        assert boxes.dtype == np.float32


@given(sizes, sizes, st.integers(1, 1500), st.integers(1, 1500), st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
@settings(max_examples=300)
def test_boxes_come_back_where_they_were(height, width, net_height, net_width, corners):
    x1, x2, y1, y2 = *sorted(corners[:2]), *sorted(corners[2:])
    boxes = np.array([[x1 * width, y1 * height, x2 * width, y2 * height]], np.float32)
    boxing = Letterbox(height, width, net_height, net_width)
    back = boxing.boxes_to_frame(boxing.boxes_to_input(boxes))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, boxes, rtol=1e-5, atol=1e-3)
