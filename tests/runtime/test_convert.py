"""A data set written in another format says the same, or the command says what it does not; nothing is left half-written."""

import errno
import json
import os
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinanet_edge.runtime.dataset import read_dataset, read_image
from retinanet_edge.runtime.dataset_conversion import convert_dataset
from retinanet_edge.runtime.dataset_names import name_images
from retinanet_edge.runtime.errors import DatasetError, UserInputError

folders = runpy.run_path(str(Path(__file__).with_name("labelled_folders.py")))
coco, write_coco, write_image, write_text = (folders[name] for name in ("coco", "write_coco", "write_image", "write_text"))
write_voc, write_yolo = folders["write_voc"], folders["write_yolo"]

FORMATS = ("coco", "voc", "yolo")
SPLITS = ("train", "val", "test")


def three_splits(folder, **options):
    """A COCO data set with crowds, areas of its own and an image without objects."""
    boxes = ((5.25, 6.1, 10.3, 8), (1, 2, 3, 4), (0, 0, 40, 30))
    for split, names in (("train", ("a.jpg", "b.jpg")), ("val", ("c.jpg",)), ("test", ("d.jpg", "e.jpg"))):
        data = coco(names=names, boxes=boxes, **options)
        for number, entry in enumerate(data["annotations"]):
            entry |= {"category_id": 2 - number % 2, "area": 7.5 + number}
        data["annotations"][1] |= {"iscrowd": 1}
        if split == "test":
            data["annotations"] = data["annotations"][:3]  # d.jpg's
        write_coco(folder, data, f"annotations/instances_{split}.json", split)
    return folder


def assert_same(first, second, *, areas=True):
    """Both hold the same images, objects and split."""
    for split in SPLITS:
        for expected, found in zip(first.split(split), second.split(split), strict=True):
            assert (found.path.name, found.width, found.height) == (expected.path.name, expected.width, expected.height)
            assert found.path.read_bytes() == expected.path.read_bytes()
            np.testing.assert_array_equal(found.boxes, expected.boxes)
            assert [second.classes[kind] for kind in found.classes] == [first.classes[kind] for kind in expected.classes]
            assert found.crowd.tolist() == expected.crowd.tolist()
            if areas:
                assert found.areas.tolist() == expected.areas.tolist()


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


class TestRoundTrip:
    def test_coco_keeps_all(self, tmp_path):
        source = read_dataset(three_splits(tmp_path / "source"))
        convert_dataset(tmp_path / "source", "coco", tmp_path / "out")
        written = read_dataset(tmp_path / "out")
        assert_same(source, written)
        assert (written.sha256, written.classes, written.format) == (source.sha256, source.classes, "coco")

    def test_voc_keeps_all_but_areas(self, tmp_path):
        source = read_dataset(three_splits(tmp_path / "source"))
        lines = convert_dataset(tmp_path / "source", "voc", tmp_path / "voc")
        written = read_dataset(tmp_path / "voc")
        assert_same(source, written, areas=False)
        assert written.format == "voc"
        # a, b, c, d have three objects each with an area that is not their box's
        assert lines[1:] == ["  areas of segments left out, the boxes' areas count in their place: 12"]
        convert_dataset(tmp_path / "voc", "coco", tmp_path / "coco")
        assert read_dataset(tmp_path / "coco").sha256 == source.sha256

    def test_yolo_keeps_all_but_areas_and_crowds(self, tmp_path):
        source = read_dataset(three_splits(tmp_path / "source"))
        lines = convert_dataset(tmp_path / "source", "yolo", tmp_path / "yolo")
        written = read_dataset(tmp_path / "yolo")
        assert (written.format, written.classes, written.cleaned) == ("yolo", source.classes, {})
        for split in SPLITS:
            for expected, found in zip(source.split(split), written.split(split), strict=True):
                keep = ~expected.crowd
                np.testing.assert_allclose(found.boxes, expected.boxes[keep], atol=1e-6)
                assert found.classes.tolist() == expected.classes[keep].tolist()
        assert "with 9 objects" in lines[0]  # 12 without the crowd of a, of c and of d
        assert lines[1] == "  crowd boxes left out, for which YOLO has no mark: 3"

    @pytest.mark.parametrize("through", FORMATS)
    @pytest.mark.parametrize("first", FORMATS)
    def test_every_pair_comes_back(self, tmp_path, first, through):
        convert_dataset(write_yolo(tmp_path / "source"), first, tmp_path / "first")
        convert_dataset(tmp_path / "first", through, tmp_path / "through")
        convert_dataset(tmp_path / "through", first, tmp_path / "back")
        before, after = read_dataset(tmp_path / "first"), read_dataset(tmp_path / "back")
        assert_same(before, after)
        # The class without objects, "dog", has no place in VOC.
        assert (after.sha256 == before.sha256) is (first == "voc" or through != "voc")

    def test_a_division_by_names_becomes_the_data_s_own(self, tmp_path):
        source = read_dataset(write_coco(tmp_path / "source", coco(names=tuple(f"{n}.jpg" for n in range(20)))))
        convert_dataset(tmp_path / "source", "voc", tmp_path / "out")
        written = read_dataset(tmp_path / "out")
        assert_same(source, written)
        assert (source.split_rule[:10], written.split_rule) == ("all images", "the data's own")


