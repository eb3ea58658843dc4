"""Compare what runs here with the ONNX: each ONNX file and engine of a model against model.onnx on ONNX Runtime, in one table.

With --layers, which layer of one of them is the first to differ. Ends with code 1 where something differs.
"""

import argparse
import sys
from pathlib import Path

try:
    from retinanet_edge.runtime.arguments import number, whole_number
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL, read_card
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, or pip install -e '.[export,cpu]'", file=sys.stderr)
    sys.exit(2)


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="model folder; default %(default)s")
    parser.add_argument("--data", type=Path, metavar="PATH", help="labelled folder whose val split is used; default the card's")
    parser.add_argument("--images", type=whole_number(1), default=100, metavar="N", help="images, or all there are; default %(default)s")
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="chooses the images; default %(default)s")
    parser.add_argument(
        "--max-ap-drop", type=number(0, 100), default=0.5, metavar="POINTS", help="AP that may be lost, in points; default %(default)s"
    )
    parser.add_argument(
        "--min-matched", type=number(0, 100), default=50, metavar="PERCENT",
        help="detections that must have a partner of their class, place and score; default %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--layers", metavar="FILE",
        help="instead of the table, the first tensors that differ: in another ONNX file of the folder on ONNX Runtime, an engine's network "
        "on TensorRT, or model.onnx on OpenVINO; default none",
    )  # fmt: skip
    parser.add_argument(
        "--layer-limit", type=number(positive=True), metavar="SHARE",
        help="difference of a tensor over its norm from which --layers shows it; default 0.001 for FP32, 0.05 for FP16, 0.5 for INT8",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Compare as the command line says."""
    arguments = parse_arguments()
    read_card(arguments.model)  # answered before onnxruntime takes its second to load
    from retinanet_edge.export.parity_subject import open_subject

    subject = open_subject(arguments.model, arguments.data, arguments.images, arguments.seed)
    if arguments.layers is None:
        from retinanet_edge.export.backend_parity import Limits, check_parity

        check_parity(subject, Limits(arguments.max_ap_drop / 100, arguments.min_matched / 100))
    else:
        from retinanet_edge.export.first_divergence import check_layers

        check_layers(subject, arguments.layers, arguments.layer_limit)


if __name__ == "__main__":
    sys.exit(run_command(main))
