"""Show that the proxy by which build_engine.py --search ranks layers ranks them as AP does, with each layer alone in INT8 or coarser.

One layer in INT8 changes AP by less than a validation split can tell from chance; with fewer --bits it changes more.
"""

import argparse
import datetime
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
    import onnx

    from retinanet_edge.runtime.dataset import Dataset
    from retinanet_edge.runtime.model_card import ModelCard

CALIBRATION_IMAGES, PROXY_IMAGES = 128, 8  # of build_engine.py and of its search


@dataclass(frozen=True)
class Row:
    """One layer alone through Q/DQ: the proxy, and the AP that it loses, in points of 0.01."""

    layer: str
    proxy: float
    points_lost: float


def main() -> None:
    """Parse the arguments, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="exported model folder (default %(default)s)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="labelled folder (default the card's)")
    parser.add_argument("--bits", type=whole_number(2, 8), default=8, metavar="N", help="of weights and activations (default 8)")
    parser.add_argument("--out", type=Path, metavar="CSV", help="file to add to (default benchmarks/int8_sensitivity_<machine>.csv)")
    arguments = parser.parse_args()
    from retinanet_edge.runtime.dataset import read_dataset
    from retinanet_edge.runtime.model_folder import data_of_card, find_model_folder, read_card
    from retinanet_edge.runtime.speed import machine

    here = machine("OpenVINO")
    out = result_path("int8_sensitivity", here, arguments.out)
    folder = find_model_folder(arguments.model)
    card = read_card(folder)
    dataset = read_dataset(arguments.data or data_of_card(folder, card))
    rows = measure_layers(folder, card, dataset, arguments.bits)
    correlation = rank_correlation([row.proxy for row in rows], [row.points_lost for row in rows])
    for row in sorted(rows, key=lambda row: -row.proxy):
        print(f"{row.proxy:10.4f} {row.points_lost:+8.2f}  {row.layer}")
    print(f"rank correlation of proxy and AP lost at {arguments.bits} bits over {len(rows)} layers: {correlation:.3f}")
    run = {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(), "machine": here, "data": dataset.root.name,
        "val_images": len(dataset.val), "backbone": card.network.backbone, "bits": arguments.bits,
        "rank_correlation": round(correlation, 3),
    }  # fmt: skip
    add_to_csv(out, run, [asdict(row) for row in rows])
    print(f"wrote {out}")


def measure_layers(folder: Path, card: "ModelCard", dataset: "Dataset", bits: int) -> list[Row]:
    """Return both figures of each layer, in the order of the graph."""
    import onnx

    from retinanet_edge.export.calibrate import activation_ranges
    from retinanet_edge.export.calibration_images import choose_images
    from retinanet_edge.export.measurement import measure
    from retinanet_edge.export.placement import choosable_tensors, find_placement, quantizable_layers
    from retinanet_edge.export.quantize import insert_qdq
    from retinanet_edge.export.sensitivity import detection_error, heads
    from retinanet_edge.runtime.model_folder import ONNX_FILE

    model = onnx.load(folder / ONNX_FILE)
    images = choose_images(dataset.train, card.input, CALIBRATION_IMAGES, 0)
    ranges = activation_ranges(model, choosable_tensors(model.graph), images, "percentile")
    layers, expected = quantizable_layers(model.graph), heads(model, images[:PROXY_IMAGES])
    fp32 = measure(card, folder / ONNX_FILE, "fp32", dataset.val).metrics.ap
    rows = []
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "alone.onnx"
        for layer in layers:
            alone = insert_qdq(model, find_placement(model.graph, [name for name in layers if name != layer]), ranges)
            coarsen(alone, bits)
            onnx.save(alone, file)
            lost = 100 * (fp32 - measure(card, file, "int8", dataset.val).metrics.ap)
            rows.append(Row(layer, detection_error(expected, heads(alone, images[:PROXY_IMAGES]), card.nms.score_threshold), lost))
            print(f"{len(rows)} of {len(layers)}: {rows[-1].proxy:.4f} {lost:+.2f} {layer}", file=sys.stderr, flush=True)
    return rows


def coarsen(model: "onnx.ModelProto", bits: int) -> None:
    """Make the steps of Q/DQ those of fewer bits for the same reach."""
    import numpy as np
    from onnx import numpy_helper

    factor = np.float32(127 / (2 ** (bits - 1) - 1))
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(numpy_helper.to_array(tensor) * factor), tensor.name))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's coefficient, -1..1; equal values share their mean rank."""
    import numpy as np

    def ranks(values: Sequence[float]) -> list[float]:
        return [float(np.mean([*np.flatnonzero(np.sort(values) == value)])) for value in values]

    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


if __name__ == "__main__":
    sys.exit(run_command(main))
