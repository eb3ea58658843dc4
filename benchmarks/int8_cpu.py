"""Measure INT8 on OpenVINO against FP32 on ONNX Runtime and torchvision's RetinaNet: ResNet-50, 640x640, 80 classes, 2 cores, one run.

Makes its model folder itself, of random weights, whose speed is that of trained ones; all run in turn on generated scenes.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from result_file import result_path

    from retinanet_edge.runtime.arguments import size, whole_number
    from retinanet_edge.runtime.errors import RetinaNetEdgeError, UserInputError, run_command
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')", file=sys.stderr)
    sys.exit(2)

if TYPE_CHECKING:
    from retinanet_edge.runtime.peer_comparison import Result

PROJECT = Path(__file__).resolve().parent.parent
CLASSES = 80
PEERS = ("ONNX Runtime", "torchvision")
TARGETS = {"ONNX Runtime": 2.5, "torchvision": 4.5}
INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")


def main() -> None:
    """Parse the arguments, make the model, measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet50", help="as train.py takes it (default %(default)s)")
    parser.add_argument("--input", type=size, default=(640, 640), metavar="H[xW]", help="input pixels (default 640x640)")
    parser.add_argument("--cores", type=whole_number(1), default=2, metavar="N", help="CPU cores to use (default %(default)s)")
    parser.add_argument("--rounds", type=whole_number(1), default=10, help="rounds in which each takes its turn (default %(default)s)")
    parser.add_argument("--calls", type=whole_number(1), default=2, help="calls in a turn (default %(default)s)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="model folder with an INT8 model to measure (default: make one)")
    parser.add_argument("--out", type=Path, metavar="CSV", help="file to write (default benchmarks/int8_cpu_<machine>.csv)")
    arguments = parser.parse_args()
    use_cores(arguments.cores)
    from retinanet_edge.runtime.peer_comparison import comparison_table
    from retinanet_edge.runtime.speed import machine

    name = machine("OpenVINO")
    out = result_path("int8_cpu", name, arguments.out)
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.model or make_model(Path(scratch), arguments.backbone, *arguments.input)
        results = measure(model, arguments.rounds, arguments.calls)
        run = describe_run(model, name)
    print(f"{name}: {run['backbone']}, {run['input']}, {run['classes']} classes, {run['instructions']}")
    print(comparison_table(results))
    print_verdict(results)
    write_csv(out, run, results)
    print(f"wrote {out}")


def use_cores(count: int) -> None:
    """Keep this process, and those that it starts, on the first `count` cores that it may use."""
    usable = sorted(os.sched_getaffinity(0))
    if count > len(usable):
        raise UserInputError(f"--cores must be at most {len(usable)}, which this process may use, got {count}")
    os.sched_setaffinity(0, usable[:count])


def make_model(folder: Path, backbone: str, height: int, width: int) -> Path:
    """Return a model folder of random weights, exported and quantized, in `folder`; its 80 classes are those of COCO in number alone."""
    data, model = folder / "scenes", folder / "model"
    project("runtime/scenes.py", "--output", data, "--train", 4, "--val", 2, "--size", max(height, width))
    for labels in (data / "annotations").glob("*.json"):
        content = json.loads(labels.read_text(encoding="utf-8"))
        known = content["categories"]
        first = max(category["id"] for category in known) + 1
        known += [{"id": first + number, "name": f"class {number}"} for number in range(CLASSES - len(known))]
        labels.write_text(json.dumps(content), encoding="utf-8")
    project("training/train.py", "--data", data, "--model", model, "--backbone", backbone, "--weights", "none", "--epochs", 1,
            "--input", f"{height}x{width}", "--batch", 2, "--workers", 0, "--device", "cpu")  # fmt: skip
    project("export/export_onnx.py", "--model", model)
    project("export/build_engine.py", "--model", model, "--int8", "--images", 4, "--force")
    return model


def project(command: str, *arguments: object) -> None:
    """Run a command of the project. Raises RetinaNetEdgeError with its own message where it fails."""
    print(f"python {command} ...", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, str(PROJECT / command), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
        raise RetinaNetEdgeError(f"{command} must make the model to measure, but ended with {done.returncode}: {last}")


def measure(model: Path, rounds: int, calls: int) -> "list[Result]":
    """Return INT8 on OpenVINO first, then FP32 on it, then the peers, each in batches of one."""
    import numpy as np

    from retinanet_edge.runtime.benchmark_run import PeerOptions, Subject, start_peer
    from retinanet_edge.runtime.model_folder import find_model_folder, read_card
    from retinanet_edge.runtime.peer_comparison import compare, engine_contender
    from retinanet_edge.runtime.speed import first_frames
    from retinanet_edge.runtime.throughput import some_batches

    folder = find_model_folder(model)
    card = read_card(folder)
    subject = Subject(folder, card, "int8", False, first_frames(None))
    ready = some_batches(subject.images(card.input.height, card.input.width), 1)
    with ExitStack() as stack:
        int8, fp32 = (stack.enter_context(s.open(1)) for s in (subject, Subject(folder, card, "fp32", False, subject.frames)))
        contenders = [engine_contender("OpenVINO INT8", int8, ready), engine_contender("OpenVINO FP32", fp32, ready)]
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "images.npy"
        np.save(file, np.stack(ready))
        wanted = {"model": str(folder), "images": str(file), "batch": 1, "on_gpu": False}
        contenders += [start_peer(stack, name, wanted, PeerOptions()) for name in PEERS]
        return compare(contenders, rounds, calls)


def print_verdict(results: "list[Result]") -> None:
    """Say how many times as fast INT8 is as each peer with a target."""
    from retinanet_edge.runtime.peer_comparison import ratio

    for result in results:
        if result.name in TARGETS and not result.missing:
            times, at_best, target = ratio(result, results[0]).median, result.least_ms / results[0].least_ms, TARGETS[result.name]
            met = "met" if times >= target else "missed"
            print(f"INT8 is {times:.2f} times as fast as {result.name}, {at_best:.2f} by the fastest calls: the target {target} is {met}")


def describe_run(model: Path, machine: str) -> dict[str, str]:
    """Return what the result holds for."""
    from retinanet_edge.runtime.model_folder import read_card
    from retinanet_edge.runtime.openvino_engine import COMPILE_OPTIONS, import_openvino

    card = read_card(model)
    return {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(), "machine": machine, "instructions": instructions(),
        "openvino": import_openvino().__version__.partition("-")[0], "precision_hint": COMPILE_OPTIONS["INFERENCE_PRECISION_HINT"],
        "backbone": card.network.backbone, "input": f"{card.input.height}x{card.input.width}", "classes": str(len(card.classes)),
    }  # fmt: skip


def instructions(file: Path = Path("/proc/cpuinfo")) -> str:
    """Return which of the vector instructions that matter here the processor has."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    had = found[1].split() if found else []
    return " ".join(name for name in INSTRUCTIONS if name in had) or "none known"


def write_csv(file: Path, run: dict[str, str], results: "list[Result]") -> None:
    """Write one line for each contender, each with what describes the run."""
    from retinanet_edge.runtime.peer_comparison import comparison_csv

    file.write_text(comparison_csv(run, [results]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_command(main))