class TestNames:
    def test_clashes(self):
        paths = [Path(name) for name in ("x/a.jpg", "y/a.jpg", "z/A.jpg", "a.png", "a-2.jpg", "b.jpg")]
        assert name_images(paths, by_stem=False, without_spaces=False) == ["a.jpg", "a-3.jpg", "A-4.jpg", "a.png", "a-2.jpg", "b.jpg"]
        assert name_images(paths, by_stem=True, without_spaces=False) == ["a.jpg", "a-3.jpg", "A-4.jpg", "a-5.png", "a-2.jpg", "b.jpg"]

    def test_many_of_one_name(self):
        names = name_images([Path(f"{n}/image.jpg") for n in range(5000)], by_stem=True, without_spaces=True)
        assert len(set(names)) == 5000
        assert names[:3] == ["image.jpg", "image-2.jpg", "image-3.jpg"]

    def test_spaces_and_bytes_that_are_no_text(self):
        paths = [Path("photo 1.jpg"), Path("photo_1.jpg"), Path(os.fsdecode(b"gr\xf6n.jpg"))]
        assert name_images(paths, by_stem=True, without_spaces=True) == ["photo_1.jpg", "photo_1-2.jpg", "gr_n.jpg"]
        assert name_images(paths, by_stem=True, without_spaces=False) == ["photo 1.jpg", "photo_1.jpg", "gr_n.jpg"]

    @pytest.mark.parametrize("to", FORMATS)
    def test_every_image_arrives_with_its_own_labels(self, tmp_path, to):
        """Two folders with images of the same names, a.jpg and a.png, "b 1.jpg" (VOC takes " 1" for a mark), and one without a suffix."""
        names = ("x/a.jpg", "y/a.jpg", "y/a.png", "y/b 1.jpg", "plain")
        data = coco(names=names)
        for number, entry in enumerate(data["annotations"]):
            entry["bbox"] = [number, 2, 10, 8]
        for split in ("train", "val"):
            for number, image in enumerate(data["images"]):
                path = tmp_path / "source" / split / image["file_name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                colour = (50 * number, 0, 200 if split == "val" else 0)
                Image.new("RGB", (40, 30), colour).save(path, format="PNG" if path.suffix == ".png" else "JPEG")
            write_text(tmp_path / "source" / f"{split}.json", json.dumps(data))
        lines = convert_dataset(tmp_path / "source", to, tmp_path / "out")
        written = read_dataset(tmp_path / "out")
        assert (len(written.train), len(written.val)) == (5, 5)
        for split in ("train", "val"):
            for sample in written.split(split):
                blue, _, red = read_image(sample)[0, 0].astype(int)
                assert sample.boxes[0, 0] == pytest.approx(round(red / 50), abs=1e-6)  # the picture's number
                assert bool(blue > 100) is (split == "val")
        assert any("renamed" in line for line in lines)


class TestImages:
    @pytest.mark.parametrize("to", FORMATS)
    def test_labels_on_the_image_as_stored(self, tmp_path, to):
        """EXIF turns the image, the labels state the size of what is stored: the boxes lie on the same pixels afterwards."""
        exif = Image.Exif()
        exif[0x0112] = 6
        write_coco(tmp_path / "source")
        write_image(tmp_path / "source" / "images" / "a.jpg", exif=exif)
        source = read_dataset(tmp_path / "source")
        convert_dataset(tmp_path / "source", to, tmp_path / "out")
        written = read_dataset(tmp_path / "out")
        for split in ("train", "val"):
            expected, found = source.split(split)[0], written.split(split)[0]
            assert found.path.stem == expected.path.stem
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-6)
            np.testing.assert_array_equal(read_image(found), read_image(expected))

    def test_links_share_the_file(self, tmp_path):
        source = read_dataset(write_voc(tmp_path / "source"))
        lines = convert_dataset(tmp_path / "source", "coco", tmp_path / "out", link=True)
        written = read_dataset(tmp_path / "out")
        assert all(a.path.samefile(b.path) for a, b in zip(source.train, written.train, strict=True))
        assert not written.train[0].path.is_symlink()
        assert "2 images are links" in lines[0]

    def test_links_of_links_lead_to_the_file(self, tmp_path):
        write_voc(tmp_path / "source")
        image = tmp_path / "source" / "JPEGImages" / "a.jpg"
        shutil.move(image, tmp_path / "kept.jpg")
        image.symlink_to("../../kept.jpg")
        convert_dataset(tmp_path / "source", "coco", tmp_path / "out", link=True)
        written = next((tmp_path / "out").glob("*/a.jpg"))
        assert written.samefile(tmp_path / "kept.jpg")
        assert not written.is_symlink()

    def test_without_links_images_are_copied(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)  # as between two disks
        source = read_dataset(write_voc(tmp_path / "source"))
        lines = convert_dataset(tmp_path / "source", "coco", tmp_path / "out", link=True)
        assert_same(source, read_dataset(tmp_path / "out"))
        assert "are links" not in lines[0]

    def test_copies_of_read_only_images_can_be_changed(self, tmp_path):
        write_voc(tmp_path / "source")
        (tmp_path / "source" / "JPEGImages" / "a.jpg").chmod(0o444)
        convert_dataset(tmp_path / "source", "coco", tmp_path / "out")
        assert next((tmp_path / "out").glob("*/a.jpg")).stat().st_mode & 0o200


