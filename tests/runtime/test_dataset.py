"""What the three formats mean, how they are told apart, divided, cleaned and hashed."""

import hashlib
import os
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from retinanet_edge.runtime.dataset import describe, read_dataset, read_image

folders = runpy.run_path(str(Path(__file__).with_name("labelled_folders.py")))
coco, write_coco, write_image, write_text = (folders[name] for name in ("coco", "write_coco", "write_image", "write_text"))
write_voc, write_yolo, voc_xml = folders["write_voc"], folders["write_yolo"], folders["voc_xml"]

MANY = tuple(f"image{number:03}" for number in range(100))


def names(samples):
    return [sample.path.name for sample in samples]


def all_samples(dataset):
    return [*dataset.train, *dataset.val, *dataset.test]


class TestCoco:
    def test_boxes_areas_and_crowd_are_those_of_the_file(self, tmp_path):
        data = coco(names=("a.jpg", "b.jpg"), boxes=((5, 6, 10, 8), (1, 2, 3, 4)))
        data["annotations"][0] |= {"iscrowd": 1, "area": 17.5}
        sample = next(s for s in all_samples(read_dataset(write_coco(tmp_path, data))) if s.path.name == "a.jpg")
        # [left, top, width, height] -> corners: 5 + 10, 6 + 8; 1 + 3, 2 + 4
        np.testing.assert_array_equal(sample.boxes, np.array([[5, 6, 15, 14], [1, 2, 4, 6]], np.float32))
        assert sample.crowd.tolist() == [True, False]
        assert sample.areas.tolist() == [17.5, 12.0]  # stated; 3 * 4
        assert (sample.height, sample.width) == (30, 40)
        assert (sample.boxes.dtype, sample.classes.dtype, sample.areas.dtype) == (np.float32, np.int64, np.float32)

    def test_sparse_ids_map_by_order_and_absent_categories_count(self, tmp_path):
        data = coco(categories=((90, "toothbrush"), (3, "car"), (17, "cat")))  # objects are of id 90
        dataset = read_dataset(write_coco(tmp_path, data))
        assert dataset.classes == ("car", "cat", "toothbrush")
        assert {int(kind) for sample in all_samples(dataset) for kind in sample.classes} == {2}

    @pytest.mark.parametrize(("train", "val", "train_images", "val_images"), [
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "train2017", "val2017"),
        ("annotations/instances_train.json", "annotations/instances_val.json", "images", "images"),
        ("train.json", "val.json", "images/train", "images/val"),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", "train", "valid"),
    ])  # fmt: skip
    def test_layouts_with_a_split(self, tmp_path, train, val, train_images, val_images):
        write_coco(tmp_path, coco(names=("a.jpg", "b.jpg")), train, train_images)
        write_coco(tmp_path, coco(names=("c.jpg",)), val, val_images)
        dataset = read_dataset(tmp_path)
        assert (dataset.format, names(dataset.train), names(dataset.val)) == ("coco", ["a.jpg", "b.jpg"], ["c.jpg"])
        assert dataset.split_rule == "the data's own"
        assert read_image(dataset.val[0]).shape == (30, 40, 3)

    def test_file_itself_and_lone_file_of_another_name(self, tmp_path):
        write_coco(tmp_path, file="labels_of_mine.json")
        assert read_dataset(tmp_path).sha256 == read_dataset(tmp_path / "labels_of_mine.json").sha256

    def test_root_reads_the_same_again(self, tmp_path):
        folder = write_coco(tmp_path / "outer" / "inner").parent
        dataset = read_dataset(folder)
        assert dataset.root == folder
        assert read_dataset(dataset.root).sha256 == dataset.sha256

    def test_image_without_objects_is_kept(self, tmp_path):
        data = coco(names=("a.jpg", "b.jpg", "c.jpg"))
        data["annotations"] = [entry for entry in data["annotations"] if entry["image_id"] != 2]
        write_coco(tmp_path, data, "train.json")
        write_coco(tmp_path, coco(names=("d.jpg",)), "val.json")
        dataset = read_dataset(tmp_path)
        assert [len(sample.boxes) for sample in dataset.train] == [1, 0, 1]
        assert dataset.train[1].boxes.shape == (0, 4)


