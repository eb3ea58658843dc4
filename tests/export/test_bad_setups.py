"""Calibration that is set up as users are known to do it wrong: the command gives the verdict, not an engine; set up right it passes.

Two small models that INT8 does not hurt, and that are hurt as the set-ups would hurt large ones: of signs by day and by night, all in warm
colours, on images narrower than the input; and of signs on wide images that fill it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from retinanet_edge.export.calibrate import activation_ranges
from retinanet_edge.export.calibration_images import choose_images
from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.engine import open_engine
from retinanet_edge.runtime.model_folder import INT8_FILE, ONNX_FILE, file_sha256, read_card
from retinanet_edge.runtime.quantization_plan import LEARNED_RANGES_FILE, QUANTIZATION_FILE, read_plan, write_plan
from tests.conftest import SMALL_NETWORK, Commands, Finished

COMMAND = "export/build_engine.py"
CLASSES = ("stop", "yield")
ALLOWED: Final = 1.5  # points of AP; of 24 images and networks that small half a point is chance
_BGR = ((20, 20, 230), (30, 200, 230))
_AT_NIGHT = 0.3  # of the brightness by day

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Signs:
    """A folder with the labelled images `data` and the exported, quantized `model`; `said`: by the command that quantized it."""

    folder: Path
    said: Finished

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def data(self) -> Path:
        return self.folder / "data"


def write_signs(folder: Path, *, height: int, width: int, count: int, night: float) -> None:
    """Write a COCO data set of `count` signs side by side on each image; so much of the images is taken by night."""
    generator = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, images in (("train", 48), ("val", 24)):
        (folder / split).mkdir()
        labels: dict[str, list[dict[str, Any]]] = {
            "images": [{"id": index, "file_name": f"{index}.png", "width": width, "height": height} for index in range(images)],
            "annotations": [],
            "categories": [{"id": index, "name": name} for index, name in enumerate(CLASSES)],
        }
        for index in range(images):
            image = generator.integers(90, 130, (height, width, 3), dtype=np.uint8)
            for left in range(0, width, width // count):
                side, kind = int(generator.integers(20, 29)), int(generator.integers(len(CLASSES)))
                x, y = left + int(generator.integers(width // count - side)), int(generator.integers(height - side))
                image[y : y + side, x : x + side] = _BGR[kind]
                box = {"category_id": kind, "bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
                labels["annotations"].append({**box, "id": len(labels["annotations"]), "image_id": index})
            brightness = _AT_NIGHT if generator.random() < night else 1
            cv2.imwrite(str(folder / split / f"{index}.png"), (image * brightness).astype(np.uint8))
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(labels))


def finish(folder: Path, python: str, *, input_size: str, height: int, width: int, count: int, night: float) -> Signs:
    """Train on signs, export, and calibrate as is right."""
    commands, signs = Commands(folder), Signs(folder, Finished(0, "", ""))
    write_signs(signs.data, height=height, width=width, count=count, night=night)
    commands.must(
        "training/train.py", "--data", signs.data, "--model", signs.model, *SMALL_NETWORK, "--input", input_size, "--anchor-size", 3,
        "--epochs", 12, "--batch", 4, "--lr", 1e-2, "--augment", 0, "--no-flip", "--average-decay", 0.9, python=python,
    )  # fmt: skip
    commands.must("export/export_onnx.py", "--model", signs.model, python=python)
    return dataclasses.replace(signs, said=commands.must(COMMAND, "--int8", "--model", signs.model, "--max-ap-drop", ALLOWED))


@pytest.fixture(scope="module")
def narrow(torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> Signs:
    """Signs by day and by night. Not to be changed."""
    return finish(tmp_path_factory.mktemp("narrow"), torch_python, input_size="64x96", height=48, width=96, count=2, night=0.5)


@pytest.fixture(scope="module")
def wide(torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> Signs:
    """Signs on wide images. Not to be changed."""
    return finish(tmp_path_factory.mktemp("wide"), torch_python, input_size="32x128", height=32, width=128, count=4, night=0)


def copy_of(signs: Signs, folder: Path) -> Signs:
    """Return a copy that may be changed; data and model keep their places to each other."""
    return dataclasses.replace(signs, folder=Path(shutil.copytree(signs.folder, folder / "signs")))


def write_changed(signs: Signs, folder: Path, change: Callable[[Image], Image]) -> Path:
    """Write the training images, each changed, to a folder."""
    folder.mkdir()
    for path in (signs.data / "train").iterdir():
        image = cv2.imread(str(path))
        assert image is not None
        cv2.imwrite(str(folder / path.name), change(image.astype(np.uint8)))
    return folder


def assert_refused(done: Finished, signs: Signs) -> None:
    """The command gave the verdict and named what lost; there is no engine, and what runs by itself is FP32."""
    assert done.code == 3, done.out + done.err
    line = done.err.splitlines()[-1]
    found = re.search(r"INT8 changes AP by -(\d+\.\d\d) points .*; lost most: (stop|yield) -.*: .*accept it with --force", line)
    assert found, done.err
    assert float(found[1]) > ALLOWED
    card = read_card(signs.model)
    assert card.verdict is not None
    assert (card.verdict.passed, card.verdict.forced, card.verdict.worst_classes[0].name) == (False, False, found[2])
    assert (card.engines, list(signs.model.glob("*.engine"))) == ((), [])
    with open_engine(signs.model, card, "auto") as engine:
        assert engine.precision == "fp32"


@pytest.mark.parametrize("name", ["narrow", "wide"])
def test_set_up_right_it_passes(name: str, request: pytest.FixtureRequest) -> None:
    signs: Signs = request.getfixturevalue(name)
    assert "verdict: passed, INT8 changes AP by" in signs.said.out
    assert "128 images to calibrate on were asked for, 48 are there: using all" in signs.said.out
    card = read_card(signs.model)
    assert card.accuracy[0].ap > 0.4  # there is something to lose
    with open_engine(signs.model, card, "auto") as engine:
        assert engine.precision == "int8"


def test_images_stretched_to_a_square(wide: Signs, tmp_path: Path) -> None:
    """As labelling tools export them: what is a square in the input's letterbox is a narrow strip now."""
    signs = copy_of(wide, tmp_path)
    stretched = write_changed(signs, tmp_path / "calibration", lambda image: cv2.resize(image, (128, 128)).astype(np.uint8))
    assert_refused(calibrated_on(stretched, signs), signs)


