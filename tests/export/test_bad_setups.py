"""Calibration that is set up as users are known to do it wrong: the command gives the verdict, not an engine; set up right it passes.

What INT8 is not shown in calibration it cuts off. How much that costs is a matter of model and data: here they are such that each mistake
hides something. Signs are stripes, finer than a narrow copy of the image can show; red alone tells of them; there are day and night.
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
MIDDLE: Final = 127  # 0 after normalisation
PERIODS: Final = (4, 2)  # pixels of the stripes of each class
AT_NIGHT: Final = 0.3  # of the brightness by day

Image = NDArray[np.uint8]
Array = NDArray[np.float32]


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


def write_signs(folder: Path) -> None:
    """Write a COCO data set with two signs on each image, as bright on average as what is around them; half of the images by night."""
    generator = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, images in (("train", 48), ("val", 24)):
        (folder / split).mkdir()
        labels: dict[str, list[dict[str, Any]]] = {
            "images": [{"id": index, "file_name": f"{index}.png", "width": 96, "height": 48} for index in range(images)],
            "annotations": [],
            "categories": [{"id": index, "name": name} for index, name in enumerate(CLASSES)],
        }
        for index in range(images):
            image = np.full((48, 96, 3), MIDDLE, np.uint8)
            red = generator.integers(90, 131, (48, 96))
            for left in (0, 48):
                side, kind = int(generator.integers(20, 29)), int(generator.integers(len(CLASSES)))
                x, y = left + int(generator.integers(48 - side)), int(generator.integers(48 - side))
                red[y : y + side, x : x + side] = np.where(np.arange(side) % PERIODS[kind] < PERIODS[kind] // 2, 220, 0)
                box = {"category_id": kind, "bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
                labels["annotations"].append({**box, "id": len(labels["annotations"]), "image_id": index})
            image[..., 2] = red * (AT_NIGHT if generator.random() < 0.5 else 1)
            cv2.imwrite(str(folder / split / f"{index}.png"), image)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(labels))


@pytest.fixture(scope="module")
def finished(torch_python: str, tmp_path_factory: pytest.TempPathFactory) -> Signs:
    """Signs, a model trained on them that looks at red alone, exported, and calibrated as is right. Not to be changed."""
    signs = Signs(tmp_path_factory.mktemp("signs"), Finished(0, "", ""))
    commands = Commands(signs.folder)
    write_signs(signs.data)
    commands.must(
        "training/train.py", "--data", signs.data, "--model", signs.model, *SMALL_NETWORK, "--input", 96, "--anchor-size", 3,
        "--epochs", 12, "--batch", 4, "--lr", 1e-2, "--augment", 0, "--no-flip", "--average-decay", 0.9, python=torch_python,
    )  # fmt: skip
    commands.must("export/export_onnx.py", "--model", signs.model, python=torch_python)
    # Green and blue are 0 after normalisation, and what was not learned of them is still as it was drawn.
    change_first_convolution(signs.model, lambda weights, bias: (weights * np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1), bias))
    return dataclasses.replace(signs, said=commands.must(COMMAND, "--int8", "--model", signs.model, "--max-ap-drop", ALLOWED))


@pytest.fixture
def signs(finished: Signs, tmp_path: Path) -> Signs:
    """A copy, to be changed at will; data and model keep their places to each other."""
    return dataclasses.replace(finished, folder=Path(shutil.copytree(finished.folder, tmp_path / "signs")))


def calibrated_on(signs: Signs, change: Callable[[Image], Image]) -> Finished:
    """Run the command on a folder of the training images, each changed."""
    folder = signs.folder / "calibration"
    folder.mkdir()
    for path in (signs.data / "train").iterdir():
        image = cv2.imread(str(path))
        assert image is not None
        cv2.imwrite(str(folder / path.name), change(image.astype(np.uint8)))
    return Commands(signs.folder)(COMMAND, "--int8", "--model", signs.model, "--calibration", folder, "--max-ap-drop", ALLOWED)


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


def test_set_up_right_it_passes(finished: Signs) -> None:
    assert "verdict: passed, INT8 changes AP by" in finished.said.out
    assert "128 images to calibrate on were asked for, 48 are there: using all" in finished.said.out
    card = read_card(finished.model)
    assert card.accuracy[0].ap > 0.4  # there is something to lose
    with open_engine(finished.model, card, "auto") as engine:
        assert engine.precision == "int8"


def test_images_stretched_to_a_narrow_strip(signs: Signs) -> None:
    """As prepared for another input, that of a portrait camera: stripes of four pixels are one."""
    stretched = calibrated_on(signs, lambda image: cv2.resize(image, (24, 96), interpolation=cv2.INTER_AREA).astype(np.uint8))
    assert_refused(stretched, signs)
    assert "without --calibration" in stretched.err


def test_images_stretched_to_the_inputs_shape_cost_nothing_here(signs: Signs) -> None:
    """The verdict says what is so: this INT8 finds as much, as evaluate.py, which knows nothing of calibration, measures, too."""
    done = calibrated_on(signs, lambda image: cv2.resize(image, (96, 96)).astype(np.uint8))
    assert done.code == 0, done.err
    commands, measured = Commands(signs.folder), dict[str, float]()
    for precision in ("fp32", "int8"):
        table = commands.must("runtime/evaluate.py", "--model", signs.model, "--engine", precision).out
        found = re.search(r"all classes +(\d\.\d+)", table)
        assert found, table
        measured[precision] = float(found[1])
    card = read_card(signs.model)
    assert card.verdict is not None
    assert card.verdict.ap_drop == pytest.approx(measured["fp32"] - measured["int8"], abs=1.1e-3)  # of figures with three digits
    assert card.verdict.passed


def test_rgb_for_bgr(signs: Signs) -> None:
    assert_refused(calibrated_on(signs, lambda image: image[..., ::-1]), signs)


def test_noise(signs: Signs) -> None:
    generator = np.random.default_rng(0)
    assert_refused(calibrated_on(signs, lambda image: generator.integers(0, 256, image.shape, dtype=np.uint8)), signs)


def test_images_scaled_to_one(signs: Signs) -> None:
    """Divided by 255 though the network does so itself: nearly black."""
    assert_refused(calibrated_on(signs, lambda image: image // np.uint8(255)), signs)


def test_one_image(signs: Signs) -> None:
    """One by night: whatever the seed that draws it, signs by day are brighter."""
    samples, spec = read_dataset(signs.data).train, read_card(signs.model).input
    seed = next(seed for seed in range(100) if choose_images(samples, spec, 1, seed)[0][:48, :, 2].mean() < 60)
    arguments = ("--int8", "--model", signs.model, "--images", 1, "--seed", seed, "--max-ap-drop", ALLOWED)
    assert_refused(Commands(signs.folder)(COMMAND, *arguments), signs)


def test_ranges_of_a_network_without_normalisation(signs: Signs) -> None:
    """Which calibration cannot give, since the graph normalises; ranges from a file, as fine-tuning leaves one, can be anybody's."""
    plan, card = read_plan(signs.model / QUANTIZATION_FILE, ""), read_card(signs.model)
    images = choose_images(read_dataset(signs.data).train, card.input, 48, 0)
    ranges = activation_ranges(without_normalisation(signs.model / ONNX_FILE), list(plan.reaches), images, "percentile")
    shared = tuple(dataclasses.replace(one, reach=max(ranges[name] for name in one.tensors)) for one in plan.ranges)
    write_plan(signs.model / LEARNED_RANGES_FILE, dataclasses.replace(plan, ranges=shared))
    done = Commands(signs.folder)(COMMAND, "--int8", "--model", signs.model, "--data", signs.data, "--max-ap-drop", ALLOWED)
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
    [(0, -1, "must not be 0 everywhere, got nothing else on"), (1e38, 0, "must be finite, got values that are not")],
)
def test_a_layer_that_is_dead_or_overflows_is_named(
    model: Path, scenes: Path, tmp_path: Path, weight: float, bias: float, expected: str
) -> None:
    before = file_sha256(model / INT8_FILE)
    layer = change_first_convolution(model, lambda *both: (np.full_like(both[0], weight), np.full_like(both[1], bias)))
    done = Commands(tmp_path)(COMMAND, "--int8", "--model", model, "--data", scenes, "--images", 2)
    assert done.code == 2, done.out + done.err
    line = done.err.splitlines()[-1]
    assert re.search(rf"^error: tensor \S+ of layer {layer} \(\w+\) {expected}", line), line
    assert "Traceback" not in done.err
    assert file_sha256(model / INT8_FILE) == before


def change_first_convolution(model: Path, change: Callable[[Array, Array], tuple[Array, Array]]) -> str:
    """Change weights [outputs, RGB, ...] and biases in model.onnx, which the card is told of; return the name of the layer behind."""
    file, card_file = model / ONNX_FILE, model / "card.json"
    graph = onnx.load(file)
    first = next(node for node in graph.graph.node if node.op_type == "Conv")
    tensors = [dict(constants(graph))[name] for name in first.input[1:]]
    weights, bias = (numpy_helper.to_array(tensor) for tensor in tensors)
    for tensor, changed in zip(tensors, change(weights, bias), strict=True):
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    onnx.save(graph, file)
    card = json.loads(card_file.read_text())
    card["onnx"]["sha256"] = file_sha256(file)
    card_file.write_text(json.dumps(card))
    return str(next(node for node in graph.graph.node if first.output[0] in node.input).name)
