"""Names in label files lead to files of the data folder only, whoever wrote them."""

import json
import runpy
from pathlib import Path

import pytest

from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.dataset_labels import find_inside
from retinanet_edge.runtime.errors import DatasetError

folders = runpy.run_path(str(Path(__file__).with_name("labelled_folders.py")))
coco, write_coco, write_image, write_text = (folders[name] for name in ("coco", "write_coco", "write_image", "write_text"))
write_voc, write_yolo, voc_xml = folders["write_voc"], folders["write_yolo"], folders["voc_xml"]


@pytest.fixture
def outside(tmp_path):
    """An image beside the data folder, which a label file must not reach."""
    return write_image(tmp_path / "secret.jpg")


def paths_of(folder):
    dataset = read_dataset(folder)
    return sorted(sample.path for sample in (*dataset.train, *dataset.val))


def refusal(folder):
    with pytest.raises(DatasetError) as refused:
        read_dataset(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


class TestFindInside:
    @pytest.mark.parametrize(("name", "found"), [
        ("a.jpg", "images/a.jpg"),
        ("sub/../a.jpg", "images/a.jpg"),
        ("../other/a.jpg", "other/a.jpg"),
        ("..a.jpg", "images/..a.jpg"),  # two dots that lead nowhere
    ])  # fmt: skip
    def test_inside(self, tmp_path, name, found):
        assert find_inside(name, [tmp_path / "images"], [tmp_path], "it") == tmp_path / found

    @pytest.mark.parametrize("name", ["../../x.jpg", "../../etc/x.jpg", "/etc/x.jpg", "a/../../../x.jpg", "../../dataset/x.jpg"])
    def test_outside(self, tmp_path, name):
        base = tmp_path / "data"  # of which "dataset" is no part
        with pytest.raises(DatasetError, match="it must name a file inside"):
            find_inside(name, [base / "images"], [base], "it")

    def test_relative_folders(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert find_inside("../b/x.jpg", [Path("data/a")], [Path("data")], "it") == Path("data/b/x.jpg")
        assert find_inside(f"{tmp_path}/data/x.jpg", [Path("data/a")], [Path("data")], "it") == tmp_path / "data" / "x.jpg"
        with pytest.raises(DatasetError):
            find_inside("../../x.jpg", [Path("data/a")], [Path("data")], "it")
        with pytest.raises(DatasetError):
            find_inside("../x.jpg", [Path()], [Path()], "it")

    def test_first_folder_that_has_it(self, tmp_path):
        write_text(tmp_path / "b" / "x.jpg", "")
        assert find_inside("x.jpg", [tmp_path / "a", tmp_path / "b"], [tmp_path], "it") == tmp_path / "b" / "x.jpg"
        assert find_inside("y.jpg", [tmp_path / "a", tmp_path / "b"], [tmp_path], "it") == tmp_path / "a" / "y.jpg"

    def test_what_is_checked_is_what_is_opened(self, tmp_path, outside):
        """images/ is a link to a folder elsewhere: through it, ".." would lead beside that folder."""
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere")
        found = find_inside("../secret.jpg", [tmp_path / "data" / "images"], [tmp_path / "data"], "it")
        assert (tmp_path / "data" / "images" / ".." / "secret.jpg").is_file()
        assert found == tmp_path / "data" / "secret.jpg"
        assert outside.is_file()
        assert not found.exists()


class TestCoco:
    @pytest.mark.parametrize("file", ["instances.json", "annotations/instances_train.json"])
    @pytest.mark.parametrize("name", ["../../secret.jpg", "../../../etc/x.jpg", "{outside}"])
    def test_name_that_leads_out(self, tmp_path, outside, file, name):
        data = coco()
        write_coco(tmp_path / "data", data, file)
        data["images"][0]["file_name"] = name.format(outside=outside)
        write_text(tmp_path / "data" / file, json.dumps(data))
        assert f"{file}: image 1 must name a file inside {tmp_path}/data, got " in refusal(tmp_path / "data")

    def test_name_that_goes_through_the_annotations_folder(self, tmp_path):
        write_coco(tmp_path, file="annotations/instances.json")
        data = coco(names=("../images/a.jpg", f"{tmp_path}/images/b.jpg"))
        write_text(tmp_path / "annotations" / "instances.json", json.dumps(data))
        assert paths_of(tmp_path) == [tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg"]

    def test_images_that_are_links(self, tmp_path, outside):
        write_coco(tmp_path / "data")
        (tmp_path / "data" / "images" / "a.jpg").unlink()
        (tmp_path / "data" / "images" / "a.jpg").symlink_to(outside)
        assert len(paths_of(tmp_path / "data")) == 2


class TestVoc:
    def test_filename_that_leads_out(self, tmp_path, outside):
        write_voc(tmp_path / "data", "ab")
        (tmp_path / "data" / "JPEGImages" / "a.jpg").unlink()
        text = voc_xml("a").replace("a.jpg", f"../../{outside.name}")
        write_text(tmp_path / "data" / "Annotations" / "a.xml", text)
        assert f"Annotations/a.xml: filename must name a file inside {tmp_path}/data, got '../../secret.jpg'" in refusal(tmp_path / "data")

    def test_list_that_leads_out(self, tmp_path):
        write_text(tmp_path / "secret.xml", voc_xml("a"))
        write_voc(tmp_path / "data", "ab", {"train": ["a", "../../secret"], "val": ["b"]})
        assert "ImageSets/Main: a list must name a file inside" in refusal(tmp_path / "data")


class TestYolo:
    SETTINGS = "train: train.txt\nval: images/val\nnames: [cat, dog]\n"

    @pytest.mark.parametrize("line", ["../secret.jpg", "images/../../secret.jpg", "/etc/secret.jpg"])
    def test_list_that_leads_out(self, tmp_path, outside, line):
        write_yolo(tmp_path / "data", settings=self.SETTINGS)
        write_text(tmp_path / "data" / "train.txt", f"images/train/a.jpg\n{line}\n")
        assert outside.is_file()
        assert f"data/train.txt must name a file inside {tmp_path}/data, got '{line}'" in refusal(tmp_path / "data")

    def test_lists_of_other_folders_inside(self, tmp_path):
        write_yolo(tmp_path, settings=self.SETTINGS.replace("train.txt", "lists/train.txt"))
        write_text(tmp_path / "lists" / "train.txt", f"../images/train/a.jpg\n{tmp_path}/images/train/b.jpg\n")
        assert [path.name for path in paths_of(tmp_path)] == ["a.jpg", "b.jpg", "c.jpg"]

    @pytest.mark.parametrize("entry", ["../out/images/train", "{parent}/out/images/train", "../data/../out/images/train"])
    def test_folders_outside_the_data_folder_are_not_read(self, tmp_path, entry):
        write_yolo(tmp_path / "out", settings="")
        write_yolo(tmp_path / "data", settings=f"train: {entry.format(parent=tmp_path)}\nval: images/val\nnames: [cat, dog]\n")
        with pytest.raises(DatasetError, match="train must be a folder or list of images in the data folder, got "):
            read_dataset(tmp_path / "data")

    def test_the_whole_machine_is_no_data_folder(self, tmp_path):
        settings = f"path: /\ntrain: {tmp_path}/data/images/train\nval: images/val\nnames: [cat, dog]\n"
        write_yolo(tmp_path / "data", settings=settings)
        with pytest.raises(DatasetError, match="path must be the folder of the data, got /, which holds the whole machine"):
            read_dataset(tmp_path / "data")

    def test_path_names_another_data_folder(self, tmp_path):
        write_yolo(tmp_path / "data", settings="")
        write_text(tmp_path / "data" / "lists" / "train.txt", "../images/train/a.jpg\n")
        settings = f"path: {tmp_path}/data\ntrain: lists/train.txt\nval: images/val\nnames: [cat, dog]\n"
        write_text(tmp_path / "settings" / "mine.yaml", settings)
        assert [path.name for path in paths_of(tmp_path / "settings")] == ["a.jpg", "c.jpg"]
