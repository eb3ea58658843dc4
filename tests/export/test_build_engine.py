"""export/build_engine.py as a person types it, in copies of a project that went all the way once."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.model_folder import file_sha256, locked
from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason
from tests import squares
from tests.conftest import ROOT, Commands, Finished, Project

COMMAND = "export/build_engine.py"
LARGEST_FILE = 1 << 20  # bytes; a model.onnx of these tests has 1.6 MB


@pytest.fixture
def build(project: Project) -> Callable[..., Finished]:
    """The command in the project's folder, where models/latest is the model."""
    commands = Commands(project.folder)
    return lambda *arguments, **environment: commands(COMMAND, *arguments, **environment)


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    """A folder of one grey image: scales measured on it cut off all that the network knows."""
    folder = tmp_path / "grey"
    folder.mkdir()
    cv2.imwrite(str(folder / "grey.png"), np.full((64, 64, 3), 110, np.uint8))
    return folder


def card_of(project: Project) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((project.model / "card.json").read_text())
    return card


def change_card(project: Project, change: Callable[[dict[str, Any]], object]) -> None:
    card = card_of(project)
    change(card)
    (project.model / "card.json").write_text(json.dumps(card))


def int8_bytes(project: Project) -> bytes:
    return (project.model / "model.int8.onnx").read_bytes()


def leftovers(project: Project) -> list[str]:
    """What a broken-off command left in the model folder."""
    return [path.name for path in project.model.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def refused(done: Finished, project: Project, code: int = 2) -> str:
    """Return the one line of an error, after which nothing half-written is left."""
    assert done.code == code, done.out + done.err
    assert "Traceback" not in done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.err
    assert done.err.splitlines()[-1] == errors[0]
    assert leftovers(project) == []
    return errors[0]


def test_the_bare_call_says_what_to_run_on_the_device(build: Callable[..., Finished], project: Project) -> None:
    before = {path.name: path.read_bytes() for path in project.model.iterdir() if path.is_file()}
    done = build()
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) == 1
    assert f"no engine compiled, {tensorrt_unavailable_reason()}: " in done.out
    assert f"copy {project.model} to the device" in done.out
    assert "python export/build_engine.py --fp16 --model DIR" in done.out
    assert {path.name: path.read_bytes() for path in project.model.iterdir() if path.is_file()} == before


def test_the_card_holds_what_was_made(project: Project) -> None:
    card = card_of(project)
    int8 = card["int8"]
    assert int8["sha256"] == file_sha256(project.model / "model.int8.onnx")
    assert int8["source_sha256"] == card["onnx"]["sha256"] == file_sha256(project.model / "model.onnx")
    assert (int8["calibration"]["method"], int8["calibration"]["images"]) == ("percentile", 32)  # 128 asked for, 32 are there
    accuracy = {record["precision"]: record for record in card["accuracy"]}
    assert accuracy["fp32"]["file_sha256"] == card["onnx"]["sha256"]
    assert accuracy["int8"]["file_sha256"] == card["verdict"]["onnx_sha256"] == int8["sha256"]
    assert card["verdict"]["ap_drop"] == pytest.approx(accuracy["fp32"]["ap"] - accuracy["int8"]["ap"])
    assert card["verdict"]["passed"]
    assert accuracy["int8"]["ap"] > 0.5  # it does find the squares
    said = project.said[COMMAND]
    assert re.search(rf"^all classes +{accuracy['fp32']['ap']:.4f} +{accuracy['int8']['ap']:.4f} ", said, re.MULTILINE)


def test_the_model_that_the_card_vouches_for_is_reused(build: Callable[..., Finished], project: Project) -> None:
    before, card = int8_bytes(project), card_of(project)
    done = build("--int8", "--max-ap-drop", 5)
    assert (done.code, done.err) == (0, "")
    assert "reused" in done.out
    assert "calibrating" not in done.out
    assert int8_bytes(project) == before
    assert card_of(project) == card


def flip_last_byte(model: Path) -> None:
    data = bytearray((model / "model.int8.onnx").read_bytes())
    data[-1] ^= 1
    (model / "model.int8.onnx").write_bytes(data)


