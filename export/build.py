"""What build_engine.py does: an INT8 model and its verdict where asked, then the TensorRT engine where this machine can make one.

Imports neither torch nor onnxruntime unless it must calibrate: it runs on devices that have neither.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from retinanet_edge.export.build_machine import this_build_machine
from retinanet_edge.export.build_options import BuildOptions
from retinanet_edge.export.build_plan import make_plan
from retinanet_edge.export.compiler import build_engine
from retinanet_edge.export.dry_run import plan_lines
from retinanet_edge.export.engine_graph import make_engine_graph, typed_file_name, write_typed_file
from retinanet_edge.export.graph_file import load_graph
from retinanet_edge.export.trtexec import trtexec_command
from retinanet_edge.export.verdict import judged, losses, verdict_words
from retinanet_edge.runtime.errors import VerdictError
from retinanet_edge.runtime.model_card import CalibrationMethod, ModelCard
from retinanet_edge.runtime.model_folder import (
    INT8_FILE,
    ONNX_FILE,
    file_sha256,
    find_model_folder,
    locked,
    read_card,
    vouched_file,
    write_atomically,
    write_card,
)  # fmt: skip
from retinanet_edge.runtime.quantization_plan import LEARNED_RANGES_FILE


@dataclass(frozen=True)
class Int8Options:
    """How to calibrate and what to accept.

    data: labelled folder, None for the card's. calibration: folder of images, None for the training images of `data`. images: how
    many of them. max_ap_drop: the most AP, 0..1, that INT8 may lose. force: accept more. recalibrate: make it again though the
    card vouches for the one that is there. search: equalize channels, keep the fewest layers out of INT8, so that it loses no more.
    learned: take the ranges of quantization-aware fine-tuning where the folder has some.
    """

    data: Path | None
    calibration: Path | None
    images: int
    method: CalibrationMethod
    seed: int
    max_ap_drop: float
    force: bool
    recalibrate: bool
    search: bool = False
    learned: bool = False


def build(model: Path, options: BuildOptions, int8: Int8Options | None) -> None:
    """Make what `options.precision` asks for in a model folder and say in lines what was made; `int8` goes with that precision.

    Raises ModelFolderError for a broken folder, VerdictError where INT8 loses too much, EngineError where TensorRT fails,
    UserInputError where the options do not fit the model or the machine.
    """
    folder = find_model_folder(model)
    with locked(folder):
        card, source = _source(folder, int8)
        here = this_build_machine()
        make_plan(folder, card, load_graph(source, card), options, here)  # what does not fit is said here, too, where nothing compiles it
        if here.machine is not None:
            record = build_engine(folder, card, source, options)
            write_card(folder, card.with_engine(record))
            print(f"wrote {folder / record.file} ({record.gpu}, TensorRT {record.tensorrt})")
            return
    plain = dataclasses.replace(options, typical_batch=None) == BuildOptions(options.precision)
    others = "" if plain else ", with the other flags of this call"
    print(
        f"no engine compiled, {here.lacking}: the CPU backend runs {source.name} here; for an engine, copy {folder} to the device and "
        f"run there: python export/build_engine.py --{options.precision} --model DIR{others}"
    )


def print_plan(model: Path, options: BuildOptions, int8: Int8Options | None) -> None:
    """Print what `build` would do and change nothing. Raises what it would raise before TensorRT is asked, but for the verdict."""
    folder = find_model_folder(model)
    card = read_card(folder)
    source = vouched_file(folder, ONNX_FILE, card.onnx.sha256 if card.onnx else None)
    words = source.name
    if int8 is not None and _can_reuse(folder, card, int8):
        assert card.verdict is not None
        source, verdict = folder / INT8_FILE, judged(card.verdict, int8.max_ap_drop, int8.force)
        needed = "" if verdict.passed or verdict.forced else ", so --force is needed"
        words = f"{INT8_FILE}, which is reused: {verdict_words(verdict)}{needed}"
    elif int8 is not None:
        learned = int8.learned and (folder / LEARNED_RANGES_FILE).is_file()
        ranges = "take the learned ranges" if learned else f"calibrate on at most {int8.images} images ({int8.method})"
        words = (
            f"{INT8_FILE}, to be made first of {ONNX_FILE}, of which the figures here are: would {ranges} and measure AP"
            f"{', perhaps with channels equalized or layers kept out of INT8' if int8.search else ''}"
        )
    portable = load_graph(source, card)
    plan = make_plan(folder, card, portable, options, this_build_machine())
    print("\n".join(plan_lines(plan, make_engine_graph(portable, card, plan), words)))


def print_trtexec(model: Path, options: BuildOptions, int8: Int8Options | None) -> None:
    """Write the whole graph to model.<precision>.complete.onnx and print the call of trtexec that builds the engine of it.

    Raises what `build` would raise before TensorRT is asked.
    """
    folder = find_model_folder(model)
    with locked(folder):
        card, source = _source(folder, int8)
        portable = load_graph(source, card)
        plan = make_plan(folder, card, portable, options, this_build_machine())
        if (typed := typed_file_name(options.precision, plan.here.weakly_typed)) is not None:
            write_typed_file(portable, folder / typed, options.precision)
            portable = load_graph(folder / typed, card)
        graph = make_engine_graph(portable, card, plan)
        complete = folder / f"model.{options.precision}.complete.onnx"
        write_atomically(complete, graph.model.SerializeToString())
    releases = "11 and newer" if plan.here.weakly_typed is False else "8.5 to 10; for 11, whose ONNX file is another, ask where it is"
    print(f"# wrote {complete}; for trtexec of TensorRT {releases}")
    print(trtexec_command(plan, graph.model, complete, folder / (plan.engine_file() or f"model.{options.precision}.engine")))


def _source(folder: Path, int8: Int8Options | None) -> tuple[ModelCard, Path]:
    """Return the card and the vouched ONNX file to build of, after making model.int8.onnx where it is asked for and not there."""
    card = read_card(folder)
    source = vouched_file(folder, ONNX_FILE, card.onnx.sha256 if card.onnx else None)
    load_graph(source, card)
    if int8 is None:
        return card, source
    return _with_int8(folder, card, int8), folder / INT8_FILE


def _with_int8(folder: Path, card: ModelCard, options: Int8Options) -> ModelCard:
    """Return the card, also on disk, of a folder whose INT8 model is there and accepted."""
    if _can_reuse(folder, card, options):
        print(f"{INT8_FILE} is the one that the card vouches for: reused (--recalibrate makes it again)")
        _print_accuracy(card)
    else:
        from retinanet_edge.export.int8 import make_int8  # needs onnxruntime and the data

        card = make_int8(folder, card, options)
    assert card.verdict is not None
    verdict = judged(card.verdict, options.max_ap_drop, options.force)
    card = dataclasses.replace(card, verdict=verdict)
    write_card(folder, card)
    if not verdict.passed and not verdict.forced:
        search = "" if options.search else "equalize channels or keep layers out of INT8 with --search, "
        other = "" if options.calibration is None else "calibrate on the training images, without --calibration, "
        remedy = (
            f"{other}{search}calibrate with more --images or another --method, "
            f"fine-tune with python training/train.py --qat --model {folder}, or accept it with --force"
        )
        raise VerdictError(f"{verdict_words(verdict)}{losses(verdict)}: {remedy}")
    print(f"verdict: {'passed' if verdict.passed else 'accepted by --force'}, {verdict_words(verdict)}", flush=True)
    return card


def _can_reuse(folder: Path, card: ModelCard, options: Int8Options) -> bool:
    """Say whether the INT8 model that is there will do: one that loses too much does not where better is to be searched."""
    if options.recalibrate or not is_vouched(folder, card):
        return False
    assert card.verdict is not None
    return not options.search or judged(card.verdict, options.max_ap_drop, force=False).passed


def is_vouched(folder: Path, card: ModelCard) -> bool:
    """Say whether model.int8.onnx is the card's, was made from the card's model.onnx, and was measured: no need to make it again."""
    record, verdict = card.int8, card.verdict
    if record is None or verdict is None or card.onnx is None or not (folder / INT8_FILE).is_file():
        return False
    same = record.source_sha256 == card.onnx.sha256 and verdict.onnx_sha256 == record.sha256
    return same and file_sha256(folder / INT8_FILE) == record.sha256


def _print_accuracy(card: ModelCard) -> None:
    for accuracy in card.accuracy:
        if accuracy.split == "val":
            print(
                f"  {accuracy.precision:5s} {accuracy.backend:12s} AP {accuracy.ap:.4f}  AP50 {accuracy.ap50:.4f}  "
                f"AP75 {accuracy.ap75:.4f}  ({accuracy.images} validation images)"
            )