class TestVoc:
    def test_own_split_with_test(self, tmp_path):
        sets = {"train": ["b", "a"], "val": ["c"], "test": ["d"], "trainval": ["a", "b", "c"], "cat_train": ["a 1", "b -1"]}
        dataset = read_dataset(write_voc(tmp_path, "abcd", sets))
        assert [names(s) for s in (dataset.train, dataset.val, dataset.test)] == [["a.jpg", "b.jpg"], ["c.jpg"], ["d.jpg"]]
        np.testing.assert_array_equal(dataset.train[0].boxes, np.array([[5, 6, 15, 14]], np.float32))  # as they stand

    def test_classes_are_the_names_of_all_splits_sorted(self, tmp_path):
        write_voc(tmp_path, "abc", {"train": ["a"], "val": ["b"], "test": ["c"]})
        write_text(tmp_path / "Annotations" / "c.xml", voc_xml("c", kind="ant"))
        dataset = read_dataset(tmp_path)
        assert dataset.classes == ("ant", "cat")
        assert (dataset.train[0].classes.tolist(), dataset.test[0].classes.tolist()) == ([1], [0])

    def test_difficult_is_crowd(self, tmp_path):
        write_voc(tmp_path, "ab", {"train": ["a"], "val": ["b"]}, boxes=((5, 6, 15, 14), (1, 1, 9, 9)))
        text = voc_xml("a", boxes=((1, 1, 9, 9),), extra="<difficult>1</difficult>").replace("</annotation>", "")
        text += voc_xml("a", extra="<difficult>0</difficult>").split("</size>")[1]
        write_text(tmp_path / "Annotations" / "a.xml", text)
        assert read_dataset(tmp_path).train[0].crowd.tolist() == [True, False]

    def test_size_of_zero_takes_the_image_s(self, tmp_path):
        dataset = read_dataset(write_voc(tmp_path, size=(0, 0)))
        assert (dataset.train[0].width, dataset.train[0].height) == (40, 30)

    def test_trainval_alone_is_divided(self, tmp_path):
        dataset = read_dataset(write_voc(tmp_path, MANY, {"trainval": MANY[:90], "test": MANY[90:]}))
        assert len(dataset.train) + len(dataset.val) == 90
        assert 5 <= len(dataset.val) <= 35  # 18 expected, standard deviation 3.8
        assert len(dataset.test) == 10
        assert dataset.split_rule == "the data's trainval split divided 80/20 by a hash of the file name"


@pytest.mark.parametrize(("write", "litter"), [
    (write_voc, ("Annotations/._a.xml", "JPEGImages/._a.jpg")),
    (write_yolo, ("images/train/._a.jpg", "labels/train/._a.txt")),
])  # fmt: skip
def test_what_macos_leaves_beside_files_is_not_read(write, litter, tmp_path):
    expected = read_dataset(write(tmp_path)).sha256
    for name in litter:
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    assert read_dataset(tmp_path).sha256 == expected