def remove(model: Path) -> None:
    (model / "model.int8.onnx").unlink()


@pytest.mark.parametrize("spoil", [flip_last_byte, remove], ids=["changed", "missing"])
def test_a_changed_or_missing_file_is_made_again(
    spoil: Callable[[Path], None], build: Callable[..., Finished], project: Project
) -> None:
    spoil(project.model)
    done = build("--int8", "--images", 2, "--max-ap-drop", 100)
    assert done.code == 0, done.err
    assert "calibrating on 2 images" in done.out
    assert card_of(project)["int8"]["sha256"] == file_sha256(project.model / "model.int8.onnx")


def of_another_source(card: dict[str, Any]) -> None:
    card["int8"]["source_sha256"] = "0" * 64


def never_measured(card: dict[str, Any]) -> None:
    card["verdict"] = None


@pytest.mark.parametrize("change", [of_another_source, never_measured])
def test_a_file_of_another_source_or_without_a_verdict_is_made_again(
    change: Callable[[dict[str, Any]], None], build: Callable[..., Finished], project: Project
) -> None:
    change_card(project, change)
    done = build("--int8", "--images", 2, "--max-ap-drop", 100)
    assert done.code == 0, done.err
    assert "calibrating on 2 images" in done.out
    card = card_of(project)
    assert card["int8"]["sha256"] == card["verdict"]["onnx_sha256"] == file_sha256(project.model / "model.int8.onnx")
    assert card["int8"]["source_sha256"] == card["onnx"]["sha256"]


def test_a_seed_gives_the_same_file_and_another_seed_another_choice(build: Callable[..., Finished], project: Project) -> None:
    made = []
    for seed in (3, 3, 4):
        done = build("--int8", "--recalibrate", "--images", 3, "--seed", seed, "--max-ap-drop", 100)
        assert "calibrating on 3 images" in done.out, done.err
        calibration = card_of(project)["int8"]["calibration"]
        assert (calibration["images"], calibration["seed"]) == (3, seed)
        made.append((int8_bytes(project), calibration["data_sha256"]))
    assert made[0] == made[1]
    assert made[0][0] != made[2][0]
    assert made[0][1] != made[2][1]


def test_calibration_images_come_from_the_folder_that_is_named(build: Callable[..., Finished], project: Project) -> None:
    before = card_of(project)["int8"]
    (project.folder / "mine" / "deeper").mkdir(parents=True)
    for index, name in enumerate(("mine/a.png", "mine/b.PNG", "mine/deeper/c.png", "mine/notes.txt")):
        shutil.copy(project.folder / "data" / "squares" / "train" / f"{index}.png", project.folder / name)
    done = build("--int8", "--calibration", "mine", "--max-ap-drop", 100)  # which asks for another file than the one there
    assert done.code == 0, done.err
    after = card_of(project)["int8"]
    assert after["calibration"]["images"] == 3  # not the text file, whatever is in it
    assert after["calibration"]["data_sha256"] != before["calibration"]["data_sha256"]
    assert after["sha256"] == file_sha256(project.model / "model.int8.onnx") != before["sha256"]


def test_the_verdict_refuses_what_loses_too_much_until_it_is_forced(
    build: Callable[..., Finished], project: Project, grey: Path
) -> None:
    message = refused(build("--int8", "--recalibrate", "--calibration", grey), project, code=3)
    pattern = r"INT8 changes AP by -(\d+\.\d+) points \(95 % interval .* of 8 images\), 0\.50 is allowed; lost most: (\w+) -.*: .*--force"
    found = re.search(pattern, message)
    assert found
    card = card_of(project)
    assert float(found[1]) == pytest.approx(100 * card["verdict"]["ap_drop"], abs=0.005)
    assert card["verdict"]["ap_drop"] > 0.5
    assert (card["verdict"]["passed"], card["verdict"]["forced"]) == (False, False)
    assert found[2] == card["verdict"]["worst_classes"][0]["name"]
    assert 0 < card["verdict"]["interval"]["low"] <= card["verdict"]["ap_drop"] <= card["verdict"]["interval"]["high"]
    assert card["int8"]["sha256"] == file_sha256(project.model / "model.int8.onnx")  # kept, to be looked at

    assert "INT8 changes AP by -" in refused(build("--int8"), project, code=3)  # not forgotten
    forced = build("--int8", "--force")
    assert (forced.code, "accepted by --force" in forced.out) == (0, True), forced.err
    for arguments, passed, stays_forced in [((), False, True), (("--max-ap-drop", 100), True, False)]:
        done = build("--int8", *arguments)
        assert done.code == 0, done.err
        assert "reused" in done.out
        verdict = card_of(project)["verdict"]
        assert (verdict["passed"], verdict["forced"]) == (passed, stays_forced)


