"""Measure the AP of a model's PyTorch weights on a labelled folder, before any export, and write a page about it.

The page is report/evaluation-<split>.html in the model folder: figures of every class, curves, confusion matrix, best and worst images.
"""

import argparse
import sys
from pathlib import Path

try:
    from retinanet_edge.runtime.arguments import number, whole_number
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL, find_model_folder
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, or pip install -e '.[train]'", file=sys.stderr)
    sys.exit(2)


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="model folder (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="COCO, Pascal VOC or YOLO data (default: what the model was trained on)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="images to measure on (default: %(default)s)")
    parser.add_argument("--batch", type=whole_number(1), default=8, help="images in the network at a time (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    parser.add_argument(
        "--threshold", type=number(0, 1), metavar="SCORE",
        help="on the page, score from which detections count as found (default: that with the best F1)",
    )  # fmt: skip
    parser.add_argument(
        "--foreground-iou", type=number(0, 1, positive=True), metavar="IOU",
        help="IoU from which an anchor is an object's, in the share of boxes that have one (default: that of the training)",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Evaluate as the command line says."""
    arguments = parse_arguments()
    find_model_folder(arguments.model)  # answered before torch takes its seconds to load
    from retinanet_edge.training.run import choose_device
    from retinanet_edge.training.weights_accuracy import EvaluationOptions, evaluate_weights

    arguments.device = choose_device(arguments.device)
    print(*evaluate_weights(EvaluationOptions(**vars(arguments))), sep="\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
