"""Measure what INT8 costs and gives on trained models: AP and AP50 of FP32, FP16, INT8 by each calibration method and, where a folder
<model>-qat is beside the model, after train.py --qat; with the interval of each difference to FP32, and frames/s on the CPU, in turn.

Scales are those that `export/build_engine.py --int8 --method M --images N` would take, without a search for layers to keep.
"""

import argparse
import datetime
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

try:
    from result_file import add_to_csv, result_path

    from retinanet_edge.runtime.arguments import whole_number
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')", file=sys.stderr)
    sys.exit(2)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from retinanet_edge.runtime.coco import CocoMetrics
    from retinanet_edge.runtime.dataset import Dataset, Split
    from retinanet_edge.runtime.detections import Detections
    from retinanet_edge.runtime.engine import Engine, Inference
    from retinanet_edge.runtime.model_card import CalibrationMethod, ModelCard, Precision
    from retinanet_edge.runtime.peer_comparison import Result

    Measured = tuple[CocoMetrics, list[Detections]]

METHODS: "tuple[CalibrationMethod, ...]" = ("percentile", "minmax", "entropy", "mse")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Variant:
    """One network in one precision: its name in the table, its file, and what AP is measured on."""

    name: str
    file: Path
    precision: "Precision"
    on_onnx_runtime: bool = False


@dataclass(frozen=True)
class Row:
    """One variant on one split. `points` is its difference to FP32, 0.01 of AP each, with the 95 % interval; the last two "" if untimed."""

    split: str
    images: int
    precision: str
    ap: float
    ap50: float
    points: float
    points_low: float
    points_high: float
    points50: float
    frames_per_second: "float | str"
    times_fp32: "float | str"


