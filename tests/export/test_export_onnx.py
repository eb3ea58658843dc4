"""export/export_onnx.py as a person types it, in copies of a project that went all the way once; its file against PyTorch."""

from __future__ import annotations

import functools
import json
import resource
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("torch")

import torch
from safetensors.numpy import load_file, save_file

from retinanet_edge.runtime.dataset import read_dataset, read_image
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.model_folder import file_sha256, locked, read_card
from retinanet_edge.training.checkpoint import load_network
from tests import squares
from tests.conftest import ROOT, SMALL_NETWORK, Commands, Finished, Project

COMMAND = "export/export_onnx.py"
ANCHORS = 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1  # cells of 64x64 pixels at strides 8 to 128, one anchor each
LARGEST_FILE = 1 << 20  # bytes; a model.onnx of these tests has 1.6 MB


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], project: Project) -> Callable[..., Finished]:
    """Runs a command in the project's folder and in this process, which has torch loaded already."""

    def run_here(command: str, *arguments: object) -> Finished:
        monkeypatch.chdir(project.folder)
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / command), run_name="__main__")
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Finished(end.value.code, said.out, said.err)

    return run_here


@pytest.fixture
def export(typed: Callable[..., Finished]) -> Callable[..., Finished]:
    return functools.partial(typed, COMMAND)


def card_of(project: Project) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((project.model / "card.json").read_text())
    return card


def change_card(project: Project, change: Callable[[dict[str, Any]], object]) -> None:
    card = card_of(project)
    change(card)
    (project.model / "card.json").write_text(json.dumps(card))


def change_weights(project: Project, change: Callable[[str, np.ndarray], np.ndarray]) -> None:
    """Give the model other weights that its card vouches for."""
    path = project.model / "weights.safetensors"
    save_file({name: change(name, value) for name, value in load_file(path).items()}, path)
    change_card(project, lambda card: card["training"].update(weights_sha256=file_sha256(path)))


def refused(done: Finished, project: Project, code: int = 2) -> str:
    """Return the one line of an error, after which nothing half-written is left."""
    assert done.code == code, done.out + done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert [path.name for path in project.model.iterdir() if path.name.startswith(".") and path.name != ".lock"] == []
    return done.err


def test_the_file_keeps_the_contract_name_by_name(finished_project: Project) -> None:
    def signature(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]

    model = onnx.load(finished_project.model / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [signature(value) for value in model.graph.input] == [("images", onnx.TensorProto.UINT8, ["N", 64, 64, 3])]
    assert [signature(value) for value in model.graph.output] == [
        ("class_logits", onnx.TensorProto.FLOAT, ["N", ANCHORS, len(squares.CLASSES)]),
        ("box_deltas", onnx.TensorProto.FLOAT, ["N", ANCHORS, 4]),
        ("anchors", onnx.TensorProto.FLOAT, [1, ANCHORS, 4]),
    ]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 17}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_the_card_holds_hashes_and_the_difference(finished_project: Project) -> None:
    card = card_of(finished_project)
    record = card["onnx"]
    assert record["sha256"] == file_sha256(finished_project.model / "model.onnx")
    assert record["weights_sha256"] == card["training"]["weights_sha256"]
    assert record["weights_sha256"] == file_sha256(finished_project.model / "weights.safetensors")
    assert record["opset"] == 17
    assert 0 < record["max_difference"] < 1e-4
    said = finished_project.said[COMMAND]
    assert f"at most {record['max_difference']:.1e} from PyTorch" in said
    assert "export/build_engine.py --int8" in said