def test_force_is_forgotten_with_the_model_it_was_given_for(
    build: Callable[..., Finished], project: Project, grey: Path
) -> None:
    assert build("--int8", "--recalibrate", "--calibration", grey, "--force").code == 0
    assert card_of(project)["verdict"]["forced"]
    refused(build("--int8", "--recalibrate", "--calibration", grey), project, code=3)
    assert not card_of(project)["verdict"]["forced"]


def without_onnx(project: Project) -> None:
    (project.model / "model.onnx").unlink()


def truncated_onnx(project: Project) -> None:
    path = project.model / "model.onnx"
    path.write_bytes(path.read_bytes()[:100_000])


def onnx_of_another_model(project: Project) -> None:
    shutil.copy(project.model / "model.int8.onnx", project.model / "model.onnx")


def newer_card(project: Project) -> None:
    change_card(project, lambda card: card.update(schema_version=99))


def truncated_card(project: Project) -> None:
    path = project.model / "card.json"
    path.write_text(path.read_text()[:500])


def never_exported(project: Project) -> None:
    change_card(project, lambda card: card.update(onnx=None, int8=None, verdict=None, accuracy=[]))
    without_onnx(project)


def no_model(project: Project) -> None:
    (project.folder / "models" / "latest").unlink()


@pytest.mark.parametrize("precision", ["--fp16", "--int8"])
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (without_onnx, "model.onnx is needed but it does not exist: run python export/export_onnx.py"),
        (never_exported, "model.onnx is needed but it does not exist: run python export/export_onnx.py"),
        (truncated_onnx, "must have SHA-256"),
        (onnx_of_another_model, "must have SHA-256"),
        (newer_card, "schema version 5, got 99: update retinanet-edge"),
        (truncated_card, "may be truncated"),
        (no_model, "models/latest does not exist: run python training/train.py"),
    ],
)
def test_a_broken_model_folder_is_one_line(
    spoil: Callable[[Project], None], expected: str, precision: str, build: Callable[..., Finished], project: Project
) -> None:
    folder = Project(project.model, {})
    before = int8_bytes(project)
    spoil(project)
    done = build(precision)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert expected in done.err
    assert (folder.folder / "model.int8.onnx").read_bytes() == before


def test_one_command_at_a_time_writes_a_folder(build: Callable[..., Finished], project: Project) -> None:
    with locked(project.model):
        assert "another command is writing" in refused(build("--int8"), project)
    assert build("--int8", "--max-ap-drop", 5).code == 0


def with_other_classes(folder: Path) -> list[object]:
    for labels in (folder / "data" / "squares" / "annotations").iterdir():
        labels.write_text(labels.read_text().replace('"blue"', '"green"'))
    return ["--data", "data/squares"]


def moved_data(folder: Path) -> list[object]:
    (folder / "data").rename(folder / "elsewhere")
    return []


def missing_data(_: Path) -> list[object]:
    return ["--data", "nowhere"]


def missing_calibration(_: Path) -> list[object]:
    return ["--calibration", "nowhere"]


def empty_calibration(folder: Path) -> list[object]:
    (folder / "empty").mkdir()
    (folder / "empty" / "notes.txt").write_text("no image")
    return ["--calibration", "empty"]


def corrupt_calibration(folder: Path) -> list[object]:
    shutil.copytree(folder / "data" / "squares" / "val", folder / "some")
    (folder / "some" / "9.png").write_bytes(b"\x89PNG\r\n\x1a\nthe rest was lost")
    return ["--calibration", "some"]


