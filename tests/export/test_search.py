"""build_engine.py --int8 --search: a layer that INT8 destroys is found and kept, and only it; the card holds it; what else may happen."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from retinanet_edge.export.calibration_images import choose_images
from retinanet_edge.export.layer_search import Trial, fewest, needed, search
from retinanet_edge.export.placement import choosable_tensors, find_placement, quantizable_layers
from retinanet_edge.export.quantize import quantize
from retinanet_edge.export.search_picture import HEIGHT, WIDTH, draw
from retinanet_edge.export.sensitivity import detection_error
from retinanet_edge.export.typed_graph import to_typed_int8
from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.model_folder import file_sha256, read_card
from tests.conftest import ROOT, Commands, Finished, Project
from tests.export.damaged_models import FRAGILE, add_weights_that_cancel, figures

COMMAND = "export/build_engine.py"
LIMIT = ("--max-ap-drop", 5)


@pytest.fixture(scope="module")
def damaged(finished_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A model with one layer that INT8 destroys, and that equalization does not repair. Not to be changed."""
    folder = Path(shutil.copytree(finished_project.folder, tmp_path_factory.mktemp("search") / "project", symlinks=True))
    add_weights_that_cancel((folder / "models" / "latest").resolve())
    return Project(folder, {})


@pytest.fixture(scope="module")
def searched(damaged: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Finished]:
    """The same after a search, and what that said. Not to be changed."""
    folder = Path(shutil.copytree(damaged.folder, tmp_path_factory.mktemp("searched") / "project", symlinks=True))
    return Project(folder, {}), Commands(folder).must(COMMAND, "--int8", "--search", *LIMIT)


def copied(project: Project, folder: Path) -> Project:
    return Project(Path(shutil.copytree(project.folder, folder / "copy", symlinks=True)), {})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_layer_that_int8_destroys_is_found_and_kept_and_only_it(searched: tuple[Project, Finished]) -> None:
    project, done = searched
    card = read_card(project.model)
    assert card.int8 is not None
    assert card.verdict is not None
    assert card.int8.kept == (FRAGILE,)
    assert card.verdict.passed
    assert (card.int8.sha256, card.verdict.onnx_sha256) == (file_sha256(project.model / "model.int8.onnx"),) * 2
    lines = done.out.splitlines()
    tried = [line for line in lines if line.startswith("   0 of ")]  # all of it INT8, which loses too much
    assert [", equalized: " in line for line in tried] == [False, True]
    assert not any(line.endswith(", enough") for line in tried)
    assert lines[lines.index("what INT8 of one layer alone changes in scores and boxes:") + 1].endswith(f"  {FRAGILE}")
    assert any(line.startswith("   1 of ") and line.endswith(", enough") for line in lines)
    assert any(line.startswith("kept out of INT8, 1 of ") and line.endswith(f": {FRAGILE}") for line in lines)


def test_what_is_kept_is_float_in_both_files(searched: tuple[Project, Finished]) -> None:
    project, _ = searched
    model = onnx.load(project.model / "model.int8.onnx")
    for made, kind in ((model, onnx.TensorProto.FLOAT), (to_typed_int8(model), onnx.TensorProto.FLOAT16)):
        weights = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
        readers = {node.name: node for node in made.graph.node if node.op_type == "Conv"}
        assert weights[readers[FRAGILE].input[1]] == kind
        others = [node for name, node in readers.items() if "backbone" in name and name != FRAGILE]
        assert others
        assert not any(node.input[1] in weights for node in others)  # but for a DequantizeLinear's


def test_the_card_makes_the_same_file_again(searched: tuple[Project, Finished], tmp_path: Path) -> None:
    project = copied(searched[0], tmp_path)
    before = file_sha256(project.model / "model.int8.onnx")
    (project.model / "model.int8.onnx").unlink()
    said = Commands(project.folder).must(COMMAND, "--int8", *LIMIT).out
    assert f"kept out of INT8, as in the card (--search looks for them again): {FRAGILE}" in said
    assert file_sha256(project.model / "model.int8.onnx") == before
    card = read_card(project.model)
    assert card.int8 is not None
    assert card.int8.kept == (FRAGILE,)
    assert "reused" in Commands(project.folder).must(COMMAND, "--int8", "--search", *LIMIT).out  # it passes


def test_the_picture_is_in_the_report(searched: tuple[Project, Finished]) -> None:
    project, done = searched
    path = project.model / "report" / "int8_search.svg"
    assert f"wrote {path}" in done.out
    root = ElementTree.fromstring(path.read_text())
    assert (root.get("width"), root.get("height")) == (str(WIDTH), str(HEIGHT)) == ("720", "540")
    curves = [element for element in root.iter() if element.tag.endswith("polyline")]
    assert [len(curve.get("points", "").split()) for curve in curves] == [4, 4]  # none, none equalized, one and all layers kept
    page = Commands(project.folder).must("runtime/report.py").out.split()[1].rstrip(":")
    html = (project.folder / page).read_text()
    assert FRAGILE in html
    assert "int8_search.svg" in html


def test_nothing_is_kept_where_nothing_is_needed(project: Project) -> None:
    done = Commands(project.folder).must(COMMAND, "--int8", "--search", "--recalibrate", *LIMIT)
    assert "no layer need be kept out of INT8" in done.out
    assert "sensitivity" not in done.err
    card = read_card(project.model)
    assert card.int8 is not None
    assert card.int8.kept == ()
    assert not (project.model / "report" / "int8_search.svg").exists()


