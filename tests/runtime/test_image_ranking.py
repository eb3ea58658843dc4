from retinanet_edge.runtime.image_ranking import best_and_worst
from retinanet_edge.runtime.matching import match_by_class, outcomes_at
from tests.found_boxes import detections, sample

BOXES = [(100 * i, 0, 100 * i + 50, 50) for i in range(4)]
NOTHING = (0, 300, 40, 340)


def image(objects, right, wrong=0):
    """Return sample and detections of an image."""
    return sample(*BOXES[:objects]), detections(*BOXES[:right], *[NOTHING] * wrong)


def ranked(*images, count=6):
    samples, found = zip(*images, strict=True)
    return best_and_worst(outcomes_at(samples, found, [match_by_class(*i) for i in images], 0.0), count)


def test_by_f1_the_most_telling_first():
    images = [image(4, 3), image(4, 0), image(4, 4), image(4, 1)]  # F1 6/7, 0, 1, 2/5
    assert ranked(*images) == ([2, 0], [1, 3])
    assert ranked(*images, count=1) == ([2], [1])


def test_of_equals_more_right_ones_are_better_and_more_mistakes_worse():
    assert ranked(image(1, 1), image(3, 3), image(1, 0), image(3, 0)) == ([1, 0], [3, 2])


def test_wrong_detections_count():
    assert ranked(image(2, 2, wrong=4), image(2, 2, wrong=1)) == ([1], [0])  # F1 4/8 and 4/5


def test_an_image_is_in_one_list_only():
    assert ranked(image(4, 3)) == ([], [0])
    assert ranked(image(4, 3), image(4, 2), image(4, 1)) == ([0], [2, 1])


def test_images_without_a_mistake_are_not_worst_and_those_without_a_hit_not_best():
    assert ranked(image(1, 1), image(2, 2)) == ([1, 0], [])
    assert ranked(image(1, 0), image(2, 0), image(3, 0)) == ([], [2, 1])


def test_empty_images():
    assert ranked(image(0, 0), image(1, 1)) == ([1], [])
    assert ranked(image(0, 0)) == ([], [])
    assert ranked(image(0, 0, wrong=2), image(1, 1)) == ([1], [0])  # something was seen where nothing is
