"""The check of a labelled folder: everything that is broken, what is doubtful, what it holds, and pictures of it."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinanet_edge.runtime.contact_sheet import choose_samples, draw_sheet
from retinanet_edge.runtime.dataset import Sample, read_dataset
from retinanet_edge.runtime.dataset_check import check_dataset
from retinanet_edge.runtime.dataset_images import read_image_file
from retinanet_edge.runtime.dataset_summary import summarize
from retinanet_edge.runtime.draw import class_color
from retinanet_edge.runtime.errors import DatasetError

folders = runpy.run_path(str(Path(__file__).with_name("labelled_folders.py")))
coco, write_coco, write_image, write_text = (folders[name] for name in ("coco", "write_coco", "write_image", "write_text"))
write_voc, write_yolo = folders["write_voc"], folders["write_yolo"]


def write_pictures(folder, data=None, **options):
    """A COCO data set, no two images of which are alike."""
    write_coco(folder, data, **options)
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        Image.new("RGB", (40, 30), (10 * number, 90, 200)).save(path)
    return folder


def rows_of(lines, title):
    """The table below a title, cells by the words of its rows."""
    start = next(index for index, line in enumerate(lines) if line.startswith(title)) + 1
    end = next((index for index in range(start, len(lines)) if not lines[index]), len(lines))
    return [line.split() for line in lines[start:end]]


class TestBroken:
    def test_everything_is_listed(self, tmp_path):
        data = coco(names=tuple(f"{letter}.jpg" for letter in "abcdefgh"))
        data["annotations"][3] |= {"bbox": [9, 9, -3, 4]}  # of d
        data["images"][4] |= {"width": 41}  # of e
        write_pictures(tmp_path, data)
        images = tmp_path / "images"
        (images / "a.jpg").unlink()
        (images / "b.jpg").write_bytes(b"")
        (images / "c.jpg").write_bytes((images / "c.jpg").read_bytes()[:-40])
        checked = check_dataset(tmp_path)
        assert len(checked.problems) == 5
        for name, what in (("a", "does not exist"), ("b", "empty file"), ("c", "corrupt"), ("d", "width and height"), ("e", "41x30")):
            assert any(f"{name}.jpg" in problem and what in problem for problem in checked.problems)
        whole = sorted(sample.path.name for samples in checked.splits.values() for sample in samples)
        assert whole == ["f.jpg", "g.jpg", "h.jpg"]
        assert summarize(checked)[-6] == "broken: 5"

    def test_pixels_that_do_not_decode(self, tmp_path):
        """The header is whole and so is the end; what lies between is no image data."""
        write_pictures(tmp_path, coco(names=("a.png", "b.jpg", "c.jpg")))
        path = write_image(tmp_path / "images" / "a.png")
        data = path.read_bytes()
        path.write_bytes(data[:41] + bytes(len(data) - 41 - 12) + data[-12:])
        assert read_dataset(tmp_path).train  # which looks at headers alone
        checked = check_dataset(tmp_path)
        assert len(checked.problems) == 1
        assert f"image {path} must decode" in checked.problems[0]
        assert len(checked.splits["train"]) + len(checked.splits["val"]) == 2

    @pytest.mark.parametrize("spoil", [
        lambda folder: (folder / "images" / "a.jpg").unlink(),
        lambda folder: write_text(folder / "instances.json", json.dumps(coco(names=("a.jpg",)))),
        lambda folder: write_text(folder / "instances.json", json.dumps(coco(iscrowd=1))),
        lambda folder: write_text(folder / "instances.json", json.dumps(coco() | {"annotations": []})),
        lambda folder: write_text(folder / "instances.json", json.dumps(coco() | {"categories": []})),
        lambda folder: shutil.rmtree(folder),
        lambda _: None,
    ])  # fmt: skip
    def test_broken_is_what_reading_refuses(self, tmp_path, spoil):
        def refused(call):
            try:
                return bool(call(tmp_path / "data"))
            except DatasetError:
                return True

        write_pictures(tmp_path / "data")
        spoil(tmp_path / "data")
        by_reading = refused(lambda folder: not read_dataset(folder))
        assert refused(lambda folder: check_dataset(folder).problems) is by_reading

    def test_every_mistake_in_yolo_labels(self, tmp_path):
        problems = check_dataset(write_yolo(tmp_path, line="7 .5 .5 .1 .1\n0 .5 .5 .1 .1\n1 .5")).problems
        assert len(problems) == 6
        assert all(f"{letter}.txt: line {number} " in problem for problem, letter, number in zip(problems, "aabbcc", "131313", strict=True))

    def test_every_mistake_in_coco_labels(self, tmp_path):
        data = coco(names=tuple(f"{letter}.jpg" for letter in "abcdef"), boxes=((5, 6, 10, 8), (1, 1, 4, 4)))
        write_pictures(tmp_path, data)
        data["annotations"][0]["category_id"] = 9
        data["annotations"][3]["image_id"] = 99
        data["images"][4]["file_name"] = "../../x.jpg"
        write_text(tmp_path / "instances.json", json.dumps(data))
        problems = "\n".join(check_dataset(tmp_path).problems)
        for what in ("annotation 101 must have a category", "annotation 202 must name an image", "image 5 must name a file inside"):
            assert what in problems

    def test_every_mistake_in_voc_labels(self, tmp_path):
        write_voc(tmp_path, "abcdefgh")
        write_text(tmp_path / "Annotations" / "a.xml", "<x")
        write_text(tmp_path / "Annotations" / "b.xml", "<html/>")
        problems = check_dataset(tmp_path).problems
        assert ["a.xml must be XML" in problems[0], "b.xml must have the root" in problems[1]] == [True, True]

    def test_settings_that_cannot_be_read(self, tmp_path):
        write_yolo(tmp_path, settings="names: [cat")
        with pytest.raises(DatasetError, match=r"must be YAML.*nothing behind it was checked: mend this first"):
            check_dataset(tmp_path)


class TestAlike:
    def test_leaks_and_repetitions(self, tmp_path):
        write_pictures(tmp_path, coco(names=("a.jpg", "b.jpg", "c.png", "d.jpg")), file="train.json")
        write_coco(tmp_path, coco(names=("e.png", "f.jpg")), file="val.json")
        images = tmp_path / "images"
        for number, name in enumerate(("a.jpg", "b.jpg", "c.png", "d.jpg", "f.jpg")):
            Image.new("RGB", (40, 30), (40 * number, 90, 200)).save(images / name)
        shutil.copy(images / "a.jpg", images / "b.jpg")
        Image.open(images / "c.png").save(images / "e.png", compress_level=0)  # other bytes, the same picture
        assert (images / "c.png").read_bytes() != (images / "e.png").read_bytes()
        checked = check_dataset(tmp_path)
        groups = [[(split, sample.path.name) for split, sample in group] for group in checked.alike]
        assert groups == [[("train", "a.jpg"), ("train", "b.jpg")], [("train", "c.png"), ("val", "e.png")]]
        assert checked.leaks == checked.alike[1:]
        assert checked.problems == ()
        lines = summarize(checked)
        said = "images of the same pixels: 2 groups, 1 of them in more than one split: AP on those says nothing, take them out of one"
        start = lines.index(said)
        assert lines[start + 1] == f"  train {images}/c.png, val {images}/e.png"  # leaks first
        assert lines[start + 2] == f"  train {images}/a.jpg, train {images}/b.jpg"

    def test_same_bytes_of_another_shape_differ(self, tmp_path):
        data = coco(names=("a.png", "b.png"), boxes=((1, 2, 5, 5),))
        data["images"][1] |= {"width": 30, "height": 40}
        write_coco(tmp_path, data)
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.png")
        Image.new("RGB", (30, 40)).save(tmp_path / "images" / "b.png")
        assert check_dataset(tmp_path).alike == ()

    def test_long_lists_end(self, tmp_path):
        names = tuple(f"{number}.jpg" for number in range(48))
        write_coco(tmp_path, coco(names=names))
        for number in range(48):
            Image.new("RGB", (40, 30), (10 * (number // 2), 0, 0)).save(tmp_path / "images" / f"{number}.jpg")
        lines = summarize(check_dataset(tmp_path))
        assert "  and 4 groups more" in lines  # 24 pairs, 20 shown


class TestSummary:
    def test_numbers(self, tmp_path):
        train = coco(names=("a.jpg", "b.jpg", "c.jpg"), boxes=((0, 0, 10, 20), (5, 5, 20, 20), (1, 1, 0, 5)))
        train["annotations"] = [entry for entry in train["annotations"] if entry["image_id"] != 3]
        train["annotations"][1] |= {"category_id": 2, "area": 2000}  # stated: medium, though the box has 400
        train["annotations"][3] |= {"area": 9216}  # 96 * 96
        train["annotations"][4] |= {"iscrowd": 1}
        write_pictures(tmp_path, train, file="train.json")
        write_pictures(tmp_path, coco(names=("d.jpg",)), file="val.json")
        lines = summarize(check_dataset(tmp_path))
        assert lines[0] == f"{tmp_path}: COCO JSON, 4 images, 2 classes, split: the data's own"
        assert rows_of(lines, "images and boxes")[1:] == [["train", "3", "4", "1", "1"], ["val", "1", "1", "0", "0"]]
        # train: a has cat and dog, b two cats of which one crowd; val: a cat
        assert rows_of(lines, "boxes of each class")[1:] == [["cat", "3", "1", "4", "3"], ["dog", "1", "0", "1", "1"]]
        # areas: 200 and 80 (val), 2000, 9216; the crowd is left out
        sizes = rows_of(lines, "boxes by COCO's size classes")
        assert [row[-2:] for row in sizes[1:]] == [["2", "50%"], ["1", "25%"], ["1", "25%"]]
        assert lines[lines.index("cleaned when read:") + 1] == "  boxes without area left out: 2"
        assert lines[-1] == "broken: nothing"

    def test_percentiles(self, tmp_path):
        boxes = tuple((0, 0, width, 10) for width in (4, 8, 12, 16, 20))
        write_pictures(tmp_path, coco(names=("a.jpg", "b.jpg"), boxes=boxes))
        table = {" ".join(row[:-7]): [float(cell) for cell in row[-7:]] for row in rows_of(summarize(check_dataset(tmp_path)), "sizes")[1:]}
        # ten boxes, two of each width; the 25th percentile is at position 0.25 * 9 = 2.25, in the second pair or just behind it
        assert table["box width, pixels"] == [4, 4, 8, 12, 16, 20, 20]
        assert table["box width / image width"] == [0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5]  # of 40
        assert table["box height / image height"] == [0.3333] * 7  # 10 of 30
        assert table["box height / box width"] == [0.5, 0.5, 0.625, 0.8333, 1.25, 2.5, 2.5]
        assert table["box size, pixels (root of its area)"][0] == 6.325  # root of 40
        assert table["boxes on an image"] == [5] * 7
        assert table["image width, pixels"] == [40] * 7

    def test_nothing_usable(self, tmp_path):
        write_coco(tmp_path)
        shutil.rmtree(tmp_path / "images")
        lines = summarize(check_dataset(tmp_path))
        assert "broken: 4" in lines  # two images, and train and val without objects
        assert rows_of(lines, "boxes of each class")[1:] == [["cat", "0", "0"], ["dog", "0", "0"]]


class TestSheet:
    @staticmethod
    def samples(*classes):
        return tuple(
            Sample(Path(str(number)), 30, 40, np.zeros((1, 4), np.float32), np.array([kind]), np.zeros(1, np.bool_), np.ones(1, np.float32))
            for number, kind in enumerate(classes)
        )

    def test_rare_classes_come_first(self):
        splits = {"train": self.samples(*[0] * 50, 1, *[0] * 50, 2), "val": self.samples(*[0] * 9, 3)}
        chosen = choose_samples(splits, 4)
        assert sorted((split, int(sample.classes[0])) for split, sample in chosen) == [("train", k) for k in range(3)] + [("val", 3)]

    def test_the_rest_is_spread(self):
        chosen = choose_samples({"train": self.samples(*[0] * 100)}, 11)
        numbers = [int(sample.path.name) for _, sample in chosen]
        assert len(set(numbers)) == 11
        assert max(np.diff([0, *numbers, 100])) <= 20

    def test_fewer_images_than_places(self):
        assert len(choose_samples({"train": self.samples(0, 1, 2)}, 24)) == 3

    def test_boxes_stand_where_they_belong(self, tmp_path):
        """An image of 200x100 fills a tile of 400x200, twice as large: its box (50, 20, 150, 80) becomes (100, 40, 300, 160)."""
        image = tmp_path / "a.png"
        Image.new("RGB", (200, 100), (9, 9, 9)).save(image)
        box = np.array([[50, 20, 150, 80]], np.float32)
        sample = Sample(image, 100, 200, box, np.array([1]), np.zeros(1, np.bool_), np.array([6000], np.float32))
        sheet = draw_sheet([("train", sample)], ["cat", "dog"])
        tile = sheet[8:, 8:]  # behind the gap
        for row, column in ((100, 100), (100, 300), (160, 200)):
            assert tuple(tile[row, column]) == class_color(1)
        assert tuple(tile[100, 200]) == (9, 9, 9)
        assert tuple(tile[199, 399]) == (9, 9, 9)
        assert (tile[200 + 24 :] == 255).all()
        assert (tile[200:224] < 128).any()  # the caption

    def test_pictures_of_any_shape_and_none(self, tmp_path):
        shapes = ((1, 1), (1000, 3), (3, 1000), (50, 50), (20, 30))
        samples = []
        for number, (width, height) in enumerate(shapes):
            path = tmp_path / f"{number}.png"
            Image.new("RGB", (width, height)).save(path)
            none = np.zeros((0, 4), np.float32)
            samples.append(Sample(path, height, width, none, np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0, np.float32)))
        # 5 images: root of 7.5 -> 3 columns, 2 rows; the tallest images are 400 high in the first row, in the second 400 (50x50)
        assert draw_sheet([("train", sample) for sample in samples], []).shape == (8 + 2 * (400 + 24 + 8), 8 + 3 * 408, 3)
        assert (draw_sheet([], []) == 255).all()


class TestCommand:
    def test_whole_data(self, run):
        write_pictures(run.folder / "data")
        done = run.must("runtime/check_data.py", "--data", "data", "--sheet", "out/sheet.jpg", "--images", 1)
        assert done.out.splitlines()[0].startswith("data: COCO JSON, 2 images, 2 classes")
        assert done.out.splitlines()[-1] == "wrote out/sheet.jpg: 1 labelled images"
        assert read_image_file(run.folder / "out" / "sheet.jpg").shape == (8 + 300 + 24 + 8, 2 * 408 + 8, 3)  # 40x30 -> 400x300

    def test_broken_data_is_code_2_after_the_summary(self, run):
        write_voc(run.folder / "data", "abc", {"train": ["a", "b"], "val": ["c"]})
        (run.folder / "data" / "JPEGImages" / "a.jpg").unlink()
        done = run("runtime/check_data.py", "--data", "data", "--sheet", "sheet.png")
        assert done.code == 2
        assert done.err == "error: data must be whole to train on, got 1 broken things, listed above: mend or remove them\n"
        assert "broken: 1\n  image data/JPEGImages/a.jpg does not exist though data/Annotations/a.xml names it" in done.out
        assert (run.folder / "sheet.png").is_file()  # of what is whole

    def test_sheet_of_another_kind(self, run):
        done = run("runtime/check_data.py", "--data", "data", "--sheet", "sheet.pdf")
        assert (done.code, done.out) == (2, "")
        assert "argument --sheet: must be a file that ends in .png or .jpg, got sheet.pdf" in done.err


class TestRealData:
    def test_bccd(self, real_data):
        checked = check_dataset(real_data / "bccd")
        assert (checked.problems, checked.alike) == ((), ())
        assert {split: len(samples) for split, samples in checked.splits.items()} == {"train": 205, "val": 87, "test": 72}
        assert checked.cleaned == read_dataset(real_data / "bccd").cleaned

    def test_coco_cc_free(self, real_data):
        checked = check_dataset(real_data / "coco_cc_free")
        assert checked.problems == ()
        dataset = read_dataset(real_data / "coco_cc_free")
        assert [sample.path for sample in checked.splits["val"]] == [sample.path for sample in dataset.val]
        chosen = choose_samples(checked.splits, 24)
        assert len({int(kind) for _, sample in chosen for kind in sample.classes}) > 60  # of 73
