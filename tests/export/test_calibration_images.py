"""Which images are taken to calibrate on, how they are fitted, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinanet_edge.export.calibration_images import choose_images
from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.errors import DatasetError, UserInputError
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.model_card import InputSpec
from tests import squares

SPEC = InputSpec(32, 48, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of different sizes, each of one grey that says which it is; some deeper, one named in capitals."""
    made = tmp_path / "images"
    (made / "deeper").mkdir(parents=True)
    for index in range(12):
        name = f"{'deeper/' if index > 9 else ''}{index:02}{'.PNG' if index == 3 else '.png'}"
        cv2.imwrite(str(made / name), np.full((20 + index, 40, 3), index + 1, np.uint8))
    (made / "notes.txt").write_text("no image")
    return made


def chosen(folder: Path, count: int, seed: int = 0) -> list[int]:
    return [int(image[0, 0, 0]) for image in choose_images(folder, SPEC, count, seed)]


def test_the_seed_decides_and_more_images_begin_with_the_same(folder: Path) -> None:
    assert chosen(folder, 5) == chosen(folder, 5) == chosen(folder, 9)[:5]
    assert chosen(folder, 5) != chosen(folder, 5, seed=1)
    assert len(set(chosen(folder, 5))) == 5
    assert sorted(chosen(folder, 12)) == list(range(1, 13))  # all images below, and no other file
    assert chosen(folder, 12) != list(range(1, 13))  # shuffled


def test_images_pass_through_the_runtimes_letterbox(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (50, 41, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), frame)
    (image,) = choose_images(tmp_path, SPEC, 1, 0)
    np.testing.assert_array_equal(image, Letterbox(50, 41, 32, 48).apply(frame))


def test_a_labelled_split_gives_its_own_images(tmp_path: Path) -> None:
    squares.write_dataset(tmp_path / "data", train=3, val=2)
    samples = read_dataset(tmp_path / "data").train
    found = {image.tobytes() for image in choose_images(samples, InputSpec(64, 64, SPEC.mean, SPEC.std), 3, 0)}
    assert found == {cv2.imread(str(sample.path)).tobytes() for sample in samples}


def test_fewer_than_asked_for_are_all_taken_and_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(chosen(folder, 12)) == 12
    assert capsys.readouterr().out == ""
    assert len(chosen(folder, 13)) == 12
    assert capsys.readouterr().out == "13 images to calibrate on were asked for, 12 are there: using all\n"


def test_the_hash_is_of_pixels_and_their_order(folder: Path) -> None:
    first = choose_images(folder, SPEC, 4, 0).sha256()
    assert choose_images(folder, SPEC, 4, 0).sha256() == first
    assert choose_images(folder, SPEC, 4, 0)[:3].sha256() != first
    assert choose_images(folder, SPEC, 4, 1).sha256() != first
    name = next(path for path in folder.rglob("*") if path.stem == f"{chosen(folder, 4)[0] - 1:02}")
    cv2.imwrite(str(name), cv2.imread(str(name)) + 100)
    assert choose_images(folder, SPEC, 4, 0).sha256() != first


def test_a_folder_that_is_none_or_has_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, found in [("missing", "nothing there"), ("file.png", "a file"), ("empty", "one without")]:
        with pytest.raises(UserInputError, match=rf"^--calibration must be a folder with images \(.*\), got {found}: .*{name}$"):
            choose_images(tmp_path / name, SPEC, 1, 0)


def test_corrupt_images_are_named(folder: Path) -> None:
    (folder / "02.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"02\.png must hold an image, got an empty file"):
        choose_images(folder, SPEC, 1, 0)
    for index in range(3, 10):
        (folder / f"{index:02}.png").write_bytes(b"\x89PNG\r\n\x1a\nlost")
    with pytest.raises(DatasetError, match=re.escape("got 8 that are not (02.png, 03.png, 04.png, 05.png, 06.png and 3 more): replace")):
        choose_images(folder, SPEC, 1, 0)


def test_an_image_that_only_decoding_finds_corrupt_is_named_by_the_hash(folder: Path) -> None:
    cv2.imwrite(str(folder / "00.png"), np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    data = (folder / "00.png").read_bytes()
    (folder / "00.png").write_bytes(data[:41] + bytes(len(data) - 53) + data[-12:])  # header and end are whole
    images = choose_images(folder, SPEC, 12, 0)
    with pytest.raises(DatasetError, match=r"00\.png must decode"):
        images.sha256()
