"""Images of a data set: whole or cut off, turned or as stored, of whatever kind, and changed behind one's back."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinanet_edge.runtime.dataset import read_dataset, read_image
from retinanet_edge.runtime.dataset_images import read_header
from retinanet_edge.runtime.errors import DatasetError

folders = runpy.run_path(str(Path(__file__).with_name("labelled_folders.py")))
coco, write_coco, write_image, write_text = (folders[name] for name in ("coco", "write_coco", "write_image", "write_text"))


def sample_of(path, dataset):
    return next(sample for sample in (*dataset.train, *dataset.val) if sample.path == path)


@pytest.mark.parametrize(("stated", "turned"), [((30, 40), True), ((40, 30), False)])
def test_orientation_is_the_one_the_labels_state(tmp_path, stated, turned):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    write_coco(tmp_path)
    path = write_image(tmp_path / "images" / "a.jpg", exif=exif)
    data = json.loads((tmp_path / "instances.json").read_text())
    data["images"][0] |= {"width": stated[0], "height": stated[1]}
    write_text(tmp_path / "instances.json", json.dumps(data))
    sample = sample_of(path, read_dataset(tmp_path))
    image = read_image(sample)
    assert image.shape == (sample.height, sample.width, 3) == (stated[1], stated[0], 3)
    stored = np.asarray(Image.open(path))[:, :, ::-1]
    expected = np.rot90(stored, -1) if turned else stored
    assert np.abs(image.astype(int) - expected).max() <= 6  # two JPEG decoders


@pytest.mark.parametrize(("suffix", "mode"), [(".png", "L"), (".png", "RGBA"), (".png", "I;16"), (".bmp", "RGB"), (".webp", "RGB")])
def test_every_kind_of_image_becomes_bgr(tmp_path, suffix, mode):
    path = tmp_path / "images" / f"a{suffix}"
    write_coco(tmp_path, coco(names=(path.name, "b.jpg")))
    Image.new(mode, (40, 30)).save(path)
    sample = sample_of(path, read_dataset(tmp_path))
    image = read_image(sample)
    assert (image.shape, image.dtype) == ((30, 40, 3), np.uint8)


def test_jpeg_with_thumbnail_and_trailing_bytes_is_whole(tmp_path):
    path = write_image(tmp_path / "a.jpg", 400, 300)
    data, small = path.read_bytes(), write_image(tmp_path / "small.jpg").read_bytes()
    metadata = b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small  # an APP1 segment with an image of its own
    whole = data[:2] + metadata + data[2:]
    path.write_bytes(whole + bytes(1000))
    assert read_header(path).stored == (400, 300)
    path.write_bytes(whole[:-2000])
    with pytest.raises(DatasetError, match="whole"):
        read_header(path)


def test_image_that_changes_after_reading(tmp_path):
    sample = read_dataset(write_coco(tmp_path)).train[0]
    write_image(sample.path, 17, 19)
    with pytest.raises(DatasetError, match=r"must be 40x30 .* got 17x19"):
        read_image(sample)
    sample.path.unlink()
    with pytest.raises(DatasetError, match="does not exist"):
        read_image(sample)
