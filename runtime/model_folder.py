"""A model folder: where it is, its card on disk, its files' hashes, and the lock that keeps two commands apart.

    models/<data>-<time>/
        card.json            the contract (model_card.py)
        weights.safetensors  best weights;  last.safetensors: where training resumes
        model.onnx           portable network;  model.int8.onnx: the same with Q/DQ
        model.*.engine       compiled for one GPU and TensorRT;  timing.cache
        report/              pictures and index.html
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import ModelCard, card_from_json

DEFAULT_MODEL = Path("models/latest")  # a link to the folder of the newest training run
CARD_FILE, WEIGHTS_FILE, ONNX_FILE, INT8_FILE = "card.json", "weights.safetensors", "model.onnx", "model.int8.onnx"
FP16_FILE, TYPED_INT8_FILE = "model.fp16.onnx", "model.int8.typed.onnx"  # of the two before, with the types that TensorRT 11 takes
REPORT_FOLDER = "report"

_MAKER = {  # file -> the command that makes it
    WEIGHTS_FILE: "python training/train.py --data PATH",
    ONNX_FILE: "python export/export_onnx.py",
    INT8_FILE: "python export/build_engine.py --int8",
}


def find_model_folder(folder: Path | str) -> Path:
    """Return the real path of a model folder. Raises ModelFolderError where there is none, or none with a card."""
    path = Path(folder)
    if not (path / CARD_FILE).is_file():
        what = "has no card.json" if path.is_dir() else "does not exist"
        raise ModelFolderError(f"model folder {path} {what}: run {_MAKER[WEIGHTS_FILE]}, or name another with --model DIR")
    return path.resolve()


def read_card(folder: Path) -> ModelCard:
    """Return the card of a model folder. Raises ModelFolderError where it is missing, broken or of a newer schema."""
    path = find_model_folder(folder) / CARD_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ModelFolderError(f"{path} must be UTF-8 text, got other bytes: train again, or take it from a backup") from None
    return card_from_json(text, str(path))


def data_of_card(folder: Path, card: ModelCard) -> Path:
    """Return the path of the data set that a model was trained on. Raises ModelFolderError where the card names none, or it is gone."""
    if card.dataset is None:
        raise ModelFolderError(f"the card of {folder} names no data set: give --data PATH")
    path = folder.resolve() / card.dataset.path
    if not path.exists():
        raise ModelFolderError(f"the data set of this model, {os.path.normpath(path)}, is not here: give its place with --data PATH")
    return path.resolve()


def write_card(folder: Path, card: ModelCard) -> None:
    """Write card.json, whole or not at all."""
    write_atomically(folder / CARD_FILE, card.to_json().encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that a reader, a full disk or a kill sees the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, which takes its place when the block ends well and goes away when it does not."""
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")  # made in the block: an interrupt leaves nothing
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def vouched_file(folder: Path, name: str, sha256: str | None) -> Path:
    """Return the path of a file whose hash the card holds.

    Raises ModelFolderError where the file is missing, or is not the one that the card vouches for (`sha256` None: the card
    does not know it).
    """
    path, maker = folder / name, _MAKER.get(name, "python export/build_engine.py")
    if not path.is_file() or sha256 is None:
        what = "the card does not know it" if path.is_file() else "it does not exist"
        raise ModelFolderError(f"{path} is needed but {what}: run {maker}")
    found = file_sha256(path)
    if found != sha256:
        raise ModelFolderError(f"{path} must have SHA-256 {sha256[:12]}... as the card says, got {found[:12]}...: run {maker}")
    return path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for one writing command. Raises ModelFolderError where another holds it.

    An flock: the kernel releases it however the holder ends, so no stale lock can be left behind.
    """
    path = folder / ".lock"
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise ModelFolderError(
                f"another command is writing {folder}: wait for it to end, or name another with --model DIR"
            ) from None
        yield
