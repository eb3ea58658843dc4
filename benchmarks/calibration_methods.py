"""Measure AP of INT8 by calibration method and number of images, on the validation split, against FP32: which default is best.

Scales of each choice of images are those that `export/build_engine.py --int8 --method M --images N --seed S` would take.
"""

import argparse
import datetime
import statistics
import sys
from collections.abc import Sequence
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
    from retinanet_edge.runtime.coco import CocoMetrics
    from retinanet_edge.runtime.dataset import Dataset
    from retinanet_edge.runtime.model_card import CalibrationMethod, ModelCard, Precision

METHODS = ("minmax", "percentile", "entropy", "mse")


@dataclass(frozen=True)
class Row:
    """One INT8 model: how it was calibrated, and its AP; `points` is its difference to FP32, 0.01 of AP each."""

    method: str
    images: int
    seed: int
    ap: float
    ap50: float
    points: float
    points50: float


def main() -> None:
    """Parse the arguments, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="exported model folder (default %(default)s)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="labelled folder (default the card's)")
    parser.add_argument(
        "--images", type=whole_numbers, default=(16, 32, 64, 128, 256, 512), metavar="N,N", help="images (default 16,32,64,128,256,512)"
    )
    parser.add_argument("--methods", type=method_names, default=METHODS, metavar="M,M", help=f"methods (default {','.join(METHODS)})")
    parser.add_argument("--seeds", type=whole_numbers, default=(0, 1, 2), metavar="N,N", help="choices of images (default 0,1,2)")
    parser.add_argument("--out", type=Path, metavar="CSV", help="file to add to (default benchmarks/calibration_methods_<machine>.csv)")
    arguments = parser.parse_args()
    from retinanet_edge.runtime.dataset import read_dataset
    from retinanet_edge.runtime.model_folder import data_of_card, find_model_folder, read_card
    from retinanet_edge.runtime.speed import machine

    here = machine("OpenVINO")
    out = result_path("calibration_methods", here, arguments.out)
    folder = find_model_folder(arguments.model)
    card = read_card(folder)
    dataset = read_dataset(arguments.data or data_of_card(folder, card))
    fp32, rows = measure(folder, card, dataset, arguments.images, arguments.methods, arguments.seeds)
    print_table(fp32, rows)
    add_to_csv(out, describe_run(card, dataset, here, fp32), [asdict(row) for row in rows])
    print(f"wrote {out}")


def whole_numbers(text: str) -> tuple[int, ...]:
    """Return whole numbers written with commas between them."""
    return tuple(whole_number(0)(part) for part in text.split(","))


def method_names(text: str) -> tuple[str, ...]:
    """Return methods written with commas between them."""
    names = tuple(text.split(","))
    if not set(names) <= set(METHODS):
        raise argparse.ArgumentTypeError(f"must be of {', '.join(METHODS)}, got {text}")
    return names


def measure(
    folder: Path, card: "ModelCard", dataset: "Dataset", counts: Sequence[int], methods: "Sequence[CalibrationMethod]", seeds: Sequence[int]
) -> "tuple[CocoMetrics, list[Row]]":
    """Return the figures of FP32 and those of each choice; counts beyond the images that are there stand for all of them, once."""
    import onnx

    from retinanet_edge.export.calibrate import measure_activations
    from retinanet_edge.export.calibration_images import choose_images
    from retinanet_edge.export.placement import choosable_tensors, find_placement
    from retinanet_edge.export.quantize import insert_qdq
    from retinanet_edge.runtime.model_folder import ONNX_FILE

    model = onnx.load(folder / ONNX_FILE)
    placement = find_placement(model.graph)
    fp32 = accuracy(folder / ONNX_FILE, card, dataset, "fp32")
    rows = []
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.int8.onnx"
        for count in sorted({min(count, len(dataset.train)) for count in counts}):
            # With all images at hand a seed only changes their order, which changes no histogram.
            for seed in seeds if count < len(dataset.train) else seeds[:1]:
                images = choose_images(dataset.train, card.input, count, seed)
                histograms = measure_activations(model, choosable_tensors(model.graph), images)
                for method in methods:
                    onnx.save(insert_qdq(model, placement, {name: found.reach(method) for name, found in histograms.items()}), file)
                    found = accuracy(file, card, dataset, "int8")
                    points = [100 * (found.ap - fp32.ap), 100 * (found.ap50 - fp32.ap50)]
                    rows.append(Row(method, count, seed, found.ap, found.ap50, *points))
                    print(f"{method}, {count} images, seed {seed}: AP {found.ap:.4f}, {points[0]:+.2f} points", flush=True)
    return fp32, rows


def accuracy(file: Path, card: "ModelCard", dataset: "Dataset", precision: "Precision") -> "CocoMetrics":
    """Return the figures of an ONNX file on the validation split."""
    from retinanet_edge.runtime.coco import measure_accuracy
    from retinanet_edge.runtime.openvino_engine import OpenVINOEngine

    with OpenVINOEngine(file, card, precision) as engine:
        return measure_accuracy(engine, card, dataset.val, card.classes, f"AP of {precision}")[0]


def print_table(fp32: "CocoMetrics", rows: Sequence[Row]) -> None:
    """Print the mean difference to FP32 of each method and number of images over the seeds, with the worst."""
    counts, methods = sorted({row.images for row in rows}), list(dict.fromkeys(row.method for row in rows))
    print(f"FP32: AP {fp32.ap:.4f}, AP50 {fp32.ap50:.4f}. INT8, points of AP: mean over seeds (lowest)")
    print(f"{'images':>10}" + "".join(f"{count:>16}" for count in counts))
    for method in methods:
        cells = ([row.points for row in rows if (row.method, row.images) == (method, count)] for count in counts)
        print(f"{method:>10}" + "".join(f"{statistics.mean(cell):>+9.2f} ({min(cell):+.2f})" for cell in cells))


def describe_run(card: "ModelCard", dataset: "Dataset", machine: str, fp32: "CocoMetrics") -> dict[str, object]:
    """Return what the table holds for."""
    from importlib.metadata import version

    return {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(), "machine": machine, "openvino": version("openvino"),
        "data": dataset.root.name, "train_images": len(dataset.train), "val_images": len(dataset.val), "backbone": card.network.backbone,
        "height": card.input.height, "width": card.input.width, "fp32_ap": round(fp32.ap, 5), "fp32_ap50": round(fp32.ap50, 5),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
