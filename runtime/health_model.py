"""Checks of a model folder: its card, its files against the card's hashes, an engine for this machine, the INT8 verdict."""

from __future__ import annotations

from pathlib import Path

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.health_check import Check, Status
from retinanet_edge.runtime.model_card import EngineRecord, ModelCard
from retinanet_edge.runtime.model_folder import DEFAULT_MODEL, INT8_FILE, ONNX_FILE, WEIGHTS_FILE, read_card, vouched_file
from retinanet_edge.runtime.tensorrt_library import tensorrt_unavailable_reason


def model_card(folder: str) -> Check:
    """Check that the folder has a card that this version reads. A default folder that is not there yet is a warning."""
    try:
        card = read_card(Path(folder))
    except ModelFolderError as error:
        nothing_yet = Path(folder) == DEFAULT_MODEL and not Path(folder).exists()
        return _wrong("model card", error, "warning" if nothing_yet else "failed")
    classes = f"{len(card.classes)} class{'es' * (len(card.classes) > 1)}"
    return Check("model card", "ok", f"{Path(folder).resolve()}: {classes}, input {card.input.height}x{card.input.width}")


def model_files(folder: str) -> Check:
    """Check the files that the card knows against its hashes."""
    card = _card(folder)
    if card is None:
        return Check("model files", "absent", "no card")
    hashes = {
        WEIGHTS_FILE: card.training and card.training.weights_sha256,
        ONNX_FILE: card.onnx and card.onnx.sha256,
        INT8_FILE: card.int8 and card.int8.sha256,
    }
    known = {name: sha256 for name, sha256 in hashes.items() if sha256 and (name != WEIGHTS_FILE or (Path(folder) / name).exists())}
    try:  # weights stay behind where a model is copied to a device
        for name, sha256 in known.items():
            vouched_file(Path(folder), name, sha256)
    except ModelFolderError as error:
        return _wrong("model files", error)
    if not card.onnx:
        return Check("model files", "warning", f"{ONNX_FILE} is not made yet", f"run python export/export_onnx.py --model {folder}")
    return Check("model files", "ok", f"{', '.join(known)} {'is' if len(known) == 1 else 'are'} as the card says")


def model_engine(folder: str) -> Check:
    """Check that there is an engine for this machine, where it has a GPU that can run one."""
    card = _card(folder)
    if card is None or not card.onnx:
        return Check("model engine", "absent", "no model")
    if reason := tensorrt_unavailable_reason():
        return Check("model engine", "absent", f"not for this machine ({reason}): the model runs on the CPU")
    from retinanet_edge.runtime.tensorrt_engine import misfit

    there = [record for record in reversed(card.engines) if (Path(folder) / record.file).is_file()]
    reasons = {record.file: misfit(record) for record in there}
    fitting = next((record for record in there if reasons[record.file] is None), None)
    build = f"run python export/build_engine.py --model {folder}"
    if fitting is None:
        why = next((reason for reason in reasons.values() if reason), "there is none")
        return Check("model engine", "warning", f"none that fits, the model runs on the CPU: {why}", build)
    return _engine_on_disk(folder, fitting)


def _engine_on_disk(folder: str, record: EngineRecord) -> Check:
    try:
        vouched_file(Path(folder), record.file, record.sha256)
    except ModelFolderError as error:
        return _wrong("model engine", error)
    return Check("model engine", "ok", f"{record.file}, {record.precision}, up to {record.max_batch} images at once")


def int8_verdict(folder: str) -> Check:
    """Check that INT8, where there is one, was found accurate enough."""
    card = _card(folder)
    if card is None or card.int8 is None:
        return Check("int8 verdict", "absent", "no INT8 model")
    verdict = card.verdict
    if verdict is None:
        return Check("int8 verdict", "warning", "not measured", f"run python export/build_engine.py --int8 --model {folder}")
    drop = "a drop that was not measured" if verdict.ap_drop is None else f"a drop of {verdict.ap_drop * 100:.2f} AP points"
    found = f"{drop}, {verdict.max_ap_drop * 100:g} allowed"
    if verdict.passed:
        return Check("int8 verdict", "ok", found)
    return Check("int8 verdict", "warning", f"{found}{', accepted by --force' * verdict.forced}",
                 f"run python export/build_engine.py --model {folder} for FP16")  # fmt: skip


def _card(folder: str) -> ModelCard | None:
    try:
        return read_card(Path(folder))
    except ModelFolderError:  # which model_card reports
        return None


def _wrong(name: str, error: ModelFolderError, status: Status = "failed") -> Check:
    """Return the check for an error, whose message ends in what to do: the first of it, where it gives a choice."""
    found, _, fix = str(error).rpartition(": ")
    return Check(name, status, found, fix.partition(", or ")[0])