class TestWhole:
    @pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
    def test_nothing_stays_of_what_did_not_end(self, tmp_path, monkeypatch, fault):
        write_voc(tmp_path / "source", "abcdef")
        copied = []

        def fail_at_third(source, target):
            copied.append(source)
            if len(copied) == 3:
                Path(target).write_bytes(b"half")
                raise fault

        monkeypatch.setattr(shutil, "copyfile", fail_at_third)
        with pytest.raises(type(fault)):
            convert_dataset(tmp_path / "source", "yolo", tmp_path / "new" / "out")
        assert len(copied) == 3
        assert left_in(tmp_path / "new") == []

    def test_full_disk_is_one_line(self, run):
        """Files may have 2 kB at most: the labels fit, an image does not."""
        write_voc(run.folder / "source", "ab")
        big = write_image(run.folder / "source" / "JPEGImages" / "a.png", 200, 200)
        shutil.move(big, run.folder / "source" / "JPEGImages" / "a.jpg")
        text = (run.folder / "source" / "Annotations" / "a.xml").read_text().replace(">40<", ">200<").replace(">30<", ">200<")
        write_text(run.folder / "source" / "Annotations" / "a.xml", text)
        write_text(run.folder / "limited.py", "import resource, runpy, signal, sys\n"
                   "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
                   "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n")  # fmt: skip
        command = Path(__file__).resolve().parents[2] / "runtime" / "convert.py"
        done = run(run.folder / "limited.py", command, "--data", "source", "--to", "coco", "--output", "out")
        assert done.code == 2
        assert "File too large: check the path, its permissions and the free disk space" in done.err
        assert "Traceback" not in done.err
        assert left_in(run.folder) == ["limited.py", "source"]

    def test_folder_that_holds_files_is_left_alone(self, tmp_path):
        write_voc(tmp_path / "source")
        write_text(tmp_path / "out" / "mine.txt", "mine")
        with pytest.raises(UserInputError, match="must be new or empty"):
            convert_dataset(tmp_path / "source", "coco", tmp_path / "out")
        assert left_in(tmp_path / "out") == ["mine.txt"]

    def test_empty_folder_is_taken(self, tmp_path):
        (tmp_path / "out").mkdir()
        convert_dataset(write_voc(tmp_path / "source"), "coco", tmp_path / "out")
        assert len(read_dataset(tmp_path / "out").train) == 1

    @pytest.mark.parametrize("output", ["source/out", "source/../source/Annotations/out", "file"])
    def test_places_that_are_refused(self, tmp_path, output):
        write_voc(tmp_path / "source")
        write_text(tmp_path / "file", "mine")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserInputError, match="--output"):
            convert_dataset(tmp_path / "source", "coco", tmp_path / output)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("name", ["", " cat", "cat\x07", "c\ud800t"])
    def test_class_names_that_xml_cannot_hold(self, tmp_path, name):
        write_coco(tmp_path / "source", coco(categories=((1, name), (2, "dog"))))
        with pytest.raises(DatasetError, match="to stand in Pascal VOC"):
            convert_dataset(tmp_path / "source", "voc", tmp_path / "out")
        convert_dataset(tmp_path / "source", "yolo", tmp_path / "out")
        assert read_dataset(tmp_path / "out").classes == (name, "dog")

    @pytest.mark.parametrize("to", FORMATS)
    def test_class_names_that_look_like_something_else(self, tmp_path, to):
        names = ("<b>&amp;", "größe 猫", "no", "null", "1", "a: b #c", '"quoted"')
        data = coco(categories=tuple(enumerate(sorted(names), start=1)))
        data["annotations"] = [
            entry | {"category_id": number, "id": 10 * entry["id"] + number} for entry in data["annotations"] for number in range(1, 8)
        ]
        source = read_dataset(write_coco(tmp_path / "source", data))
        convert_dataset(tmp_path / "source", to, tmp_path / "out")
        assert read_dataset(tmp_path / "out").classes == source.classes == tuple(sorted(names))


