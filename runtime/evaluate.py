"""Measure the AP of a model on a labelled folder, by whatever runs it here: a TensorRT engine or the CPU backend, INT8 or FP32.

With --report also a page, evaluation-<split>.html: figures of every class, curves, confusion matrix, best and worst images.
"""

import argparse
import sys
from pathlib import Path

try:
    from retinanet_edge.runtime.arguments import number
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')", file=sys.stderr)
    sys.exit(2)


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="model folder (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="COCO, Pascal VOC or YOLO data (default: what the model was trained on)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="images to measure on (default: %(default)s)")
    parser.add_argument(
        "--engine", default="auto", metavar="auto|fp32|int8|FILE",
        help="auto: the newest engine that fits this machine, else INT8, else FP32 on the CPU (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--report", action="store_true", help="write report/evaluation-<split>.html in the model folder (default: not)")
    parser.add_argument(
        "--threshold", type=number(0, 1), metavar="SCORE",
        help="on the page, score from which detections count as found (default: that with the best F1)",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Evaluate as the command line says."""
    arguments = parse_arguments()
    from retinanet_edge.runtime.accuracy import evaluate_model

    lines = evaluate_model(
        arguments.model, arguments.data, arguments.split, arguments.engine, report=arguments.report, threshold=arguments.threshold
    )
    print(*lines, sep="\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
