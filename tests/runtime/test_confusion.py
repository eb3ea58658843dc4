"""The confusion matrix, counted by hand."""

import numpy as np

from retinanet_edge.runtime.confusion import ConfusionMatrix, confusion_matrix
from retinanet_edge.runtime.confusion_section import confusion_section, errors_of_classes
from retinanet_edge.runtime.matching import match_by_class, outcomes_at
from tests.found_boxes import detections, random_scene, sample

BOX, AWAY, NOTHING = (0, 0, 100, 100), (200, 200, 300, 300), (0, 300, 40, 340)
CAT, DOG = 0, 1


def matrix(*images, classes=2, threshold=0.0):
    samples, found = zip(*images, strict=True)
    outcomes = outcomes_at(samples, found, [match_by_class(*image) for image in images], threshold)
    return confusion_matrix(samples, outcomes, classes)


def test_every_kind_of_cell():
    found = matrix(
        (sample(BOX, AWAY, classes=[CAT, DOG]), detections(BOX, AWAY, NOTHING, classes=[CAT, CAT, DOG])),  # right, mix-up, invented
        (sample(BOX, AWAY, classes=[CAT, CAT]), detections(BOX, classes=[CAT])),  # right, missed
    )
    assert found.counts.tolist() == [
        [2, 0, 1],  # cats: 2 right, none taken for a dog, 1 missed
        [1, 0, 0],  # the dog: taken for a cat
        [0, 1, 0],  # background: 1 dog invented
    ]
    assert (found.objects.tolist(), found.detections.tolist(), found.right.tolist()) == ([3, 1], [3, 1], [2, 0])
    assert found.mix_ups() == [(DOG, CAT, 1)]


def test_below_the_threshold_nothing_counts():
    found = matrix((sample(BOX), detections(BOX, NOTHING, scores=[0.5, 0.25])), threshold=0.4)
    assert found.counts.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert matrix((sample(BOX), detections(BOX, scores=[0.25])), threshold=0.4).counts.tolist()[CAT] == [0, 0, 1]


def test_a_second_detection_of_an_object_is_of_nothing():
    assert matrix((sample(BOX), detections(BOX, BOX))).counts.tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_crowds_are_in_no_cell():
    found = matrix((sample(BOX, AWAY, crowd=[False, True]), detections(BOX, AWAY, AWAY)))
    assert found.counts.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_several_of_a_kind_on_one_image_add_up():
    boxes = [(100 * i, 0, 100 * i + 50, 50) for i in range(4)]
    found = matrix((sample(*boxes, classes=[CAT] * 4), detections(*boxes, classes=[DOG] * 4)))
    assert found.counts[CAT, DOG] == 4


def test_sums_are_objects_and_detections():
    rng = np.random.default_rng(11)
    scenes = [random_scene(rng) for _ in range(30)]
    found = matrix(*scenes, classes=3)
    objects = np.concatenate([s.classes[~s.crowd] for s, _ in scenes])
    in_crowd = sum(int((match_by_class(*scene) == -2).sum()) for scene in scenes)
    assert found.objects.tolist() == np.bincount(objects, minlength=3).tolist()
    assert found.detections.sum() == sum(len(d) for _, d in scenes) - in_crowd
    assert found.right.sum() == sum(int((match_by_class(*scene) >= 0).sum()) for scene in scenes)
    assert in_crowd > 0


def many_classes():
    """80 classes, 5 objects each, all right but: 7 is taken for 70 three times, 70 for 9 once; 3 is missed 5 times; 5 is absent."""
    counts = np.diag([5] * 80 + [0])
    counts[7, 7], counts[7, 70] = 2, 3
    counts[70, 70], counts[70, 9] = 4, 1
    counts[3, 3], counts[3, -1] = 0, 5
    counts[5, 5] = 0
    return ConfusionMatrix(counts)


NAMES = [f"class<{index}>" for index in range(80)]


def test_the_most_confused_of_many():
    assert many_classes().most_confused(4) == [3, 7, 9, 70]
    assert many_classes().most_confused(3) == [7, 9, 70]
    assert len(many_classes().most_confused(100)) == 79
    assert many_classes().mix_ups() == [(7, 70, 3), (70, 9, 1)]


def test_the_page_shows_the_most_confused_and_every_class_with_its_errors():
    shown = confusion_section(many_classes(), NAMES)
    assert "The 14 most confused of 79 classes" in shown
    assert "3 of 5 objects class&lt;7&gt; detected as class&lt;70&gt;" in shown
    assert "5 of 5 objects class&lt;3&gt; missed" in shown
    assert "60.0%" in shown  # 3 of 5
    assert shown.count("<tr>") == (1 + 14 + 1) + (1 + 2)
    errors = errors_of_classes(many_classes(), NAMES)
    assert errors.count("<tr>") == 1 + 1 + 79
    # 79 x 5 objects and 390 detections (5 are missed), of which 386 are right, as 4 are mixed up: 386 / 390, 386 / 395, 772 / 785
    cells = "".join(f"<td>{value}</td>" for value in ("all classes", 395, 386, 9, 390, 4, "0.990", "0.977", "0.983"))
    assert cells in errors


def test_with_few_classes_all_are_shown():
    found = matrix((sample(BOX), detections(BOX)), (sample(AWAY, classes=[DOG]), detections()))
    shown = confusion_section(found, ["cat", "dog"])
    assert "All classes" in shown
    assert "taken for" not in shown
    assert "<td>-</td><td>0.000</td>" in errors_of_classes(found, ["cat", "dog"])  # no dog detected: no precision
