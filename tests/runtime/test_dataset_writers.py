"""Label files as other programs read them, and numbers that are the same float32 when read."""

import json
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.dataset_writers import write_labels

SIDE = 4000


def sample_of(boxes, classes=None, crowd=None):
    count = len(boxes)
    return Sample(
        Path("x.jpg"), SIDE, SIDE, np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.zeros(count, np.int64) if classes is None else np.array(classes),
        crowd=np.zeros(count, np.bool_) if crowd is None else np.array(crowd),
        areas=np.full(count, 12.5, np.float32),
    )  # fmt: skip


@st.composite
def any_boxes(draw):
    corners = np.array(draw(st.lists(st.tuples(*[st.floats(0, SIDE, width=32)] * 4), min_size=1, max_size=5)), np.float32)
    return np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], axis=1)


@settings(max_examples=100, deadline=None)
@given(any_boxes())
def test_any_float32_is_read_again(boxes):
    with tempfile.TemporaryDirectory() as name:
        for to in ("coco", "voc", "yolo"):
            write_labels(to, Path(name) / to, ["thing"], {"train": [("x.jpg", sample_of(boxes))]})
        entries = json.loads((Path(name) / "coco/annotations/instances_train.json").read_text())["annotations"]
        corners = ElementTree.parse(Path(name) / "voc/Annotations/x.xml").iter("bndbox")
        voc = [[float(side.text) for side in corner] for corner in corners]
        lines = np.loadtxt(Path(name) / "yolo/labels/train/x.txt", ndmin=2)[:, 1:] * SIDE
    coco = [[left, top, left + width, top + height] for left, top, width, height in (entry["bbox"] for entry in entries)]
    np.testing.assert_array_equal(np.array(voc, np.float32), boxes)
    # Two numbers of 16 digits added: the last digit of a tiny one beside a large one may be lost, far below a millionth of a pixel.
    np.testing.assert_allclose(np.array(coco), boxes, rtol=1e-7, atol=1e-11)
    yolo = np.concatenate([lines[:, :2] - lines[:, 2:] / 2, lines[:, :2] + lines[:, 2:] / 2], axis=1)
    np.testing.assert_allclose(yolo, boxes, rtol=0, atol=1e-8)  # 12 decimals of 4000 pixels: 4e-9


def test_numbers_have_no_noise(tmp_path):
    """38.65 = 511.72 - 473.07 is not 38.649994, as the difference of the two float32 would be; whole numbers are integers."""
    write_labels("coco", tmp_path, ["thing"], {"train": [("x.jpg", sample_of([(473.07, 3, 511.72, 5)]))]})
    text = (tmp_path / "annotations" / "instances_train.json").read_text()
    assert '"bbox": [473.07, 3, 38.65, 2]' in text
    assert '"area": 12.5' in text


def test_coco_is_what_pycocotools_takes(tmp_path, capsys):
    samples = [("x.jpg", sample_of([(1, 2, 5, 8), (0, 0, 9, 9)], classes=[1, 0], crowd=[False, True])), ("y.jpg", sample_of([]))]
    write_labels("coco", tmp_path, ["cat", "dog"], {"val": samples})
    coco = COCO(tmp_path / "annotations" / "instances_val.json")
    assert "index created" in capsys.readouterr().out
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["x.jpg", "y.jpg"]
    found = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [(entry["category_id"], entry["iscrowd"], entry["bbox"]) for entry in found] == [(2, 0, [1, 2, 4, 6]), (1, 1, [0, 0, 9, 9])]
    assert coco.getAnnIds(imgIds=[2]) == []


def test_voc_files(tmp_path):
    samples = {"train": [("a.b.jpg", sample_of([(1, 2, 5.5, 8)], crowd=[True]))], "test": [("y.png", sample_of([]))]}
    write_labels("voc", tmp_path, ["cat"], samples)
    assert (tmp_path / "ImageSets" / "Main" / "train.txt").read_text() == "a.b\n"
    assert (tmp_path / "ImageSets" / "Main" / "test.txt").read_text() == "y\n"
    root = ElementTree.parse(tmp_path / "Annotations" / "a.b.xml").getroot()
    assert [root.findtext(tag) for tag in ("filename", "size/width", "size/height", "size/depth")] == ["a.b.jpg", "4000", "4000", "3"]
    assert [root.findtext(f"object/{tag}") for tag in ("name", "difficult", "bndbox/xmin", "bndbox/xmax")] == ["cat", "1", "1", "5.5"]


def test_yolo_files(tmp_path):
    filled = sample_of([(1000, 0, 2000, 4000), (0, 0, 9, 9)], crowd=[False, True])
    write_labels("yolo", tmp_path, ["cat", "no"], {"train": [("a.jpg", filled)], "val": [("b.jpg", sample_of([]))]})
    assert yaml.safe_load((tmp_path / "data.yaml").read_text()) == {
        "train": "images/train", "val": "images/val", "nc": 2, "names": {0: "cat", 1: "no"},
    }  # fmt: skip
    # centre (1000 + 2000) / 2 / 4000 = 0.375, 2000 / 4000 = 0.5; size 1000 / 4000 = 0.25, 4000 / 4000 = 1
    assert (tmp_path / "labels" / "train" / "a.txt").read_text() == "0 0.375 0.5 0.25 1\n"
    assert (tmp_path / "labels" / "val" / "b.txt").read_text() == ""