class TestCommand:
    def test_says_what_it_did(self, run):
        write_coco(run.folder / "source", coco(boxes=((5, 6, 10, 8), (1, 1, 0, 5))))
        done = run.must("runtime/convert.py", "--data", "source", "--to", "voc", "--output", "out/voc")
        assert done.out.splitlines() == [
            "wrote out/voc: Pascal VOC, 1 training, 1 validation images with 2 objects, "
            "split: all images divided 80/20 by a hash of the file name",
            "  boxes without area left out: 2",
            "  classes without objects left out, since Pascal VOC lists none: 1",
            "train on it with python training/train.py --data out/voc",
        ]
        assert left_in(run.folder / "out") == ["voc"]

    def test_broken_data_is_one_line(self, run):
        write_voc(run.folder / "source")
        (run.folder / "source" / "JPEGImages" / "a.jpg").unlink()
        done = run("runtime/convert.py", "--data", "source", "--to", "coco", "--output", "out")
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert "a.jpg does not exist" in done.err
        assert left_in(run.folder) == ["source"]


class TestRealData:
    @pytest.mark.parametrize("to", FORMATS)
    def test_bccd_comes_back(self, real_data, tmp_path, to):
        source = read_dataset(real_data / "bccd")
        convert_dataset(real_data / "bccd", to, tmp_path / "there")
        convert_dataset(tmp_path / "there", "voc", tmp_path / "back", link=True)
        back = read_dataset(tmp_path / "back")
        assert (back.sha256, back.cleaned) == (source.sha256, {})

    def test_coco_cc_free(self, real_data, tmp_path):
        source = read_dataset(real_data / "coco_cc_free")
        convert_dataset(real_data / "coco_cc_free", "coco", tmp_path / "coco")
        assert_same(source, read_dataset(tmp_path / "coco"))
        assert read_dataset(tmp_path / "coco").sha256 == source.sha256
