import numpy as np

from retinanet_edge.runtime.camera import RestartLimits
from retinanet_edge.runtime.staleness import Staleness

GREY = np.full((40, 60, 3), 90, np.uint8)


def altered(row, column):
    """GREY but for one value."""
    image = GREY.copy()
    image[row, column, 0] += 1
    return image


def test_silence_counts_from_the_connection_and_then_from_the_last_image():
    staleness = Staleness(RestartLimits(stale_s=10), started_s=100)
    assert (staleness.patience_s(104), staleness.reason(109.9), staleness.began) == (6, None, False)
    assert staleness.reason(110) == "gave no image for 10 s"
    staleness.add(GREY, 105)
    assert (staleness.patience_s(108), staleness.reason(114), staleness.began) == (7, None, True)
    assert staleness.reason(115) == "gave no image for 10 s"


def test_equal_images_in_a_row_are_counted():
    staleness = Staleness(RestartLimits(identical_frames=3), 0)
    news = [staleness.add(image, 1) for image in (GREY, GREY.copy(), altered(0, 0), GREY, GREY.copy())]
    assert news == [True, False, True, True, False]
    assert not staleness.repeats_itself
    staleness.add(GREY.copy(), 1)  # the third
    assert staleness.reason(1) == "gave the same image 3 times in a row"


def test_one_value_beside_the_sampled_points_is_a_difference():
    staleness = Staleness(RestartLimits(identical_frames=2), 0)
    assert [staleness.add(image, 1) for image in (GREY, altered(17, 5), altered(39, 59))] == [True, True, True]
    assert not staleness.repeats_itself


def test_another_size_is_another_image():
    staleness = Staleness(RestartLimits(identical_frames=2), 0)
    assert [staleness.add(image, 1) for image in (GREY, GREY[:32], GREY[:33, :40])] == [True, True, True]


def test_zero_allows_any_number():
    staleness = Staleness(RestartLimits(identical_frames=0), 0)
    assert all(staleness.add(GREY, 1) for _ in range(500))
    assert not staleness.repeats_itself


def test_healthy_is_a_time_of_new_images():
    staleness = Staleness(RestartLimits(healthy_s=10, identical_frames=100), 0)
    for now_s in (5, 9, 14.9):
        staleness.add(altered(int(now_s), 0), now_s)
    assert not staleness.healthy
    staleness.add(altered(14, 0), 16)  # 11 s after the first, but the image before it again
    assert not staleness.healthy
    staleness.add(altered(15, 0), 16)
    assert staleness.healthy