@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_are_pytorchs_on_images_of_the_data(finished_project: Project, batch: int) -> None:
    card = read_card(finished_project.model)
    network = load_network(finished_project.model, card)
    samples = read_dataset(finished_project.folder / "data" / "squares").val[:batch]
    images = np.stack([Letterbox(s.height, s.width, card.input.height, card.input.width).apply(read_image(s)) for s in samples])
    session = onnxruntime.InferenceSession(finished_project.model / "model.onnx", providers=["CPUExecutionProvider"])
    class_logits, box_deltas, anchors = session.run(["class_logits", "box_deltas", "anchors"], {"images": images})
    with torch.inference_mode():
        expected_logits, expected_deltas = network(torch.from_numpy(images))
    assert len(images) == batch
    assert class_logits.max() > 0  # a score above a half: there is something to compare
    np.testing.assert_allclose(class_logits, expected_logits.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(box_deltas, expected_deltas.numpy(), rtol=0, atol=1e-4)
    assert anchors[0].tobytes() == network.anchors.numpy().tobytes()


def test_exporting_again_gives_the_same_file_and_keeps_the_int8_model(export: Callable[..., Finished], project: Project) -> None:
    before, card = (project.model / "model.onnx").read_bytes(), card_of(project)
    done = export()
    assert done.code == 0, done.err
    assert (project.model / "model.onnx").read_bytes() == before
    assert card_of(project) == card


def test_other_weights_give_another_file_and_forget_the_int8_model(export: Callable[..., Finished], project: Project) -> None:
    before = card_of(project)
    change_weights(project, lambda name, value: value * np.float32(1.1) if name == "class_head.predict.bias" else value)
    done = export()
    assert done.code == 0, done.err
    card = card_of(project)
    assert card["onnx"]["sha256"] == file_sha256(project.model / "model.onnx") != before["onnx"]["sha256"]
    assert card["onnx"]["weights_sha256"] == card["training"]["weights_sha256"] != before["onnx"]["weights_sha256"]
    assert (card["int8"], card["verdict"], card["accuracy"], card["engines"]) == (None, None, [], [])
    again = Commands(project.folder).must("export/build_engine.py", "--int8", "--images", 4, "--max-ap-drop", 100)
    assert "calibrating on 4 images" in again.out
    assert card_of(project)["int8"]["source_sha256"] == card["onnx"]["sha256"]


def test_training_anew_leaves_nothing_of_the_former_model(typed: Callable[..., Finished], project: Project) -> None:
    train = ("--data", "data/squares", "--model", project.model, "--replace", "--epochs", 1, "--seed", 1)
    assert typed("training/train.py", *train, *SMALL_NETWORK).code == 0
    assert "run python export/export_onnx.py" in typed("export/build_engine.py", "--int8").err
    assert typed(COMMAND).code == 0
    card = card_of(project)
    assert (card["int8"], card["verdict"], card["accuracy"]) == (None, None, [])
    assert not (project.model / "model.int8.onnx").exists()


def truncated_weights(project: Project) -> None:
    path = project.model / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def truncated_weights_with_their_hash(project: Project) -> None:
    truncated_weights(project)
    digest = file_sha256(project.model / "weights.safetensors")
    change_card(project, lambda card: card["training"].update(weights_sha256=digest))


def weights_of_another_model(project: Project) -> None:
    path = project.model / "weights.safetensors"
    save_file({name: np.ones_like(value) for name, value in load_file(path).items()}, path)


def weights_of_another_width(project: Project) -> None:
    change_card(project, lambda card: card["network"].update(head_channels=32))


def unknown_backbone(project: Project) -> None:
    change_card(project, lambda card: card["network"].update(backbone="resnet-18"))


def never_evaluated(project: Project) -> None:
    (project.model / "weights.safetensors").unlink()
    change_card(project, lambda card: card["training"].update(weights_sha256=""))


def moved_data(project: Project) -> None:
    (project.folder / "data").rename(project.folder / "elsewhere")


def corrupt_image(project: Project) -> None:
    path = project.folder / "data" / "squares" / "val" / "0.png"
    data = path.read_bytes()
    path.write_bytes(data[:41] + bytes(len(data) - 41 - 12) + data[-12:])  # header and end stay: only decoding finds it


def newer_card(project: Project) -> None:
    change_card(project, lambda card: card.update(schema_version=99))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (truncated_weights, "must have SHA-256"),
        (truncated_weights_with_their_hash, "must be a whole safetensors file"),
        (weights_of_another_model, "must have SHA-256"),
        (weights_of_another_width, "does not fit this network"),
        (unknown_backbone, "resnet-18"),
        (never_evaluated, "is needed but it does not exist: run python training/train.py"),
        (moved_data, "data/squares, is not here: give its place with --data PATH"),
        (corrupt_image, "val/0.png must decode"),
        (newer_card, "schema version 5, got 99: update retinanet-edge"),
    ],
)
def test_a_broken_model_or_missing_data_are_one_line_and_the_former_file_stays(
    spoil: Callable[[Project], None], expected: str, export: Callable[..., Finished], project: Project
) -> None:
    before = (project.model / "model.onnx").read_bytes()
    spoil(project)
    card = (project.model / "card.json").read_bytes()
    assert expected in refused(export(), project)
    assert (project.model / "model.onnx").read_bytes() == before
    assert (project.model / "card.json").read_bytes() == card


def test_a_graph_that_differs_from_pytorch_is_not_kept(export: Callable[..., Finished], project: Project) -> None:
    before = (project.model / "model.onnx").read_bytes()
    change_weights(project, lambda name, value: value * np.float32(np.nan) if name == "class_head.predict.bias" else value)
    assert "within 0.01 of PyTorch, got nan" in refused(export(), project, code=1)
    assert (project.model / "model.onnx").read_bytes() == before


def test_data_are_found_where_the_flag_says(export: Callable[..., Finished], project: Project) -> None:
    moved_data(project)
    assert export("--data", "elsewhere/squares").code == 0
    assert "nowhere" in refused(export("--data", "nowhere"), project)


def test_without_a_model_the_command_that_makes_one_is_named(run: Commands) -> None:
    done = run(COMMAND)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: model folder models/latest does not exist: run python training/train.py --data PATH")
    assert done.err.count("\n") == 1


def test_one_command_at_a_time_writes_a_folder(export: Callable[..., Finished], project: Project) -> None:
    with locked(project.model):
        assert "another command is writing" in refused(export(), project)


@pytest.fixture
def no_large_files() -> Iterator[Callable[[], None]]:
    """Lets writing fail as on a full disk when called, in this process: Python ignores the signal that comes with it."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, former[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_a_full_disk_is_one_line_and_the_former_file_stays(
    export: Callable[..., Finished], project: Project, no_large_files: Callable[[], None]
) -> None:
    before, card = (project.model / "model.onnx").read_bytes(), card_of(project)
    no_large_files()
    assert "free disk space" in refused(export(), project)
    assert (project.model / "model.onnx").read_bytes() == before
    assert card_of(project) == card


def test_a_model_elsewhere_is_named(export: Callable[..., Finished], project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.model, tmp_path / "mine")
    (tmp_path / "mine" / "model.onnx").unlink()
    done = export("--model", tmp_path / "mine", "--data", "data/squares")
    assert done.code == 0, done.err
    assert (tmp_path / "mine" / "model.onnx").read_bytes() == (project.model / "model.onnx").read_bytes()
