"""Equalization of channels: which pairs, by how much, that FP32 stays the same, and what build_engine.py --search makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from retinanet_edge.export.calibration_images import choose_images
from retinanet_edge.export.equalization import equalized, is_same_function, pairs, scaled
from retinanet_edge.export.layer_search import search
from retinanet_edge.export.quantize import quantize
from retinanet_edge.export.typed_graph import to_typed_int8
from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.model_folder import file_sha256, read_card
from retinanet_edge.runtime.quantization_plan import read_plan
from tests.conftest import Commands, Finished, Project
from tests.export.damaged_models import FRAGILE, figures, scale_a_channel_apart
from tests.export.small_graphs import IMAGES, SIDE, Array, Node, network, random_weights

COMMAND, LIMIT = "export/build_engine.py", ("--max-ap-drop", 5)


W3, B, W1, DEPTHWISE = (6, 3, 3, 3), (6,), (6, 6, 1, 1), (6, 1, 3, 3)
A: list[Node] = [("Conv", ["image", "wa", "ba"], "a")]
TWO = random_weights(wa=W3, ba=B, wb=W1, bb=B)
THREE = random_weights(wa=W3, ba=B, wb=W1, bb=B, wc=W1, bc=B)
B_OF = {"a": ("Conv", ["a", "wb", "bb"], "b"), "r": ("Conv", ["r", "wb", "bb"], "b")}

# Nodes, weights, the last tensor, and the pairs: names of maker and reader.
PATTERNS: dict[str, tuple[list[Node], dict[str, Array], str, set[tuple[str, str]]]] = {
    "ReLU between": ([*A, ("Relu", ["a"], "r"), B_OF["r"]], TWO, "b", {("a", "b")}),
    "nothing between": ([*A, B_OF["a"]], TWO, "b", {("a", "b")}),
    "no biases": (
        [("Conv", ["image", "wa"], "a"), ("Relu", ["a"], "r"), ("Conv", ["r", "wb"], "b")], random_weights(wa=W3, wb=W1), "b", {("a", "b")}
    ),
    "depthwise between": (
        [*A, ("Relu", ["a"], "r"), B_OF["r"], ("Relu", ["b"], "q"), ("Conv", ["q", "wc", "bc"], "c")],
        random_weights(wa=W3, ba=B, wb=DEPTHWISE, bb=B, wc=W1, bc=B), "c", {("a", "b"), ("b", "c")},
    ),
    "ReLU6 between": ([*A, ("Clip", ["a", "low", "six"], "r"), B_OF["r"]], TWO, "b", set()),
    "sigmoid between": ([*A, ("Sigmoid", ["a"], "r"), B_OF["r"]], TWO, "b", set()),
    "residual addition": (
        [*A, ("Relu", ["a"], "r"), B_OF["r"], ("Relu", ["b"], "q"), ("Conv", ["q", "wc", "bc"], "c"), ("Add", ["c", "r"], "s")],
        THREE, "s", {("b", "c")},
    ),
    "convolution read before its ReLU, too": (
        [*A, ("Relu", ["a"], "r"), B_OF["r"], ("Add", ["b", "a"], "s")], TWO, "s", set(),
    ),
    "two readers": (
        [*A, ("Relu", ["a"], "r"), B_OF["r"], ("Conv", ["r", "wc", "bc"], "c"), ("Add", ["b", "c"], "s")], THREE, "s", set()
    ),
    "weights used twice": (
        [*A, ("Relu", ["a"], "r"), B_OF["r"], ("Relu", ["b"], "q"), ("Conv", ["q", "wb", "bb"], "c")], TWO, "c", set()
    ),
    "bias used twice": (
        [*A, ("Relu", ["a"], "r"), ("Conv", ["r", "wb", "ba"], "b"), ("Relu", ["b"], "q"), ("Conv", ["q", "wc", "bc"], "c")],
        THREE, "c", set(),
    ),
}  # fmt: skip




@pytest.fixture(params=PATTERNS)
def pattern(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, set[tuple[str, str]]]:
    """Each of the networks with its pairs."""
    nodes, weights, last, expected = PATTERNS[request.param]
    return network(nodes, weights, last), expected


def outputs(model: onnx.ModelProto) -> list[Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, {"images": np.stack(IMAGES)})
    return found


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_only_what_nothing_else_notices_is_scaled(pattern: tuple[onnx.ModelProto, set[tuple[str, str]]]) -> None:
    model, expected = pattern
    assert {(pair.maker.name, pair.reader.name) for pair in pairs(model.graph)} == expected
    before, after = constants(model), constants(equalized(model, IMAGES))
    changed = {name for name, values in before.items() if not np.array_equal(values, after[name])}
    nodes = {node.name: node for node in model.graph.node}
    allowed = {name for maker, reader in expected for name in (*nodes[maker].input[1:], nodes[reader].input[1])}
    assert changed <= allowed
    assert bool(changed) == bool(expected)


def test_fp32_stays_the_same_to_the_last_bit(pattern: tuple[onnx.ModelProto, set[tuple[str, str]]]) -> None:
    model, _ = pattern
    for before, after in zip(outputs(model), outputs(equalized(model, IMAGES)), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(("name", "between"), [("ReLU between", "r"), ("nothing between", "a")])
def test_what_comes_out_of_a_channel_is_as_large_as_what_reads_it(name: str, between: str) -> None:
    model = network(*PATTERNS[name][:3])
    ratios = []
    for made in (model, equalized(model, IMAGES)):
        probe = onnx.ModelProto()
        probe.CopyFrom(made)
        probe.graph.output.append(onnx.ValueInfoProto(name=between))
        reach = np.abs(outputs(probe)[2]).max(axis=(0, 2, 3))
        ratios.append((reach / np.abs(constants(made)["wb"]).max(axis=(0, 2, 3)))[reach > 0])
    assert len(ratios[0]) > 1
    assert ratios[0].max() > 100 * ratios[0].min()
    assert np.all((ratios[1] > 0.49) & (ratios[1] < 2.01))  # a power of two is at most half an octave off, twice


@pytest.mark.parametrize("seed", range(5))
def test_any_positive_factors_leave_the_function(pattern: tuple[onnx.ModelProto, set[tuple[str, str]]], seed: int) -> None:
    model, _ = pattern
    generator = np.random.default_rng(seed)
    factors = {pair.maker.name: generator.uniform(1e-3, 1e3, 6).astype(np.float32) for pair in pairs(model.graph)}
    made = scaled(model, factors)
    for before, after in zip(outputs(model), outputs(made), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-5 * np.abs(before).max())


def test_factors_by_hand() -> None:
    # Pixels are 1, 2, 3. Out of the channels come 64 * 1, 0.5 * 2, at most 0, 3 - 2, and nothing reads the last, 1 * 1.
    first = np.array([[64, 0, 0], [0, 0.5, 0], [0, 0, -1], [0, 0, 1], [1, 0, 0]], np.float32)
    bias = np.array([0, 0, 0, -2, 0], np.float32)
    second = np.array([[0.25, -4, 7, 6, 0], [0.125, 1, 7, -3, 0]], np.float32)
    weights = {"wa": first[:, :, None, None], "ba": bias, "wb": second[:, :, None, None]}
    nodes: list[Node] = [*A, ("Relu", ["a"], "r"), ("Conv", ["r", "wb"], "b")]
    image = np.tile(np.array([1, 2, 3], np.uint8), (SIDE, SIDE, 1))
    found = constants(equalized(network(nodes, weights, "b"), [image]))
    # sqrt(0.25 / 64) = 1/16; sqrt(4 / 1) = 2; 1, as it is dead; sqrt(6 / 1) = 2.4, of which 2 is the next power of two; 1, as it is unread
    factors = np.array([1 / 16, 2, 1, 2, 1], np.float32)
    np.testing.assert_array_equal(found["wa"][:, :, 0, 0], first * factors[:, None])
    np.testing.assert_array_equal(found["ba"], [0, 0, 0, -4, 0])
    np.testing.assert_array_equal(found["wb"][:, :, 0, 0], second / factors)


def test_another_function_is_told_apart() -> None:
    model = network(*PATTERNS["ReLU6 between"][:3])
    other = network(*PATTERNS["ReLU between"][:3])
    assert is_same_function(model, model, IMAGES)
    assert not is_same_function(model, other, IMAGES)


def test_the_search_for_layers_goes_on_from_the_better_of_both(project: Project, tmp_path: Path) -> None:
    source, needed = project.model / "model.onnx", "/pyramid/lateral.0/Conv"
    plain = constants(onnx.load(source))
    changed = pairs(onnx.load(source).graph)[0].maker.input[1]

    def ap(model: onnx.ModelProto) -> float:
        """Less is lost with equalized channels, and nothing where one layer is kept, too."""
        reader = next(node for node in model.graph.node if node.name == needed)
        if np.array_equal(constants(model)[changed], plain[changed]):
            return 0.40
        return 0.5 if reader.input[1] in plain else 0.45

    images = choose_images(read_dataset(project.folder / "data" / "squares").train, read_card(project.model).input, 2, 0)
    found = search(source, tmp_path / "int8.onnx", images, "minmax", figures(project, ap), 0.02, 0.05)
    assert (found.equalized, found.kept) == (True, (needed,))
    tried = [(trial.kept, trial.equalized, trial.ap) for trial in found.trials]
    assert tried[:3] == [(0, False, 0.40), (0, True, 0.45), (1, True, 0.5)]
    assert tried[-1] == (33, False, 0.5)
    quantize(source, tmp_path / "made.onnx", images, "minmax", (needed,), equalize=True)
    assert (tmp_path / "int8.onnx").read_bytes() == (tmp_path / "made.onnx").read_bytes()


def test_what_would_change_fp32_is_refused(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"wa": np.ones((2, 3, 1, 1), np.float32), "wb": np.ones((2, 2, 1, 1), np.float32)}
    # The first channel is 1e-30 of green, and 1e20 of blue, of which there is none. What makes it even takes that beyond FP32.
    weights["wa"][0, :, 0, 0], weights["wb"][:, 0] = (1e20, 1e-30, 0), 1e30
    nodes: list[Node] = [("Conv", ["image", "wa"], "a"), ("Relu", ["a"], "r"), ("Conv", ["r", "wb"], "b")]
    onnx.save(network(nodes, weights, "b"), tmp_path / "a.onnx")
    images = [image * np.array([0, 1, 1], np.uint8) for image in IMAGES]
    found = search(tmp_path / "a.onnx", tmp_path / "int8.onnx", images, "minmax", figures(project, lambda _: 0.4), 0.02, 0.05)
    assert not found.equalized
    assert not any(trial.equalized for trial in found.trials)
    assert "not equalizing channels: that would change what FP32 gives" in capsys.readouterr().out


@pytest.fixture(scope="module")
def uneven(finished_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A model with one channel that INT8 leaves no room for others. Not to be changed."""
    folder = Path(shutil.copytree(finished_project.folder, tmp_path_factory.mktemp("uneven") / "project", symlinks=True))
    scale_a_channel_apart((folder / "models" / "latest").resolve())
    return Project(folder, {})