def empty_calibration_image(folder: Path) -> list[object]:
    shutil.copytree(folder / "data" / "squares" / "val", folder / "some")
    (folder / "some" / "9.png").write_bytes(b"")
    return ["--calibration", "some"]


def cut_off_calibration_image(folder: Path) -> list[object]:
    """A JPEG that decodes, the lost part in grey."""
    shutil.copytree(folder / "data" / "squares" / "val", folder / "some")
    done, data = cv2.imencode(".jpg", cv2.imread(str(folder / "some" / "0.png")))
    assert done
    (folder / "some" / "9.jpg").write_bytes(data.tobytes()[: len(data) // 2])
    return ["--calibration", "some"]


def corrupt_training_image(folder: Path) -> list[object]:
    overwrite_middle(folder / "data" / "squares" / "train" / "7.png")
    return []


def corrupt_validation_image(folder: Path) -> list[object]:
    """Found only when AP is measured, after the new model has been made."""
    overwrite_middle(folder / "data" / "squares" / "val" / "7.png")
    return ["--images", 4]


def overwrite_middle(path: Path) -> None:
    """Leave a PNG its header (33 bytes), the head of its data (8) and its end (12), so that only decoding finds the fault."""
    data = path.read_bytes()
    path.write_bytes(data[:41] + bytes(len(data) - 41 - 12) + data[-12:])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (with_other_classes, "without blue, also green"),
        (moved_data, "data/squares, is not here: give its place with --data PATH"),
        (missing_data, "nowhere"),
        (missing_calibration, "--calibration must be a folder with images"),
        (empty_calibration, "--calibration must be a folder with images"),
        (corrupt_calibration, "some/9.png must be an image"),
        (empty_calibration_image, "some/9.png must hold an image, got an empty file"),
        (cut_off_calibration_image, "some/9.jpg must be whole"),
        (corrupt_training_image, "train/7.png must decode"),
        (corrupt_validation_image, "val/7.png must decode"),
    ],
)
def test_bad_data_are_one_line_and_the_former_model_stays(
    spoil: Callable[[Path], list[object]], expected: str, build: Callable[..., Finished], project: Project
) -> None:
    before, card = int8_bytes(project), card_of(project)
    arguments = spoil(project.folder)
    assert expected in refused(build("--int8", "--recalibrate", *arguments), project)
    assert int8_bytes(project) == before
    assert card_of(project) == card


def test_moved_data_are_found_where_the_flag_says(build: Callable[..., Finished], project: Project) -> None:
    before = card_of(project)
    moved_data(project.folder)
    done = build("--int8", "--recalibrate", "--data", "elsewhere/squares", "--images", 2, "--max-ap-drop", 100)
    assert done.code == 0, done.err
    assert card_of(project)["accuracy"][0] == before["accuracy"][0]  # of FP32, which is as it was


def test_the_verdict_compares_the_two_on_the_same_images(build: Callable[..., Finished], project: Project) -> None:
    squares.write_dataset(project.folder / "other", train=4, val=3, seed=1)
    assert build("--int8", "--recalibrate", "--data", "other", "--max-ap-drop", 100).code == 0
    card = card_of(project)
    accuracy = {record["precision"]: record for record in card["accuracy"]}
    assert [record["images"] for record in card["accuracy"]] == [3, 3]
    assert card["verdict"]["ap_drop"] == pytest.approx(accuracy["fp32"]["ap"] - accuracy["int8"]["ap"])
    commands = Commands(project.folder)
    for precision in ("fp32", "int8"):
        table = commands.must("runtime/evaluate.py", "--data", "other", "--engine", precision).out
        assert f"all classes  {accuracy[precision]['ap']:.3f}" in table


