"""Every way in which a labelled folder can be broken is one line that names the file, never a traceback or a wrong box."""

import json
import runpy
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.errors import DatasetError

folders = runpy.run_path(str(Path(__file__).with_name("labelled_folders.py")))
coco, write_coco, write_image, write_text = (folders[name] for name in ("coco", "write_coco", "write_image", "write_text"))
write_voc, write_yolo, voc_xml = folders["write_voc"], folders["write_yolo"], folders["voc_xml"]


def refusal(path):
    """Return the one line with which reading is refused."""
    with pytest.raises(DatasetError) as refused:
        read_dataset(path)
    message = str(refused.value)
    assert "\n" not in message
    assert refused.value.exit_code == 2
    return message


def without(entry, key):
    return {name: value for name, value in entry.items() if name != key}


def with_first(data, part, **changes):
    """Return a COCO object whose first image, annotation or category is changed."""
    return data | {part: [data[part][0] | changes, *data[part][1:]]}


class TestFolder:
    def test_missing(self, tmp_path):
        assert refusal(tmp_path / "nowhere") == f"data set {tmp_path}/nowhere does not exist: give the path of a labelled folder"

    def test_empty(self, tmp_path):
        message = refusal(tmp_path)
        assert message.endswith("got an empty folder")
        assert all(word in message for word in ("instances.json", "JPEGImages", "data.yaml"))

    def test_no_format(self, tmp_path):
        write_image(tmp_path / "photo.jpg")
        assert refusal(tmp_path).endswith("got photo.jpg")

    def test_several_formats(self, tmp_path):
        write_voc(write_coco(tmp_path))
        assert "got COCO JSON and Pascal VOC" in refusal(tmp_path)

    def test_several_data_sets(self, tmp_path):
        write_coco(tmp_path / "one")
        write_voc(tmp_path / "two")
        assert f"got several: give {tmp_path}/one or {tmp_path}/two" in refusal(tmp_path)

    def test_two_files_for_one_split(self, tmp_path):
        write_coco(tmp_path, file="instances_train2014.json")
        write_coco(tmp_path, file="instances_train2017.json")
        assert "must hold one COCO file for train" in refusal(tmp_path)

    def test_file_of_another_kind(self, tmp_path):
        assert "got a .jpg file" in refusal(write_image(tmp_path / "photo.jpg"))

    def test_validation_images_alone(self, tmp_path):
        assert "must have images to train on, got val" in refusal(write_coco(tmp_path, file="instances_val.json"))

    def test_one_image(self, tmp_path):
        assert "at least two images" in refusal(write_coco(tmp_path, coco(names=("a.jpg",))))

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_split_without_objects(self, tmp_path, split):
        for name in ("train", "val"):
            data = coco(names=(f"{name}1.jpg",))
            write_coco(tmp_path, data | {"annotations": []} if name == split else data, f"{name}.json")
        assert f"at least one object on its {split} images" in refusal(tmp_path)

    def test_crowds_alone_are_no_objects(self, tmp_path):
        assert "at least one object on its train images" in refusal(write_coco(tmp_path, coco(iscrowd=1)))


