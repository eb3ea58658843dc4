import dataclasses
import hashlib
import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import DatasetRecord
from retinanet_edge.runtime.model_folder import (
    atomic_path,
    data_of_card,
    file_sha256,
    find_model_folder,
    locked,
    read_card,
    vouched_file,
    write_atomically,
    write_card,
)

pytest.importorskip("onnx")  # of the tiny model beside this file
CARD = runpy.run_path(str(Path(__file__).with_name("tiny_model.py")))["card"]()


def test_a_card_comes_back_from_its_folder(tmp_path):
    write_card(tmp_path, CARD)
    assert read_card(tmp_path) == CARD
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_a_link_leads_to_the_real_folder(tmp_path):
    (tmp_path / "real").mkdir()
    write_card(tmp_path / "real", CARD)
    (tmp_path / "latest").symlink_to("real")
    assert find_model_folder(tmp_path / "latest") == (tmp_path / "real").resolve()
    assert read_card(tmp_path / "latest") == CARD


def test_a_missing_folder_and_one_without_a_card_are_told_apart(tmp_path):
    with pytest.raises(ModelFolderError, match=r"missing does not exist: run python training/train\.py --data PATH, or name another"):
        find_model_folder(tmp_path / "missing")
    with pytest.raises(ModelFolderError, match=r"has no card\.json: run python training/train\.py"):
        read_card(tmp_path)


def test_a_card_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "card.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelFolderError, match=r"card\.json must be UTF-8 text"):
        read_card(tmp_path)


def test_the_data_set_is_found_relative_to_the_folder(tmp_path):
    record = DatasetRecord("coco", "../../data/cats", "0" * 64, "given", 1, 1, 0)
    card = dataclasses.replace(CARD, dataset=record)
    folder = tmp_path / "models" / "cats"
    folder.mkdir(parents=True)
    with pytest.raises(ModelFolderError, match=rf"the data set of this model, {tmp_path}/data/cats, is not here: .* --data PATH"):
        data_of_card(folder, card)
    (tmp_path / "data" / "cats").mkdir(parents=True)
    assert data_of_card(folder, card) == tmp_path / "data" / "cats"
    with pytest.raises(ModelFolderError, match="names no data set: give --data PATH"):
        data_of_card(folder, CARD)


def test_a_file_is_written_whole_with_the_usual_permissions(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    mask = os.umask(0o027)
    try:
        write_atomically(path, b"new" * 1000)
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"new" * 1000
    assert stat.S_IMODE(path.stat().st_mode) == 0o640  # 0666 without what the mask 0027 takes away


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(temporary))

    with pytest.raises(OSError, match="No space left"):
        write_half()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    program = (
        "import os, sys, pathlib\n"
        "from retinanet_edge.runtime.model_folder import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"


def test_the_temporary_file_keeps_the_suffix(tmp_path):
    # What writes it may choose a format by it.
    with atomic_path(tmp_path / "curve.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        temporary.touch()


def test_hashes_files_larger_than_a_block(tmp_path):
    data = bytes(range(256)) * 8200  # 2 MiB and a bit
    (tmp_path / "file").write_bytes(data)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_vouched_file_is_the_one_of_the_card(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"network")
    sha256 = hashlib.sha256(b"network").hexdigest()
    assert vouched_file(tmp_path, "model.onnx", sha256) == path
    path.write_bytes(b"another network")
    found = hashlib.sha256(b"another network").hexdigest()
    with pytest.raises(ModelFolderError, match=rf"SHA-256 {sha256[:12]}\.\.\. as the card says, got {found[:12]}\.\.\.: run python export"):
        vouched_file(tmp_path, "model.onnx", sha256)


@pytest.mark.parametrize(
    ("name", "maker"),
    [("model.onnx", "python export/export_onnx.py"), ("model.int8.onnx", "python export/build_engine.py --int8"),
     ("weights.safetensors", "python training/train.py --data PATH"), ("model.fp16.engine", "python export/build_engine.py")],
)  # fmt: skip
def test_a_missing_or_unknown_file_names_the_command_that_makes_it(tmp_path, name, maker):
    with pytest.raises(ModelFolderError) as missing:
        vouched_file(tmp_path, name, "0" * 64)
    assert str(missing.value) == f"{tmp_path / name} is needed but it does not exist: run {maker}"
    (tmp_path / name).touch()
    with pytest.raises(ModelFolderError) as unknown:
        vouched_file(tmp_path, name, None)
    assert str(unknown.value) == f"{tmp_path / name} is needed but the card does not know it: run {maker}"


HOLD = (
    "import sys, pathlib\n"
    "from retinanet_edge.runtime.model_folder import locked\n"
    "with locked(pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.readline()\n"
)


@pytest.mark.parametrize("end", ["normally", "killed"])
def test_two_processes_do_not_write_one_folder(tmp_path, end):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ModelFolderError, match=f"another command is writing {tmp_path}: wait for it"), locked(tmp_path):
            pass
        if end == "killed":
            other.kill()
            other.wait()
        else:
            other.communicate("\n")
    with locked(tmp_path):  # whichever way the other ended, the folder is free
        assert (tmp_path / ".lock").exists()


def test_the_lock_is_released_when_its_block_fails(tmp_path):
    with pytest.raises(RuntimeError, match="failed"), locked(tmp_path):
        raise RuntimeError("failed")
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()