@pytest.fixture(scope="module")
def searched(uneven: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Finished]:
    """The same after a search, and what that said. Not to be changed."""
    folder = Path(shutil.copytree(uneven.folder, tmp_path_factory.mktemp("equalized") / "project", symlinks=True))
    return Project(folder, {}), Commands(folder).must(COMMAND, "--int8", "--search", *LIMIT)


def test_the_search_tries_equalization_first_and_keeps_nothing_where_it_suffices(searched: tuple[Project, Finished]) -> None:
    project, done = searched
    card = read_card(project.model)
    assert card.int8 is not None
    assert card.verdict is not None
    assert (card.int8.equalized, card.int8.kept, card.verdict.passed) == (True, (), True)
    plain, repaired = (line for line in done.out.splitlines() if " layers kept" in line)
    assert plain.startswith("   0 of ")
    assert not plain.endswith(", enough")
    assert ", equalized: AP " in repaired
    assert repaired.endswith(", enough")
    assert "with equalized channels no layer need be kept out of INT8" in done.out
    assert "sensitivity" not in done.err


def test_picture_and_report_show_it(searched: tuple[Project, Finished]) -> None:
    project, _ = searched
    root = ElementTree.fromstring((project.model / "report" / "int8_search.svg").read_text())
    words = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert any(word is not None and word.endswith("kept out of INT8, channels equalized (ringed)") for word in words)
    squares = [element for element in root.iter() if element.tag.endswith("rect") and element.get("height") == "8"]
    assert len(squares) == 2  # in AP and in time
    page = Commands(project.folder).must("runtime/report.py").out.split()[1].rstrip(":")
    html = (project.folder / page).read_text()
    assert "Channels equalized." in html
    assert "int8_search.svg" in html