class TestCoco:
    @pytest.mark.parametrize(("text", "reason"), [
        ("", "must be JSON"),
        ('{"images": [', "must be JSON"),
        ("\x00\x01", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ("[]", "got a list"),
        ("{}", 'must have a list "images"'),
        ('{"images": {}, "annotations": [], "categories": []}', "got a dict"),
    ])  # fmt: skip
    def test_text_that_is_not_coco(self, tmp_path, text, reason):
        write_text(tmp_path / "instances.json", text)
        message = refusal(tmp_path)
        assert reason in message
        assert str(tmp_path / "instances.json") in message

    @pytest.mark.parametrize(("data", "reason"), [
        (coco() | {"categories": []}, "at least one class"),
        (coco() | {"images": []}, "annotation 101 must name an image of the file, got image_id 1"),
        (coco() | {"images": [], "annotations": []}, "must have images to train on, got no images"),
        (coco() | {"images": ["a.jpg"]}, "image 1 must be an object, got a str"),
        (coco() | {"images": coco()["images"][:1] * 2}, "image 2 must have an id of its own, got 1 again"),
        (coco(categories=((1, "cat"), (1, "dog"))), "category 2 must have an id of its own"),
        (coco(categories=((1, "cat"), (2, "cat"))), "'cat' twice"),
        (with_first(coco(), "images", file_name=None), 'must have a proper "file_name", got None'),
        (with_first(coco(), "images", width="40"), "must have a proper \"width\", got '40'"),
        (with_first(coco(), "categories", id=True), 'must have a proper "id", got True'),
        (with_first(coco(), "annotations", category_id=7), "category that the file lists, got unknown class id 7"),
        (with_first(coco(), "annotations", image_id=9), "annotation 101 must name an image of the file, got image_id 9"),
        (with_first(coco(), "annotations", image_id=[1]), "annotation 101 must have a proper \"image_id\""),
        (with_first(coco(), "annotations", bbox=[1, 2, 3]), "annotation 101 must have a bbox of 4 numbers, got 3"),
        (with_first(coco(), "annotations", bbox=[1, 2, 3, None]), 'annotation 101 must have numbers as "bbox", got None'),
        (with_first(coco(), "annotations", bbox=[1, 2, 3, float("nan")]), "object 101 of image a.jpg must have a box of finite numbers"),
        (with_first(coco(), "annotations", bbox=[float("-inf"), 2, 3, 4]), "object 101 of image a.jpg must have a box of finite numbers"),
        (with_first(coco(), "annotations", bbox=[1, 2, 10**400, 4]), "object 101 of image a.jpg must have a box of finite numbers"),
        (with_first(coco(), "annotations", bbox=[9, 9, -3, 4]), "object 101 of image a.jpg must have a box with width and height"),
        (with_first(coco(), "annotations", bbox=[9, 9, 3, -4]), "got 3x-4"),
        (with_first(coco(), "annotations", area=float("nan")), "object 101 of image a.jpg must have a finite area"),
        (with_first(coco(), "annotations", area=-1), "object 101 of image a.jpg must have a finite area of at least 0, got -1"),
        (coco() | {"annotations": [None]}, "annotation 1 must be an object, got none"),
        (coco() | {"annotations": [without(coco()["annotations"][0], "bbox")]}, 'annotation 101 must have a proper "bbox", got None'),
    ])  # fmt: skip
    def test_content(self, tmp_path, data, reason):
        write_image(tmp_path / "images" / "a.jpg")
        write_image(tmp_path / "images" / "b.jpg")
        write_text(tmp_path / "instances.json", json.dumps(data))
        message = refusal(tmp_path)
        assert reason in message
        assert str(tmp_path) in message

    def test_splits_of_different_categories(self, tmp_path):
        write_coco(tmp_path, file="train.json")
        write_coco(tmp_path, coco(categories=((1, "cat"), (2, "wolf"))), "val.json")
        assert "must list the same categories as" in refusal(tmp_path)

    def test_missing_image(self, tmp_path):
        write_coco(tmp_path)
        (tmp_path / "images" / "b.jpg").unlink()
        assert refusal(tmp_path) == (
            f"image {tmp_path}/images/b.jpg does not exist though {tmp_path}/instances.json names it: complete the data set"
        )

    def test_size_that_is_not_the_image_s(self, tmp_path):
        write_coco(tmp_path)
        write_image(tmp_path / "images" / "a.jpg", 41, 30)
        assert f"images/a.jpg must be 40x30 as {tmp_path}/instances.json states, got 41x30" in refusal(tmp_path)


class TestVoc:
    @pytest.mark.parametrize(("text", "reason"), [
        ("", "must be XML"),
        ("<annotation><object>", "must be XML"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "must be XML"),
        ("<html/>", "got <html>"),
        ('<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><annotation>&d;</annotation>', "must be plain XML"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>', "must be plain XML"),
        (voc_xml("a", kind=" "), "object 1 must have a <name> and a <bndbox>, got no name"),
        (voc_xml("a").replace("bndbox", "box"), "object 1 must have a <name> and a <bndbox>, got no bndbox"),
        (voc_xml("a").replace("xmax", "xright"), "object 1 must have a number in <xmax>, got ''"),
        (voc_xml("a", boxes=((1, 2, 3, "four"),)), "object 1 must have a number in <ymax>, got 'four'"),
        (voc_xml("a", boxes=((1, 2, 3, 4), (1, 2, "nan", 4))), "object 2 of image a.jpg must have a box of finite numbers"),
        (voc_xml("a", boxes=((9, 2, 3, 4),)), "object 1 of image a.jpg must have a box with width and height of at least 0, got -6x2"),
        (voc_xml("a", size=("x", 3)), "must have a number in <width>, got 'x'"),
        (voc_xml("a", size=(41, 30)), "a.jpg must be 41x30"),
    ])  # fmt: skip
    def test_content(self, tmp_path, text, reason):
        write_voc(tmp_path)
        write_text(tmp_path / "Annotations" / "a.xml", text)
        message = refusal(tmp_path)
        assert reason in message
        assert str(tmp_path / "Annotations" / "a.xml") in message

    def test_list_that_names_what_is_not_there(self, tmp_path):
        write_voc(tmp_path, "ab", {"train": ["a", "lost"], "val": ["b"]})
        assert f"{tmp_path}/Annotations/lost.xml does not exist" in refusal(tmp_path)

    def test_missing_image(self, tmp_path):
        write_voc(tmp_path)
        (tmp_path / "JPEGImages" / "b.jpg").unlink()
        assert f"b.jpg does not exist though {tmp_path}/Annotations/b.xml names it" in refusal(tmp_path)

    def test_no_objects_at_all(self, tmp_path):
        assert "must hold at least one object, got 2 files without any" in refusal(write_voc(tmp_path, boxes=()))

    def test_no_annotations_at_all(self, tmp_path):
        (tmp_path / "Annotations").mkdir()
        (tmp_path / "JPEGImages").mkdir()
        assert "must hold at least one object, got 0 files" in refusal(tmp_path)


class TestYolo:
    @pytest.mark.parametrize(("line", "reason"), [
        ("2 0.5 0.5 0.1 0.1", "must have a class index from 0 to 1, got unknown class 2"),
        ("-1 0.5 0.5 0.1 0.1", "got unknown class -1"),
        ("cat 0.5 0.5 0.1 0.1", "got unknown class cat"),
        ("0 0.5 0.5 0.1", "got 4 words"),
        ("0 0.5 0.5 0.1 0.1 0.9", "got 6 words"),
        ("0 0.5 0.5 0.1 wide", "must be numbers"),
        ("0 0.5 nan 0.1 0.1", "must have a box of finite numbers"),
        ("0 0.5 inf 0.1 0.1", "must be in fractions of the image"),
        ("0 0.5 0.5 -0.1 0.1", "must have a box with width and height of at least 0"),
        ("0 120 80 33 44", "must be in fractions of the image, 0 to 1, got 120"),
    ])  # fmt: skip
    def test_line(self, tmp_path, line, reason):
        write_yolo(tmp_path)
        write_text(tmp_path / "labels" / "train" / "a.txt", f"0 0.5 0.5 0.1 0.1\n\n{line}\n")
        message = refusal(tmp_path)
        assert reason in message
        assert f"{tmp_path}/labels/train/a.txt: line 3" in message or "a.txt: object 3 of image images/train/a.jpg" in message

    @pytest.mark.parametrize(("settings", "reason"), [
        ("names: [cat", "must be YAML"),
        ("names: !!python/object/apply:os.system [ls]\ntrain: x\n", "must be YAML"),
        ("- cat\n", "must be a YAML mapping with names, train and val, got a list"),
        ("names: cat\ntrain: images/train\nval: images/val\n", "must have a list of names, got 'cat'"),
        ("names: {0: cat, 2: dog}\ntrain: images/train\nval: images/val\n", "must number its names from 0 without gaps"),
        ("names: [cat, cat]\n", "got 'cat' twice"),
        ("names: []\n", "at least one class"),
        ("names: [cat, dog]\ntrain: images/gone\nval: images/val\n", "images in the data folder, got images/gone"),
        ("names: [cat, dog]\ntrain: images/train\nval: 3\n", "val must be a path or a list of paths, got 3"),
        ("train: images/train\nval: images/val\n", "must name its classes"),
    ])  # fmt: skip
    def test_settings(self, tmp_path, settings, reason):
        assert reason in refusal(write_yolo(tmp_path, settings=settings))

    def test_label_without_image(self, tmp_path):
        write_yolo(tmp_path)
        (tmp_path / "images" / "train" / "b.jpg").unlink()
        assert f"{tmp_path}/labels/train/b.txt must have an image of its name" in refusal(tmp_path)

    def test_list_that_names_a_missing_image(self, tmp_path):
        write_yolo(tmp_path, settings="train: train.txt\nval: images/val\nnames: [cat, dog]\n")
        write_text(tmp_path / "train.txt", "images/train/a.jpg\nimages/train/lost.jpg\n")
        assert f"lost.jpg does not exist though {tmp_path}/train.txt names it" in refusal(tmp_path)

    def test_no_labels_at_all(self, tmp_path):
        shutil.rmtree(write_yolo(tmp_path) / "labels")
        assert "at least one object on its train images" in refusal(tmp_path)

    def test_text_that_is_not_utf8(self, tmp_path):
        write_yolo(tmp_path)
        (tmp_path / "labels" / "train" / "a.txt").write_bytes(b"0 \xff\xfe 0.5")
        assert "a.txt must be UTF-8 text" in refusal(tmp_path)


def png_header(width, height):
    """Return a PNG that states a size and holds no pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class TestImages:
    @pytest.mark.parametrize(("name", "spoil", "reason"), [
        ("a.jpg", lambda _: b"", "got an empty file"),
        ("a.jpg", lambda _: b"this is no image", "got a file that is none or is corrupt"),
        ("a.jpg", lambda data: data[:20], "got a file that is none or is corrupt"),
        ("a.jpg", lambda data: bytes(20) + data[20:], "got a file that is none or is corrupt"),
        ("a.jpg", lambda data: data[: len(data) // 2], "got a file that ends before the image does"),
        ("a.png", lambda data: data[: len(data) // 2], "got a file that ends before the image does"),
        ("a.png", lambda _: png_header(10_001, 10_000), "must have at most 100 megapixels, got 10001x10000"),
        ("a.png", lambda _: png_header(100_000, 100_000), "must have at most 100 megapixels"),
    ])  # fmt: skip
    def test_spoilt_image_is_refused_before_training(self, tmp_path, name, spoil, reason):
        data = coco(names=(name, "b.jpg"))
        data["images"] = [without(without(image, "width"), "height") for image in data["images"]]
        write_coco(tmp_path, data)
        path = tmp_path / "images" / name
        path.write_bytes(spoil(path.read_bytes()))
        message = refusal(tmp_path)
        assert reason in message
        assert str(path) in message
