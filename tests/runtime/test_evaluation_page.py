"""The page about a model on a split, and its pictures."""

import base64
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.coco import coco_metrics
from retinanet_edge.runtime.errors import DatasetError
from retinanet_edge.runtime.evaluation_page import Evaluated, write_evaluation
from retinanet_edge.runtime.matching import match_by_class, outcomes_at
from retinanet_edge.runtime.outcome_picture import draw_outcome
from tests.found_boxes import detections, sample

BOX, AWAY, NOTHING, BESIDE = (20, 20, 120, 120), (200, 200, 300, 300), (20, 300, 60, 340), (300, 40, 380, 100)
GREEN, RED, YELLOW, GREY = (40, 190, 80), (235, 50, 50), (255, 210, 0), (150, 150, 150)  # RGB
NAMES = ["cat", "dog", "<i>bird</i>"]


def grey_image(path: Path, height=400, width=400):
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def written(folder, images, names=NAMES, threshold=None, **more):
    samples, found = zip(*images, strict=True)
    metrics = coco_metrics(samples, found, names)
    evaluated = Evaluated("weights & all", "val", Path("data/<scenes>"), names, samples, found, metrics, **more)
    return write_evaluation(folder, evaluated, threshold)


class Tags(HTMLParser):
    """Checks that what is opened is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong = [], []
        self.feed(text)

    def handle_starttag(self, tag, _):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, *_):
        """Opens and closes at once."""

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture
def images(tmp_path):
    """One image with every kind of outcome, and one without mistake."""
    path = grey_image(tmp_path / "all & sundry.png")
    mixed = sample(BOX, AWAY, BESIDE, classes=[0, 1, 0], path=path)
    return [
        (mixed, detections(BOX, AWAY, NOTHING, scores=[0.75, 0.625, 0.5], classes=[0, 0, 0])),
        (sample(BOX, path=grey_image(tmp_path / "right.png")), detections(BOX, scores=[0.25])),
    ]


def test_one_file_holds_everything(tmp_path, images):
    page = written(tmp_path, images, facts=(("boxes with an anchor", "97.0%"),))
    text = page.read_text()
    assert page == tmp_path / "report" / "evaluation-val.html"
    tags = Tags(text)
    assert (tags.open, tags.wrong) == ([], [])
    links = re.findall(r'(?:src|href)="([^"]{,40})', text)
    assert len(links) == 2
    assert all(link.startswith("data:image/jpeg;base64,") for link in links)
    words = html.unescape(re.sub(r"<[^>]+>", " ", text))
    assert "weights & all, on the val split of data/<scenes>: 2 images" in words
    assert "97.0%" in words
    assert "<i>bird</i>" in words
    assert "<i>" not in text


def test_figures_and_errors_are_those_of_the_threshold(tmp_path, images):
    text = written(tmp_path, images, threshold=0.6).read_text()
    assert "Errors at score 0.600 and more" in text
    assert "as asked for" in text
    # 4 objects; from 0.6: the first found right, the second taken for a cat, the other two missed
    assert "<td>all classes</td><td>4</td><td>1</td><td>3</td><td>2</td><td>1</td><td>0.500</td><td>0.250</td><td>0.333</td>" in text
    assert "all &amp; sundry.png: F1 0.40, 1 right, 1 wrong, 2 missed" in text  # 2 / (2 + 1 + 2)
    assert "1 of 1 objects dog detected as cat" in text


def test_without_a_threshold_it_is_that_of_the_best_f1(tmp_path, images):
    text = written(tmp_path, images).read_text()
    # of 4 objects, from 0.75: 1 right, F1 2 / 5; from 0.625: 2 / 6; from 0.5: 2 / 7; from 0.25: 2 right of 4 detections, 4 / 8
    assert "Errors at score 0.250 and more" in text
    assert "the score with the best F1 on these images" in text


def test_a_class_without_objects_has_no_figures(tmp_path, images):
    text = written(tmp_path, images).read_text()
    assert f"<tr><td>&lt;i&gt;bird&lt;/i&gt;</td><td>0</td>{'<td>-</td>' * 12}</tr>" in text


def test_nothing_found_is_a_page_too(tmp_path):
    path = grey_image(tmp_path / "i.png")
    text = written(tmp_path, [(sample(BOX, path=path), detections())]).read_text()
    assert "Errors at score 0.500 and more" in text
    assert "i.png: F1 0.00, 0 right, 0 wrong, 1 missed" in text
    assert "No image is left to show." in text


def test_nothing_wrong_is_a_page_too(tmp_path):
    path = grey_image(tmp_path / "i.png")
    text = written(tmp_path, [(sample(BOX, path=path), detections(BOX))]).read_text()
    assert "No image has a mistake." in text


def test_many_classes_and_images_stay_few_on_the_page(tmp_path):
    names = [f"class {index}" for index in range(80)]
    path = grey_image(tmp_path / "i.png")
    images = [(sample(BOX, AWAY, classes=[i, i], path=path), detections(BOX, NOTHING, classes=[i, (i + 1) % 80])) for i in range(80)]
    text = written(tmp_path, images, names, threshold=0.1).read_text()
    assert text.count("data:image") == 12
    assert "The 14 most confused of 80 classes" in text
    assert text.count("<li>") == 11 + 3  # 10 classes and their mean; precision, recall and F1
    assert text.count("<polyline") == 81 + 3


def test_an_image_that_is_gone(tmp_path, images):
    (tmp_path / "right.png").unlink()
    with pytest.raises(DatasetError, match=r"right\.png"):
        written(tmp_path, images)
    assert not (tmp_path / "report").exists()


def colour_at(picture, x, y):
    return tuple(int(value) for value in picture[y, x, ::-1])


def drawn(truth, found, names=NAMES):
    (outcome,) = outcomes_at([truth], [found], [match_by_class(truth, found)], 0.0)
    return draw_outcome(truth, outcome, names)


def test_colours_say_what_is_right_wrong_and_missed(tmp_path):
    path = grey_image(tmp_path / "i.png", 640, 640)
    crowd = (400, 400, 600, 600)
    truth = sample(BOX, AWAY, crowd, crowd=[False, False, True], path=path, height=640, width=640)
    picture = drawn(truth, detections(BOX, NOTHING, (450, 450, 500, 500)))
    assert picture.shape == (640, 640, 3)
    assert colour_at(picture, 20, 100) == GREEN
    assert colour_at(picture, 20, 330) == RED
    assert colour_at(picture, 200, 280) == YELLOW
    assert colour_at(picture, 450, 480) == GREY
    assert colour_at(picture, 400, 500) == (90, 90, 90)  # the crowd itself


@pytest.mark.parametrize(("height", "width"), [(320, 160), (160, 320), (1280, 960), (1, 1)])
def test_boxes_grow_and_shrink_with_the_picture(tmp_path, height, width):
    truth = sample((width / 2, height / 2, width, height), path=grey_image(tmp_path / "i.png", height, width), height=height, width=width)
    picture = drawn(truth, detections((width / 2, height / 2, width, height)))
    assert max(picture.shape[:2]) == 640
    assert colour_at(picture, round(picture.shape[1] / 2), round(picture.shape[0] * 0.75)) == GREEN


def test_pictures_in_the_page_are_jpegs_of_the_images(tmp_path, images):
    text = written(tmp_path, images).read_text()
    data = base64.b64decode(re.findall(r"base64,([^\"]+)", text)[0])
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (640, 640, 3)
    red = colour_at(picture, 32, 520)  # NOTHING's left side, 1.6 times as large
    assert np.abs(np.array(red) - RED).max() < 60