def limit_files() -> None:
    """Let writing fail, as on a full disk: Python ignores the signal that comes with it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))


def test_a_full_disk_is_one_line_and_the_former_model_stays(project: Project) -> None:
    before, card = int8_bytes(project), card_of(project)
    command = [sys.executable, str(ROOT / COMMAND), "--int8", "--recalibrate"]
    done = subprocess.run(command, cwd=project.folder, preexec_fn=limit_files, capture_output=True, text=True, check=False)
    assert "free disk space" in refused(Finished(done.returncode, done.stdout, done.stderr), project)
    assert int8_bytes(project) == before
    assert card_of(project) == card


@pytest.mark.parametrize("precision", ["--fp16", "--int8"])
@pytest.mark.parametrize("change", [{"classes": ["a", "b", "c", "d"]}, {"input": {"height": 96}}])
def test_a_card_of_other_classes_or_another_input_is_not_built(
    precision: str, change: dict[str, Any], build: Callable[..., Finished], project: Project
) -> None:
    card = card_of(project)
    for name, value in change.items():
        card[name] = {**card[name], **value} if isinstance(value, dict) else value
    (project.model / "card.json").write_text(json.dumps(card))
    assert "must have the input and classes of its card" in refused(build(precision), project)


def test_an_interrupt_leaves_the_former_model(project: Project) -> None:
    before, card = int8_bytes(project), card_of(project)
    command = [sys.executable, str(ROOT / COMMAND), "--int8", "--recalibrate", "--images", "4"]
    with subprocess.Popen(command, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("calibrating")  # it is well under way
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    if process.returncode == 0:
        pytest.skip("the command ended before the interrupt reached it")
    assert "interrupted" in refused(Finished(process.returncode, out, err), project, code=130)
    assert int8_bytes(project) == before
    assert card_of(project) == card


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--int8", "--images", "0"], "argument --images: must be a whole number of at least 1"),
        (["--int8", "--max-ap-drop", "-1"], "argument --max-ap-drop: must be a number"),
        (["--int8", "--max-ap-drop", "nan"], "argument --max-ap-drop: must be a number"),
        (["--int8", "--method", "median"], "argument --method: invalid choice"),
        (["--int8", "--fp16"], "not allowed with argument"),
        (["--batch", "0", "1", "1"], "argument --batch: must be a whole number"),
        (["--batch", "4"], "argument --batch: expected 3 arguments"),
        (["--workspace", "2G"], "argument --workspace: must be a whole number of at least 1 and at most 1048576, got 2G"),
        (["--dla", "-1"], "argument --dla: must be a whole number"),
        (["--optimization-level", "6"], "argument --optimization-level: must be a whole number of at least 0 and at most 5, got 6"),
        (["--nms", "soft"], "argument --nms: invalid choice"),
        (["--input", "uint8-nchw"], "argument --input: invalid choice"),
        (["--camera-size", "1080"], "argument --camera-size: must be WxH in pixels, as 1920x1080, got 1080"),
        (["--camera-size", "0x480"], "argument --camera-size: must be WxH in pixels"),
        (["--score-threshold", "0.001"], "argument --score-threshold: must be a number, at least 0.01 and at most 0.99, got 0.001"),
        (["--max-detections", "99999999999999999999"], "argument --max-detections: must be a whole number of at least 1 and at most 10000"),
        (["--batch", "1", "1", "100000000"], "argument --batch: must be a whole number of at least 1 and at most 1024, got 100000000"),
        (["--iou-threshold", "0"], "argument --iou-threshold: must be a number, positive and at most 1"),
        (["--max-detections", "0"], "argument --max-detections: must be a whole number"),
        (["--top-k", "3841"], "argument --top-k: must be a whole number of at least 1 and at most 3840, got 3841"),
        (["--dry-run", "--trtexec"], "not allowed with argument"),
    ],
)
def test_a_wrong_value_is_refused_by_its_flag(arguments: list[str], expected: str, run: Commands) -> None:
    done = run(COMMAND, *arguments)
    assert done.code == 2
    assert expected in done.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--batch", "4", "2", "8"], "error: --batch must be MIN OPT MAX with 1 <= MIN <= OPT <= MAX, got 4 2 8"),
        (["--int8", "--dla", "0"], "error: --dla with --int8: DLA takes no explicit Q/DQ"),
        (["--dla", "0", "--batch", "1", "1", "2"], "error: --dla needs a fixed batch, got 1 1 2"),
        (["--dla", "0", "--nms", "native"], "error: --dla needs fixed shapes"),
        (["--camera-size", "640x480", "--input", "fp32-nchw"], "error: --input fp32-nchw starts after resizing"),
        (["--nms", "none", "--score-threshold", "0.3"], "error: --nms none leaves the raw heads"),
    ],
)
def test_flags_that_contradict_each_other_are_one_line(arguments: list[str], expected: str, run: Commands) -> None:
    """Before any model is looked for: here is none."""
    for more in ([], ["--dry-run"], ["--trtexec"]):
        done = run(COMMAND, *arguments, *more)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert done.err.startswith(expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "x"], "--data, --calibration, --search and others of INT8 need --int8, got --fp16: add it or leave them out"),
        (["--timing-cache", "nowhere/cache"], "--timing-cache must be a file in a folder that exists, got nowhere/cache"),
        (["--dry-run", "--camera-size", "99999x9"], "--camera-size must be 1x1 to 16384x16384 pixels, got 99999x9"),
    ],
)
def test_what_does_not_fit_is_one_line_with_or_without_tensorrt(
    arguments: list[str], expected: str, build: Callable[..., Finished], project: Project
) -> None:
    assert expected in refused(build(*arguments), project)


def test_the_line_for_the_device_says_that_there_were_other_flags(build: Callable[..., Finished]) -> None:
    assert "--model DIR, with the other flags of this call" in build("--fp16", "--batch", 1, 1, 4).out
    assert "with the other flags" not in build("--fp32").out


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--trtexec"], ["--dry-run", "--int8"], ["--trtexec", "--nms", "native"]])
def test_a_plan_or_a_call_of_trtexec_is_made_of_a_trained_model(
    arguments: list[str], build: Callable[..., Finished], project: Project
) -> None:
    card = card_of(project)
    done = build(*arguments, "--batch", 1, 2, 4)
    assert (done.code, done.err) == (0, "")
    assert ("images uint8 [N, 64, 64, 3]" if "--dry-run" in arguments else "--maxShapes=images:4x64x64x3") in done.out
    assert card_of(project) == card
    assert leftovers(project) == []


@pytest.mark.parametrize("action", ["--dry-run", "--trtexec"])
def test_a_broken_folder_has_neither_plan_nor_call(action: str, build: Callable[..., Finished], project: Project) -> None:
    truncated_onnx(project)
    assert "must have SHA-256" in refused(build(action), project)
    with locked(project.model):
        assert ("another command is writing" in build(action).err) == (action == "--trtexec"), "a plan writes nothing"


# What a device lacks: training, calibration, and here the CPU backend and whatever reads data, too.
ABSENT = (
    "torch", "torchvision", "timm", "safetensors", "onnxruntime", "pycocotools", "openvino", "cv2", "PIL", "tqdm", "matplotlib",
    "retinanet_edge.training",
)  # fmt: skip
ON_A_DEVICE = f"""
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(name == absent or name.startswith(absent + ".") for absent in {ABSENT!r}):
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def on_a_device(folder: Path, *arguments: object) -> Finished:
    command = [sys.executable, "-c", ON_A_DEVICE, str(ROOT / COMMAND), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def test_a_device_needs_neither_data_nor_onnxruntime(finished_project: Project, tmp_path: Path) -> None:
    device = Project(tmp_path, {})
    shutil.copytree(finished_project.model, tmp_path / "models" / "latest")
    before, card = int8_bytes(device), card_of(device)
    assert not (device.model / card["dataset"]["path"]).exists()
    for arguments in (["--int8", "--max-ap-drop", 5], ["--fp16"], ["--fp32"]):
        done = on_a_device(tmp_path, *arguments)
        assert (done.code, done.err) == (0, "")
    assert f"no engine compiled, {tensorrt_unavailable_reason()}: " in done.out
    assert int8_bytes(device) == before
    assert card_of(device) == card


def test_a_device_that_would_have_to_calibrate_says_what_is_missing(finished_project: Project, tmp_path: Path) -> None:
    shutil.copytree(finished_project.model, tmp_path / "model")
    done = on_a_device(tmp_path, "--model", "model", "--int8", "--recalibrate")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "pip install -e '.[export]'" in done.err