def test_rgb_for_bgr(narrow: Signs, tmp_path: Path) -> None:
    signs = copy_of(narrow, tmp_path)
    assert_refused(calibrated_on(write_changed(signs, tmp_path / "calibration", lambda image: image[..., ::-1]), signs), signs)


def test_noise(narrow: Signs, tmp_path: Path) -> None:
    signs, generator = copy_of(narrow, tmp_path), np.random.default_rng(0)
    noise = write_changed(signs, tmp_path / "calibration", lambda image: generator.integers(0, 256, image.shape, dtype=np.uint8))
    assert_refused(calibrated_on(noise, signs), signs)


def test_images_scaled_to_one(narrow: Signs, tmp_path: Path) -> None:
    """Divided by 255 though the network does so itself: nearly black."""
    signs = copy_of(narrow, tmp_path)
    assert_refused(calibrated_on(write_changed(signs, tmp_path / "calibration", lambda image: image // np.uint8(255)), signs), signs)


def test_one_image(narrow: Signs, tmp_path: Path) -> None:
    signs = copy_of(narrow, tmp_path)
    arguments = ("--int8", "--model", signs.model, "--images", 1, "--max-ap-drop", ALLOWED)
    assert_refused(Commands(tmp_path)(COMMAND, *arguments), signs)


def calibrated_on(folder: Path, signs: Signs) -> Finished:
    return Commands(signs.folder)(COMMAND, "--int8", "--model", signs.model, "--calibration", folder, "--max-ap-drop", ALLOWED)


def test_ranges_of_a_network_without_normalisation(narrow: Signs, tmp_path: Path) -> None:
    """Which calibration cannot give, since the graph normalises; ranges from a file, as fine-tuning leaves one, can be anybody's."""
    signs = copy_of(narrow, tmp_path)
    plan, card = read_plan(signs.model / QUANTIZATION_FILE, ""), read_card(signs.model)
    images = choose_images(read_dataset(signs.data).train, card.input, 48, 0)
    ranges = activation_ranges(without_normalisation(signs.model / ONNX_FILE), list(plan.reaches), images, "percentile")
    shared = tuple(dataclasses.replace(one, reach=max(ranges[name] for name in one.tensors)) for one in plan.ranges)
    write_plan(signs.model / LEARNED_RANGES_FILE, dataclasses.replace(plan, ranges=shared))
    done = Commands(tmp_path)(COMMAND, "--int8", "--model", signs.model, "--data", signs.data, "--max-ap-drop", ALLOWED)
    assert "taking the ranges" in done.out
    assert_refused(done, signs)


def without_normalisation(file: Path) -> onnx.ModelProto:
    """Return a graph whose network sees pixels as they are, 0 to 255."""
    model = onnx.load(file)
    for operator, neutral in (("Sub", 0), ("Mul", 1)):
        first = next(node for node in model.graph.node if node.op_type == operator)
        values = next(values for name, values in constants(model) if name == first.input[1])
        assert numpy_helper.to_array(values).size == 3
        values.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(values), neutral), values.name))
    return model


def constants(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Give each constant with the name by which it is read."""
    yield from ((tensor.name, tensor) for tensor in model.graph.initializer)
    yield from ((node.output[0], node.attribute[0].t) for node in model.graph.node if node.op_type == "Constant")


@pytest.mark.parametrize(
    ("weight", "bias", "expected"),
    [(0, -1, "must not be 0 everywhere, got nothing else on 2 calibration images"), (1e38, 0, "must be finite, got values that are not")],
)
def test_a_layer_that_is_dead_or_overflows_is_named(model: Path, tmp_path: Path, weight: float, bias: float, expected: str) -> None:
    before = file_sha256(model / INT8_FILE)
    layer = fill_first_convolution(model, weight, bias)
    done = Commands(tmp_path)(COMMAND, "--int8", "--model", model, "--recalibrate", "--images", 2)
    assert done.code == 2, done.out + done.err
    line = done.err.splitlines()[-1]
    assert re.search(rf"^error: tensor \S+ of layer {layer} \(\w+\) {expected}", line), line
    assert "Traceback" not in done.err
    assert file_sha256(model / INT8_FILE) == before


def fill_first_convolution(model: Path, weight: float, bias: float) -> str:
    """Fill weights and biases of the first convolution in model.onnx, which the card is told of; return its name or that behind it."""
    file, card_file = model / ONNX_FILE, model / "card.json"
    graph = onnx.load(file)
    first = next(node for node in graph.graph.node if node.op_type == "Conv")
    tensors = dict(constants(graph))
    for name, value in zip(first.input[1:], (weight, bias), strict=True):
        filled = np.full_like(numpy_helper.to_array(tensors[name]), value)
        tensors[name].CopyFrom(numpy_helper.from_array(filled, name))
    onnx.save(graph, file)
    card = json.loads(card_file.read_text())
    card["onnx"]["sha256"] = file_sha256(file)
    card_file.write_text(json.dumps(card))
    reader = next(node for node in graph.graph.node if first.output[0] in node.input)
    return str(reader.name)
