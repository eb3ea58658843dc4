"""What build_engine.py does: an INT8 model and its verdict where asked, then the TensorRT engine where this machine can make one.

Imports neither torch nor onnxruntime unless it must calibrate: it runs on devices that have neither.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retinanet_edge.export.compiler import BuildOptions, build_engine, tensorrt_unavailable_reason
from retinanet_edge.export.graph_file import load_graph
from retinanet_edge.runtime.errors import VerdictError
from retinanet_edge.runtime.model_card import ModelCard, Verdict
from retinanet_edge.runtime.model_folder import (
    INT8_FILE,
    ONNX_FILE,
    file_sha256,
    find_model_folder,
    locked,
    read_card,
    vouched_file,
    write_card,
)  # fmt: skip


@dataclass(frozen=True)
class Int8Options:
    """How to calibrate and what to accept.

    data: labelled folder, None for the card's. calibration: folder of images, None for the training images of `data`. images: how
    many of them. max_ap_drop: the most AP, 0..1, that INT8 may lose. force: accept more. recalibrate: make it again though the
    card vouches for the one that is there.
    """

    data: Path | None
    calibration: Path | None
    images: int
    method: Literal["minmax", "percentile"]
    seed: int
    max_ap_drop: float
    force: bool
    recalibrate: bool


def build(model: Path, options: BuildOptions, int8: Int8Options | None) -> None:
    """Make what `options.precision` asks for in a model folder and say in lines what was made; `int8` goes with that precision.

    Raises ModelFolderError for a broken folder, VerdictError where INT8 loses too much, EngineError where TensorRT fails.
    """
    folder = find_model_folder(model)
    with locked(folder):
        card = read_card(folder)
        source = vouched_file(folder, ONNX_FILE, card.onnx.sha256 if card.onnx else None)
        load_graph(source, card)
        if int8 is not None:
            card = _with_int8(folder, card, int8)
            source = folder / INT8_FILE
        load_graph(source, card)  # what does not fit its card is said here, too, where there is nothing to compile it
        reason = tensorrt_unavailable_reason()
        if reason is None:
            record = build_engine(folder, card, source, options)
            write_card(folder, card.with_engine(record))
            print(f"wrote {folder / record.file} ({record.gpu}, TensorRT {record.tensorrt})")
            return
    print(
        f"no engine compiled, {reason}: the CPU backend runs {source.name} here; for an engine, copy {folder} to the device and "
        f"run there: python export/build_engine.py --{options.precision} --model DIR"
    )


def _with_int8(folder: Path, card: ModelCard, options: Int8Options) -> ModelCard:
    """Return the card, also on disk, of a folder whose INT8 model is there and accepted."""
    if is_vouched(folder, card) and not options.recalibrate:
        print(f"{INT8_FILE} is the one that the card vouches for: reused (--recalibrate makes it again)")
    else:
        from retinanet_edge.export.int8 import make_int8  # needs onnxruntime and the data

        card = make_int8(folder, card, options)
    card = dataclasses.replace(card, verdict=_judged(card, options))
    write_card(folder, card)
    _report(card)
    return card


def is_vouched(folder: Path, card: ModelCard) -> bool:
    """Say whether model.int8.onnx is the card's, was made from the card's model.onnx, and was measured: no need to make it again."""
    record, verdict = card.int8, card.verdict
    if record is None or verdict is None or card.onnx is None or not (folder / INT8_FILE).is_file():
        return False
    same = record.source_sha256 == card.onnx.sha256 and verdict.onnx_sha256 == record.sha256
    return same and file_sha256(folder / INT8_FILE) == record.sha256


def _judged(card: ModelCard, options: Int8Options) -> Verdict:
    """Return the verdict under today's limit; a model once accepted by force stays accepted."""
    assert card.verdict is not None
    passed = card.verdict.ap_drop <= options.max_ap_drop
    forced = not passed and (options.force or card.verdict.forced)
    return dataclasses.replace(card.verdict, passed=passed, max_ap_drop=options.max_ap_drop, forced=forced)


def _report(card: ModelCard) -> None:
    verdict = card.verdict
    assert verdict is not None
    for accuracy in card.accuracy:
        if accuracy.split == "val":
            print(
                f"  {accuracy.precision:5s} {accuracy.backend:12s} AP {accuracy.ap:.4f}  AP50 {accuracy.ap50:.4f}  "
                f"AP75 {accuracy.ap75:.4f}  ({accuracy.images} validation images)"
            )
    points = f"INT8 changes AP by {-100 * verdict.ap_drop:+.2f} points, {-100 * verdict.max_ap_drop:.2f} is allowed"
    if not verdict.passed and not verdict.forced:
        raise VerdictError(f"{points}: calibrate with more --images or another --method, or accept it with --force")
    print(f"verdict: {'passed' if verdict.passed else 'accepted by --force'}, {points}", flush=True)
