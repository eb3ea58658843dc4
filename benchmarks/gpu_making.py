"""The model folder and the engines that gpu_figures.py measures, made where the folder does not have them yet."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_model import scenes
from gpu_targets import BOUNDED, FP16, HEADS_ENGINE, OURS

from retinanet_edge.runtime.errors import RetinaNetEdgeError, UserInputError

if TYPE_CHECKING:
    from retinanet_edge.runtime.model_card import EngineRecord

CALIBRATION_IMAGES = 8
TOP_K = 1000  # anchors of each level, where they are bounded


@dataclass(frozen=True)
class Network:
    """What to make. candidates: scores of an image above the threshold. peers: whether PyTorch runs it, too."""

    backbone: str
    sides: tuple[int, int]
    classes: int
    candidates: int = 3000
    width: int = 256
    peers: bool = True


NETWORKS = {
    "r50": Network("resnet50", (640, 640), 80),
    "resnext50": Network("resnext50_32x4d", (800, 800), 264, peers=False),
}


def make_model(network: Network, folder: Path, torch_python: Path) -> None:
    """Write network, model.onnx and model.int8.onnx into `folder`, what is not there yet. Raises RetinaNetEdgeError with torch's reason."""
    from retinanet_edge.runtime.model_folder import CARD_FILE, INT8_FILE

    if not (folder / CARD_FILE).is_file():
        sides = "x".join(map(str, network.sides))
        script = Path(__file__).with_name("gpu_model.py")
        command = [torch_python, script, "--model", folder, "--backbone", network.backbone, "--input", sides, "--classes",
                   network.classes, "--candidates", network.candidates, "--width", network.width]  # fmt: skip
        print(f"making {network.backbone} {sides}, {network.classes} classes, random weights ...", flush=True)
        run_python([str(word) for word in command])
    if not (folder / INT8_FILE).is_file():
        print(f"calibrating on {CALIBRATION_IMAGES} generated scenes ...", flush=True)
        quantize_folder(folder)


def run_python(command: Sequence[str]) -> None:
    """Run it to its end. Raises UserInputError where it cannot be started, RetinaNetEdgeError with its last line where it fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise UserInputError(f"--torch-python must be an interpreter, got {command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise RetinaNetEdgeError(f"{command[0]} must run with torch, torchvision, timm and onnx, but ended with {done.returncode}: {last}")


def quantize_folder(folder: Path) -> None:
    """Make model.int8.onnx and enter it into the card, unmeasured: random weights have no AP to lose."""
    from retinanet_edge.export.quantize import quantize
    from retinanet_edge.export.verdict import unmeasured
    from retinanet_edge.runtime.model_card import Calibration, Int8Record
    from retinanet_edge.runtime.model_folder import INT8_FILE, ONNX_FILE, atomic_path, file_sha256, read_card, write_card

    card = read_card(folder)
    assert card.onnx is not None
    images = scenes(CALIBRATION_IMAGES, card.input.height, card.input.width)
    with atomic_path(folder / INT8_FILE) as temporary:
        quantize(folder / ONNX_FILE, temporary, images, "minmax")
    sha256 = file_sha256(folder / INT8_FILE)
    record = Int8Record(sha256, card.onnx.sha256, Calibration("minmax", len(images), "0" * 64, 0))
    write_card(folder, dataclasses.replace(card, int8=record, verdict=unmeasured(0.005, sha256)))


def wanted_engines(batch: int) -> dict[tuple[str, int], dict[str, Any]]:
    """Return BuildOptions by name and largest batch; `batch` is the larger of the two that there are."""
    from retinanet_edge.export.build_options import NmsOverrides

    bounded = {"precision": "int8", "nms_overrides": NmsOverrides(top_k_per_level=TOP_K)}
    of_names = {OURS: {"precision": "int8"}, BOUNDED: bounded, HEADS_ENGINE: {"precision": "int8", "nms": "none"}}
    wanted = {(name, most): {**options, "max_batch": most} for most in (1, batch) for name, options in of_names.items()}
    return {**wanted, (FP16, 1): {"precision": "fp16"}}


def build_engines(folder: Path, batch: int) -> dict[tuple[str, int], EngineRecord]:
    """Return the engines by name and largest batch, built where the folder does not have them."""
    from retinanet_edge.export.build_machine import this_build_machine
    from retinanet_edge.export.build_options import BuildOptions
    from retinanet_edge.export.build_plan import make_plan
    from retinanet_edge.export.compiler import build_engine
    from retinanet_edge.export.graph_file import load_graph
    from retinanet_edge.runtime.model_folder import INT8_FILE, ONNX_FILE, locked, read_card, write_card

    engines = {}
    with locked(folder):
        for key, chosen in wanted_engines(batch).items():
            card, options = read_card(folder), BuildOptions(**chosen)
            source = folder / (INT8_FILE if options.precision == "int8" else ONNX_FILE)
            file = make_plan(folder, card, load_graph(source, card), options, this_build_machine()).engine_file()
            there = [record for record in card.engines if record.file == file and (folder / record.file).is_file()]
            if there:
                engines[key] = there[-1]
                continue
            print(f"building {key[0]}, batch 1 to {key[1]} ...", flush=True)
            engines[key] = build_engine(folder, card, source, options)
            write_card(folder, card.with_engine(engines[key]))
    return engines