class TestYolo:
    def test_fractions_become_pixels(self, tmp_path):
        dataset = read_dataset(write_yolo(tmp_path, line="1 0.25 0.5 0.25 0.2"))
        # centre 0.25 * 40 = 10, 0.5 * 30 = 15; size 0.25 * 40 = 10, 0.2 * 30 = 6
        np.testing.assert_allclose(dataset.train[0].boxes, [[5, 12, 15, 18]], rtol=1e-6)
        assert (dataset.classes, dataset.train[0].classes.tolist()) == (("cat", "dog"), [1])

    def test_polygon_gives_its_bounds(self, tmp_path):
        dataset = read_dataset(write_yolo(tmp_path, line="0 0.1 0.2 0.5 0.1 0.3 0.6"))
        np.testing.assert_allclose(dataset.train[0].boxes, [[4, 3, 20, 18]], rtol=1e-6)  # x 0.1..0.5 of 40, y 0.1..0.6 of 30

    def test_keypoints_are_left_out(self, tmp_path):
        settings = "train: images/train\nval: images/val\nkpt_shape: [2, 2]\nnames: [cat, dog]\n"
        dataset = read_dataset(write_yolo(tmp_path, line="1 0.25 0.5 0.25 0.2 0.9 0.9 0.8 0.8", settings=settings))
        np.testing.assert_allclose(dataset.train[0].boxes, [[5, 12, 15, 18]], rtol=1e-6)

    @pytest.mark.parametrize("settings", [
        "path: .\ntrain: images/train\nval: images/val\ntest:\nnames: {0: cat, 1: dog}\n",
        "path: /nowhere\ntrain: ../images/train\nval: ../images/val\ntest: ../images/test\nnames: [cat, dog]\n",  # as Roboflow writes
        "train: [images/train]\nval: val.txt\nnames: [cat, dog]\n",
        "names: [cat, dog]\n",
        "",
    ])  # fmt: skip
    def test_settings_and_layout_say_the_same(self, tmp_path, settings):
        write_yolo(tmp_path, settings=settings)
        write_text(tmp_path / "val.txt", "./images/val/c.jpg\n")
        write_text(tmp_path / "classes.txt", "cat\ndog\n")
        dataset = read_dataset(tmp_path)
        assert (dataset.format, dataset.classes) == ("yolo", ("cat", "dog"))
        assert (names(dataset.train), names(dataset.val), dataset.test) == (["a.jpg", "b.jpg"], ["c.jpg"], ())

    def test_roboflow_layout(self, tmp_path):
        for split, stem in (("train", "a"), ("valid", "b")):
            write_image(tmp_path / split / "images" / f"{stem}.jpg")
            write_text(tmp_path / split / "labels" / f"{stem}.txt", "0 0.5 0.5 0.5 0.5")
        write_text(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n")
        dataset = read_dataset(tmp_path)
        assert (names(dataset.train), names(dataset.val)) == (["a.jpg"], ["b.jpg"])
        assert len(dataset.train[0].boxes) == len(dataset.val[0].boxes) == 1

    def test_image_without_label_file_has_no_objects(self, tmp_path):
        write_yolo(tmp_path)
        write_image(tmp_path / "images" / "train" / "nothing.jpg")
        assert [len(sample.boxes) for sample in read_dataset(tmp_path).train] == [1, 1, 0]


class TestDivision:
    def test_hash_of_the_file_name_decides(self, tmp_path):
        dataset = read_dataset(write_coco(tmp_path, coco(names=tuple(f"{name}.jpg" for name in MANY))))
        # An image validates where the first 32 bits of SHA-256 of its name, as a fraction, are below 0.2.
        expected = [f"{n}.jpg" for n in MANY if int(hashlib.sha256(f"{n}.jpg".encode()).hexdigest()[:8], 16) < 0.2 * 2**32]
        assert names(dataset.val) == expected
        assert len(dataset.train) == 100 - len(expected)
        assert dataset.split_rule == "all images divided 80/20 by a hash of the file name"

    def test_adding_an_image_moves_no_other(self, tmp_path):
        def read(count):
            return read_dataset(write_voc(tmp_path / str(count), MANY[:count]))

        before, after = set(names(read(60).val)), set(names(read(61).val))
        assert before == after - {f"{MANY[60]}.jpg"}

    @pytest.mark.parametrize("pair", [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")])
    def test_two_images_give_one_to_each_side(self, tmp_path, pair):
        dataset = read_dataset(write_voc(tmp_path, pair))
        assert (len(dataset.train), len(dataset.val)) == (1, 1)

    def test_train_alone_is_divided_and_test_stays(self, tmp_path):
        dataset = read_dataset(write_voc(tmp_path, MANY, {"train": MANY[:80], "test": MANY[80:]}))
        assert len(dataset.train) + len(dataset.val) == 80
        assert len(dataset.val) > 0
        assert names(dataset.test) == [f"{name}.jpg" for name in MANY[80:]]


class TestCleaning:
    def test_what_is_harmless_is_mended_and_counted(self, tmp_path):
        boxes = (
            (5, 6, 10, 8),
            (5, 6, 0, 8),  # no width
            (-20, 5, 15, 5),  # ends at x = -5
            (30, 20, 20, 20),  # reaches to (50, 40): the image ends at (40, 30)
            (30, 5, 10.9, 5),  # 0.9 pixels over the edge: clipped without counting
            (5, 6, 10, 8),  # the first again
        )
        dataset = read_dataset(write_coco(tmp_path, coco(boxes=boxes)))
        expected = np.array([[5, 6, 15, 14], [30, 20, 40, 30], [30, 5, 40, 10]], np.float32)
        for sample in all_samples(dataset):
            np.testing.assert_array_equal(sample.boxes, expected)
            assert len(sample.classes) == len(sample.crowd) == len(sample.areas) == 3
        assert dataset.cleaned == {  # in each of the two images
            "boxes without area left out": 2, "boxes outside the image left out": 2,
            "boxes over the edge clipped": 2, "repeated boxes left out": 2,
        }  # fmt: skip

    def test_boxes_alike_of_two_classes_both_stay(self, tmp_path):
        data = coco(boxes=((5, 6, 10, 8), (5, 6, 10, 8)))
        data["annotations"][0]["category_id"] = data["annotations"][2]["category_id"] = 2
        dataset = read_dataset(write_coco(tmp_path, data))
        assert dataset.train[0].classes.tolist() == [1, 0]
        assert dataset.cleaned == {}

    def test_description_has_every_count(self, tmp_path):
        write_coco(tmp_path, coco(names=("a.jpg", "b.jpg"), boxes=((5, 6, 10, 8), (1, 1, 0, 5))), "train.json")
        write_coco(tmp_path, coco(names=("c.jpg",)), "val.json")
        assert describe(read_dataset(tmp_path)) == [
            f"{tmp_path}: COCO JSON, 2 classes, split: the data's own",
            "  train: 2 images, 2 objects",
            "  val: 1 images, 1 objects",
            "  objects: cat 3, dog 0; 1 classes have none",
            "  boxes without area left out: 2",
        ]


class TestHash:
    def test_place_and_order_do_not_matter(self, tmp_path):
        data = coco(boxes=((5, 6, 10, 8), (1, 2, 3, 4)))
        first = read_dataset(write_coco(tmp_path / "here", data))
        shuffled = data | {"images": data["images"][::-1], "annotations": data["annotations"][::-1]}
        assert read_dataset(write_coco(tmp_path / "there", shuffled)).sha256 == first.sha256

    @pytest.mark.parametrize("changed", [
        coco(boxes=((5, 6, 10, 9),)),
        coco(names=("a.jpg", "c.jpg")),
        coco(categories=((1, "cat"), (2, "wolf"))),
        coco(iscrowd=0) | {"annotations": [e | {"category_id": 2} for e in coco()["annotations"]]},
    ])  # fmt: skip
    def test_labels_matter(self, tmp_path, changed):
        assert read_dataset(write_coco(tmp_path / "a", changed)).sha256 != read_dataset(write_coco(tmp_path / "b")).sha256


class TestRealData:
    def test_bccd(self, real_data):
        dataset = read_dataset(real_data / "bccd")
        assert (dataset.format, dataset.classes) == ("voc", ("Platelets", "RBC", "WBC"))
        assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [205, 87, 72]
        assert dataset.cleaned == {"boxes without area left out": 2}
        assert sum(len(sample.boxes) for sample in all_samples(dataset)) == 4888 - 2

    def test_coco_cc_free(self, real_data):
        dataset = read_dataset(real_data / "coco_cc_free")
        samples = all_samples(dataset)
        assert (dataset.format, len(dataset.classes), len(samples), len(dataset.test)) == ("coco", 80, 125, 0)
        assert sum(len(sample.boxes) for sample in samples) == 1213
        assert sum(int(sample.crowd.sum()) for sample in samples) == 16
        assert len({int(kind) for sample in samples for kind in sample.classes}) == 73
        assert all(read_image(sample).shape == (sample.height, sample.width, 3) for sample in samples)

    def test_formats_say_the_same_of_the_same_images(self, real_data, tmp_path):
        """The validation images of BCCD, written out as YOLO, read back as they were."""
        voc = read_dataset(real_data / "bccd")
        for split, samples in (("train", voc.train[:9]), ("val", voc.val[:9])):
            for sample in samples:
                path = tmp_path / "images" / split / sample.path.name
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(sample.path, path)
                size = np.array([sample.width, sample.height])
                centres, sides = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2 / size, (sample.boxes[:, 2:] - sample.boxes[:, :2]) / size
                rows = np.concatenate([sample.classes[:, None], centres, sides], axis=1).tolist()
                lines = [f"{int(row[0])} " + " ".join(f"{value:.9f}" for value in row[1:]) for row in rows]
                write_text(tmp_path / "labels" / split / f"{path.stem}.txt", os.linesep.join(lines))
        write_text(tmp_path / "classes.txt", "\n".join(voc.classes))
        yolo = read_dataset(tmp_path)
        for split in ("train", "val"):
            for expected, found in zip(voc.split(split)[:9], yolo.split(split), strict=True):
                np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
                assert found.classes.tolist() == expected.classes.tolist()