def test_the_card_makes_the_same_file_again(searched: tuple[Project, Finished], tmp_path: Path) -> None:
    project = Project(Path(shutil.copytree(searched[0].folder, tmp_path / "copy", symlinks=True)), {})
    before, plan = file_sha256(project.model / "model.int8.onnx"), (project.model / "quantization.json").read_bytes()
    (project.model / "model.int8.onnx").unlink()
    said = Commands(project.folder).must(COMMAND, "--int8", *LIMIT).out
    assert "equalizing channels, as in the card (--search looks again)" in said
    assert file_sha256(project.model / "model.int8.onnx") == before
    assert (project.model / "quantization.json").read_bytes() == plan
    card = read_card(project.model)
    assert card.int8 is not None
    assert card.int8.equalized
    assert "reused" in Commands(project.folder).must(COMMAND, "--int8", "--search", *LIMIT).out


def test_fine_tuning_is_told_the_ranges_of_the_weights_as_they_are(searched: tuple[Project, Finished]) -> None:
    project, _ = searched
    graph = onnx.load(project.model / "model.onnx").graph
    name = next(node.input[0] for node in graph.node if node.name == FRAGILE)
    plan = read_plan(project.model / "quantization.json", "")
    scale = constants(onnx.load(project.model / "model.int8.onnx"))[f"{name}/scale"]
    assert plan.reaches[name] > 10 * 127 * scale  # of a channel that is 10,000 times as large before


