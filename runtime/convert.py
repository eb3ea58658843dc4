"""Write a labelled folder in another format, COCO JSON, Pascal VOC or YOLO, with its images and its split.

Boxes, classes, crowd marks and areas are kept where the format can hold them; what gets lost is counted. Masks and keypoints are not read.
"""

import argparse
import sys
from pathlib import Path

try:
    from retinanet_edge.runtime.errors import run_command
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')", file=sys.stderr)
    sys.exit(2)


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="COCO, Pascal VOC or YOLO folder (no default)")
    parser.add_argument("--to", choices=("coco", "voc", "yolo"), required=True, help="format to write (no default)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write, new or empty (no default)")
    parser.add_argument(
        "--link", action="store_true",
        help="hard-link the images where the file system allows it, which takes no space (default: copy them)",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Convert as the command line says."""
    arguments = parse_arguments()
    from retinanet_edge.runtime.dataset_conversion import convert_dataset

    lines = convert_dataset(arguments.data, arguments.to, arguments.output, link=arguments.link)
    print(*lines, f"train on it with python training/train.py --data {arguments.output}", sep="\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