def test_where_no_choice_suffices_nothing_is_kept(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = read_dataset(project.folder / "data" / "squares")
    images = choose_images(dataset.train, read_card(project.model).input, 2, 0)
    found = search(project.model / "model.onnx", tmp_path / "int8.onnx", images, "percentile", figures(project, lambda _: 0.4), 0.05, 0.05)
    assert "no choice of layers suffices, short of all of them: build_engine.py --fp16 builds without INT8" in capsys.readouterr().out
    assert found.kept == ()
    assert [trial.kept for trial in found.trials] == [0, 0, 1, 2, 4, 8, 16, 32, 33]  # 33 layers
    assert [trial.equalized for trial in found.trials] == [True] + 8 * [False]  # of the same AP: gone on without, which comes behind
    assert not found.equalized
    assert (found.fp32.metrics.ap, found.int8.metrics.ap) == (0.5, 0.4)
    quantize(project.model / "model.onnx", tmp_path / "plain.onnx", images, "percentile")
    assert (tmp_path / "int8.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


def test_a_verdict_that_fails_names_the_search(damaged: Project, tmp_path: Path) -> None:
    done = Commands(copied(damaged, tmp_path).folder)(COMMAND, "--int8", *LIMIT)
    assert done.code == 3
    assert "keep layers out of INT8 with --search, " in done.err


def test_an_interrupt_leaves_the_folder_as_it_was(damaged: Project, tmp_path: Path) -> None:
    project = copied(damaged, tmp_path)
    before = contents(project.model)
    command = [sys.executable, str(ROOT / COMMAND), "--int8", "--search", "--max-ap-drop", "5"]
    with subprocess.Popen(command, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if " layers kept: " in line:  # a first INT8 model has been written and measured
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert contents(project.model) == before


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--search",), "--search and others of INT8 need --int8, got --fp16"),
        (("--fp32", "--search"), "--search and others of INT8 need --int8, got --fp32"),
        (("--int8", "--search", "--force"), "--search makes an INT8 model that passes, --force accepts one that does not, got both"),
    ],
)
def test_flags_that_contradict_each_other_are_one_line(flags: tuple[str, ...], expected: str, run: Commands) -> None:
    done = run(COMMAND, *flags)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_a_dry_run_says_that_layers_may_be_kept(damaged: Project) -> None:
    before = contents(damaged.model)
    said = Commands(damaged.folder).must(COMMAND, "--int8", "--search", "--dry-run").out
    assert "perhaps with channels equalized or layers kept out of INT8" in said
    assert contents(damaged.model) == before


@pytest.mark.parametrize("least", range(1, 12))
def test_the_fewest_are_found(least: int) -> None:
    asked: list[int] = []

    def passes(count: int) -> bool:
        asked.append(count)
        return count >= least

    assert fewest(10, passes) == (least if least < 10 else None)
    assert len(set(asked)) == len(asked)
    assert min(asked) > 0
    assert max(asked) < 10  # all of them is FP32, which is known
    assert len(asked) <= 7  # 1, 2, 4, 8 and three between


def test_dispensable_layers_are_left_out() -> None:
    # The last is known to be needed; of the others "a" is.
    assert needed(("a", "b", "c", "d"), lambda kept: {"a", "d"} <= set(kept)) == ("a", "d")
    assert needed(("a",), lambda _: pytest.fail("nothing to try")) == ("a",)


def test_ranges_cover_every_choice_of_layers(damaged: Project) -> None:
    graph = onnx.load(damaged.model / "model.onnx").graph
    layers, tensors = quantizable_layers(graph), set(choosable_tensors(graph))
    generator = np.random.default_rng(0)
    for _ in range(50):
        kept = [layer for layer in layers if generator.random() < 0.5]
        assert set(find_placement(graph, kept).tensors) <= tensors


def test_the_error_is_of_scores_and_boxes_by_hand() -> None:
    # Two anchors, two classes. Seen from 0.05 on: 0.8 -> 0.6 and 0.02 -> 0.07, so 0.2 + 0.05 of 0.8, which counts as 1.
    before = np.array([[0.8, 0.01], [0.02, 0.03]], np.float32)
    after = np.array([[0.6, 0.01], [0.07, 0.03]], np.float32)
    moved = np.array([[0.1, 0, 0, -0.2], [5, 5, 5, 5]], np.float32)  # the second anchor is nobody's
    still = np.zeros((2, 4), np.float32)
    assert detection_error([(before, still)], [(after, still)], 0.05) == pytest.approx(0.25)
    assert detection_error([(before, still)], [(before, still)], 0.05) == 0
    # Eight times |0.1| + |-0.2| with the weight 0.8, of a total that counts as 1
    assert detection_error([(before, still)], [(before, moved)], 0.05) == pytest.approx(8 * 0.24)


def test_the_picture_shows_every_trial_and_rings_the_choice() -> None:
    trials = (Trial(0, 0.1, 5.0), Trial(1, 0.4, 6.0), Trial(2, 0.5, 7.0), Trial(8, 0.5, 9.0))
    root = ElementTree.fromstring(draw(trials, trials[2], 0.005))
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    rings = [circle for circle in circles if circle.get("fill") == "none"]
    assert (len(circles), len(rings)) == (2 * 4 + 2, 2)
    # log2(1 + 2) / log2(1 + 8) of the way: half
    xs = [float(circle.get("cx", "")) for circle in circles if circle.get("fill") != "none"][:4]
    assert xs[2] == pytest.approx((xs[0] + xs[3]) / 2, abs=0.1)
    assert float(rings[0].get("cx", "")) == xs[2]
    ys = [float(circle.get("cy", "")) for circle in circles if circle.get("fill") != "none"]
    assert ys[0] > ys[1] > ys[2] == ys[3]  # AP rises
    assert ys[4] > ys[5] > ys[6] > ys[7]  # and so does the time
    words = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "2 of 8 layers kept out of INT8 (ringed)" in words
    assert "0.50 points below FP32" in words
