"""Measure what bias correction and equalization of channels give back of what INT8 loses, alone and together, over choices of images.

Equalization is the first thing that build_engine.py --search tries; bias correction was not seen to win and is not there. With --spread
SIGMA channels between convolutions are first scaled apart by 2^N(0, SIGMA), which changes nothing in FP32: a network that quantizes badly.
"""

import argparse
import datetime
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

try:
    from result_file import add_to_csv, result_path

    from retinanet_edge.runtime.arguments import number, whole_number
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')", file=sys.stderr)
    sys.exit(2)

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from retinanet_edge.runtime.dataset import Dataset
    from retinanet_edge.runtime.model_card import ModelCard

    Images = Sequence[NDArray[np.uint8]]

BIAS_IMAGES, PROXY_IMAGES = 16, 16
REPAIRS = ("none", "bias", "equalized", "equalized, bias")


@dataclass(frozen=True)
class Row:
    """One INT8 model; `points` is its difference to FP32, 0.01 of AP each, `proxy` the change of heads on validation images."""

    repair: str
    images: int
    seed: int
    ap: float
    ap50: float
    points: float
    proxy: float


def main() -> None:
    """Parse the arguments, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="exported model folder (default %(default)s)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="labelled folder (default the card's)")
    parser.add_argument("--images", type=whole_number(1), default=128, metavar="N", help="calibration images (default 128)")
    parser.add_argument("--seeds", type=whole_number(1), default=3, metavar="N", help="choices of images (default 3)")
    parser.add_argument("--spread", type=number(0, 10), default=0.0, metavar="SIGMA", help="scale channels apart first (default 0: not)")
    parser.add_argument("--out", type=Path, metavar="CSV", help="file to add to (default benchmarks/int8_repair_<machine>.csv)")
    arguments = parser.parse_args()
    from retinanet_edge.runtime.dataset import read_dataset
    from retinanet_edge.runtime.model_folder import data_of_card, find_model_folder, read_card
    from retinanet_edge.runtime.speed import machine

    here = machine("OpenVINO")
    out = result_path("int8_repair", here, arguments.out)
    folder = find_model_folder(arguments.model)
    card = read_card(folder)
    dataset = read_dataset(arguments.data or data_of_card(folder, card))
    fp32_ap, rows = measure_repairs(folder, card, dataset, arguments.images, arguments.seeds, arguments.spread)
    print_table(fp32_ap, rows)
    run = {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(), "machine": here, "data": dataset.root.name,
        "val_images": len(dataset.val), "backbone": card.network.backbone, "spread": arguments.spread, "fp32_ap": round(fp32_ap, 5),
    }  # fmt: skip
    add_to_csv(out, run, [asdict(row) for row in rows])
    print(f"wrote {out}")


def measure_repairs(
    folder: Path, card: "ModelCard", dataset: "Dataset", count: int, seeds: int, spread: float
) -> tuple[float, list[Row]]:
    """Return AP of FP32 and the figures of each repair with each choice of images."""
    import onnx

    from retinanet_edge.export.calibration_images import choose_images
    from retinanet_edge.export.measurement import measure
    from retinanet_edge.export.sensitivity import detection_error, heads
    from retinanet_edge.runtime.model_folder import ONNX_FILE

    model = spread_channels(onnx.load(folder / ONNX_FILE), spread)
    unseen = choose_images(dataset.val, card.input, min(PROXY_IMAGES, len(dataset.val)), 0)
    expected = heads(model, unseen)
    fp32 = measure(card, folder / ONNX_FILE, "fp32", dataset.val).metrics.ap
    rows = []
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.int8.onnx"
        for seed in range(seeds):
            images = choose_images(dataset.train, card.input, min(count, len(dataset.train)), seed)
            for repair in REPAIRS:
                made = repaired(model, images, repair)
                onnx.save(made, file)
                found = measure(card, file, "int8", dataset.val).metrics
                error = detection_error(expected, heads(made, unseen), card.nms.score_threshold)
                rows.append(Row(repair, len(images), seed, found.ap, found.ap50, 100 * (found.ap - fp32), error))
                print(f"seed {seed}, {repair}: AP {found.ap:.4f}, {rows[-1].points:+.2f} points, proxy {error:.4f}", flush=True)
    return fp32, rows


def repaired(model: "onnx.ModelProto", images: "Images", repair: str) -> "onnx.ModelProto":
    """Return the graph with Q/DQ after the repairs that are named."""
    from retinanet_edge.export.calibrate import activation_ranges
    from retinanet_edge.export.equalization import equalized
    from retinanet_edge.export.placement import find_placement
    from retinanet_edge.export.quantize import insert_qdq

    if "equalized" in repair:
        model = equalized(model, images)
    placement = find_placement(model.graph)
    ranges = activation_ranges(model, placement.tensors, images, "percentile")

    def quantized(plain: "onnx.ModelProto") -> "onnx.ModelProto":
        return insert_qdq(plain, placement, ranges)

    return quantized(bias_corrected(model, quantized, images[:BIAS_IMAGES]) if "bias" in repair else model)


def bias_corrected(
    model: "onnx.ModelProto", quantized: "Callable[[onnx.ModelProto], onnx.ModelProto]", images: "Images"
) -> "onnx.ModelProto":
    """Return the FP32 graph with biases that make the mean of each INT8 convolution's output channels that of FP32, layer by layer.

    M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019), appendix D.
    """
    from onnx import numpy_helper

    from retinanet_edge.export.graph_editing import add_constant, copy_of
    from retinanet_edge.export.placement import quantizable_layers

    corrected = copy_of(model)
    layers = {node.name: node for node in corrected.graph.node if node.name in set(quantizable_layers(model.graph))}
    expected = channel_means(model, [node.output[0] for node in layers.values()], images)
    for node in layers.values():
        name = node.output[0]
        error = expected[name] - channel_means(quantized(corrected), [name], images)[name]
        bias = next(tensor for tensor in corrected.graph.initializer if tensor.name == node.input[2])
        # Of its own: heads without normalisation share one over all levels.
        node.input[2] = add_constant(corrected.graph, f"{node.name}/corrected", numpy_helper.to_array(bias) + error)
    return corrected


def spread_channels(model: "onnx.ModelProto", sigma: float) -> "onnx.ModelProto":
    """Return the same FP32 function with channels between convolutions scaled apart."""
    import numpy as np

    from retinanet_edge.export.equalization import pairs, scaled

    generator, widths = np.random.default_rng(0), {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    return scaled(model, {
        pair.maker.name: np.exp2(generator.normal(0, sigma, widths[pair.maker.input[1]])).astype(np.float32) for pair in pairs(model.graph)
    })  # fmt: skip


def channel_means(model: "onnx.ModelProto", tensors: Sequence[str], images: "Images") -> "dict[str, NDArray[np.float32]]":
    """Return the mean of each channel of tensors over images."""
    import numpy as np

    from retinanet_edge.export.calibrate import tensor_session

    session = tensor_session(model, tensors)
    found = [session.run(None, {"images": image[None]}) for image in images]
    return {name: np.concatenate([values[index] for values in found]).mean(axis=(0, 2, 3)) for index, name in enumerate(tensors)}


def print_table(fp32_ap: float, rows: Sequence[Row]) -> None:
    """Print the means over the choices of images."""
    print(f"FP32: AP {fp32_ap:.4f}. INT8: points of AP, mean (lowest), and proxy, mean, over choices of images")
    for repair in REPAIRS:
        points, proxy = ([value(row) for row in rows if row.repair == repair] for value in (lambda r: r.points, lambda r: r.proxy))
        print(f"{repair:>16}{statistics.mean(points):>+9.2f} ({min(points):+.2f}){statistics.mean(proxy):>10.4f}")


if __name__ == "__main__":
    sys.exit(run_command(main))