class OnOnnxRuntime:
    """An ONNX file on ONNX Runtime's CPU provider, which has FP16 to the letter where OpenVINO takes FP32 for it; an Engine."""

    backend = "ONNX Runtime"
    frame_size: tuple[int, int] | None = None
    max_batch = 1

    def __init__(self, file: Path, card: "ModelCard", precision: "Precision") -> None:
        from retinanet_edge.export.reference_network import ReferenceNetwork

        self.name, self.file, self.precision = f"{file.name} on ONNX Runtime", file, precision
        self._network, self._nms = ReferenceNetwork(file), card.nms

    def infer(self, images: "NDArray[np.uint8]") -> "Inference":
        """Run uint8 [1, H, W, 3] BGR."""
        from retinanet_edge.runtime.efficient_nms import efficient_nms
        from retinanet_edge.runtime.engine import Inference

        return Inference(efficient_nms(*self._network.heads(images), self._nms), {})

    def close(self) -> None:
        """Do nothing: the network goes with this object."""

    def __enter__(self) -> "OnOnnxRuntime":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> None:
    """Parse the arguments; measure, print and write one model after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, nargs="+", default=[DEFAULT_MODEL], metavar="DIR", help=f"exported model folders (default {DEFAULT_MODEL})"
    )
    parser.add_argument("--data", type=Path, metavar="PATH", help="labelled folder (default each card's)")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["val", "test"], help="those with objects (default val test)")
    parser.add_argument("--images", type=whole_number(1), default=128, metavar="N", help="calibration images (default %(default)s)")
    parser.add_argument("--rounds", type=whole_number(1), default=20, help="rounds in which each takes its turn (default %(default)s)")
    parser.add_argument("--calls", type=whole_number(1), default=5, help="calls in a turn (default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="CSV", help="file to add to (default benchmarks/int8_table_<machine>.csv)")
    arguments = parser.parse_args()
    from retinanet_edge.runtime.dataset import read_dataset
    from retinanet_edge.runtime.model_folder import data_of_card, find_model_folder, read_card
    from retinanet_edge.runtime.speed import machine

    here = machine("OpenVINO")
    out = result_path("int8_table", here, arguments.out)
    for model in arguments.model:
        folder = find_model_folder(model)
        card = read_card(folder)
        dataset = read_dataset(arguments.data or data_of_card(folder, card))
        with TemporaryDirectory() as scratch:
            variants = make_variants(folder, card, dataset, arguments.images, Path(scratch))
            speeds = measure_speed(variants, card, dataset, arguments.rounds, arguments.calls)
            rows = [row for split in arguments.splits for row in measure_split(variants, card, dataset, split, speeds)]
        run = describe_run(card, dataset, here, arguments.images)
        print_table(run, rows)
        add_to_csv(out, run, [asdict(row) for row in rows])
    print(f"wrote {out}")


def make_variants(folder: Path, card: "ModelCard", dataset: "Dataset", images: int, scratch: Path) -> list[Variant]:
    """Return FP32 first, then all others; what the folder has not is written to `scratch`."""
    import onnx

    from retinanet_edge.export.calibrate import measure_activations
    from retinanet_edge.export.calibration_images import choose_images
    from retinanet_edge.export.placement import choosable_tensors, find_placement
    from retinanet_edge.export.quantize import insert_qdq
    from retinanet_edge.export.typed_graph import to_fp16
    from retinanet_edge.runtime.model_folder import INT8_FILE, ONNX_FILE

    model = onnx.load(folder / ONNX_FILE)
    onnx.save(to_fp16(model), scratch / "fp16.onnx")
    variants = [Variant("FP32", folder / ONNX_FILE, "fp32"), Variant("FP16", scratch / "fp16.onnx", "fp16", on_onnx_runtime=True)]
    chosen = choose_images(dataset.train, card.input, images, 0)
    histograms = measure_activations(model, choosable_tensors(model.graph), chosen)
    for method in METHODS:
        file = scratch / f"{method}.onnx"
        onnx.save(insert_qdq(model, find_placement(model.graph), {name: found.reach(method) for name, found in histograms.items()}), file)
        variants.append(Variant(f"INT8 {method}", file, "int8"))
    tuned = folder.with_name(f"{folder.name}-qat") / INT8_FILE
    return [*variants, Variant("INT8 after --qat", tuned, "int8")] if tuned.is_file() else variants


def open_variant(variant: Variant, card: "ModelCard") -> "Engine":
    """Return what AP of a variant is measured on."""
    from retinanet_edge.runtime.openvino_engine import OpenVINOEngine

    return (OnOnnxRuntime if variant.on_onnx_runtime else OpenVINOEngine)(variant.file, card, variant.precision)


def measure_speed(
    variants: Sequence[Variant], card: "ModelCard", dataset: "Dataset", rounds: int, calls: int
) -> "dict[Precision, Result]":
    """Return the times on OpenVINO: of FP32, and of one INT8 for all, whose graphs differ in scales alone.

    None of FP16, which is for GPUs: OpenVINO takes FP32 for it here, and ONNX Runtime's CPU provider emulates it.
    """
    from retinanet_edge.export.calibration_images import choose_images
    from retinanet_edge.runtime.openvino_engine import OpenVINOEngine
    from retinanet_edge.runtime.peer_comparison import compare, engine_contender

    ready = [image[None] for image in choose_images(dataset.train, card.input, min(8, len(dataset.train)), 0)]
    timed = [next(variant for variant in variants if variant.precision == precision) for precision in ("fp32", "int8")]
    with ExitStack() as stack:
        engines = [stack.enter_context(OpenVINOEngine(v.file, card, v.precision)) for v in timed]
        results = compare([engine_contender(engine.precision, engine, ready) for engine in engines], rounds, calls)
    return {engine.precision: result for engine, result in zip(engines, results, strict=True)}


def measure_split(
    variants: Sequence[Variant], card: "ModelCard", dataset: "Dataset", split: "Split", speeds: "dict[Precision, Result]"
) -> list[Row]:
    """Return a row for each variant on one split, none where it has no objects."""
    from retinanet_edge.runtime.bootstrap import ap_drop_interval
    from retinanet_edge.runtime.coco import measure_accuracy
    from retinanet_edge.runtime.dataset import has_objects
    from retinanet_edge.runtime.peer_comparison import ratio

    samples, rows, fp32 = dataset.split(split), list[Row](), None
    for variant in variants if has_objects(samples) else ():
        with open_variant(variant, card) as engine:
            metrics, found = measure_accuracy(engine, card, samples, card.classes, f"AP of {variant.name}, {split}")
        fp32 = fp32 or (metrics, found)
        drop = ap_drop_interval(samples, fp32[1], found, len(card.classes))
        speed: tuple[float | str, float | str] = ("", "")
        if (timed := speeds.get(variant.precision)) is not None:
            speed = timed.frames_per_second, ratio(speeds["fp32"], timed).median
        points, points50 = 100 * (metrics.ap - fp32[0].ap), 100 * (metrics.ap50 - fp32[0].ap50)
        interval = 0.0 - 100 * drop.high, 0.0 - 100 * drop.low  # not -0.0
        rows.append(Row(split, len(samples), variant.name, metrics.ap, metrics.ap50, points, *interval, points50, *speed))
    return rows


def print_table(run: dict[str, object], rows: Sequence[Row]) -> None:
    """Print the rows of one model for people, as the Markdown of docs/int8.md."""
    print(f"{run['data']}: {run['backbone']}, {run['width']}x{run['height']}, {run['train_images']} training images")
    print("| split | precision | AP | AP50 | points of AP | 95 % interval | frames/s | times FP32 |\n|---|---|---|---|---|---|---|---|")
    for row in rows:
        speed = [f"{value:.{digits}f}" if value else "" for value, digits in ((row.frames_per_second, 1), (row.times_fp32, 2))]
        points = f"{row.points:+.2f} | {row.points_low:+.2f} to {row.points_high:+.2f}" if row.precision != "FP32" else " | "
        print(f"| {row.split}, {row.images} | {row.precision} | {row.ap:.4f} | {row.ap50:.4f} | {points} | {' | '.join(speed)} |")


def describe_run(card: "ModelCard", dataset: "Dataset", machine: str, images: int) -> dict[str, object]:
    """Return what the rows hold for."""
    from importlib.metadata import version

    return {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(), "machine": machine, "openvino": version("openvino"),
        "data": dataset.root.name, "train_images": len(dataset.train), "backbone": card.network.backbone,
        "height": card.input.height, "width": card.input.width, "calibration_images": min(images, len(dataset.train)),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