def test_typed_files_and_comparisons_of_layers_follow(searched: tuple[Project, Finished]) -> None:
    project, _ = searched
    model = onnx.load(project.model / "model.int8.onnx")
    typed = {tensor.name: tensor for tensor in to_typed_int8(model).graph.initializer}
    maker = next(pair.maker for pair in pairs(onnx.load(project.model / "model.onnx").graph) if pair.reader.name == FRAGILE)
    integers = numpy_helper.to_array(typed[f"{maker.input[1]}/quantized"])
    scales = constants(model)[f"{maker.input[1]}/scale"]
    np.testing.assert_allclose(integers * scales.reshape(-1, 1, 1, 1), constants(model)[maker.input[1]], atol=scales.max())
    done = Commands(project.folder)("export/parity.py", "--layers", "model.int8.onnx")
    assert done.code == 0, done.err
    assert "none is further than 0.5 of its norm" in done.out


def test_a_fine_tuned_model_is_not_equalized(uneven: Project, tmp_path: Path) -> None:
    project = Project(Path(shutil.copytree(uneven.folder, tmp_path / "copy", symlinks=True)), {})
    (project.model / "learned_ranges.json").write_text("{}")  # a search measures other ranges
    said = Commands(project.folder).must(COMMAND, "--int8", "--search", *LIMIT).out
    assert "not equalizing channels: train.py --qat has fitted the weights to INT8 as they are" in said
    card = read_card(project.model)
    assert card.int8 is not None
    assert (card.int8.equalized, card.int8.kept) == (False, (FRAGILE,))


def test_a_card_of_version_4_is_not_equalized(searched: tuple[Project, Finished], tmp_path: Path) -> None:
    written = json.loads((searched[0].model / "card.json").read_text())
    assert written["int8"]["equalized"] is True
    written["schema_version"] = 4
    for name in ("kept", "equalized"):
        del written["int8"][name]
    (tmp_path / "card.json").write_text(json.dumps(written))
    card = read_card(tmp_path)
    assert card.int8 is not None
    assert not card.int8.equalized
