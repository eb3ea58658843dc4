"""Look through a labelled folder before training: what it holds, what is doubtful, and everything that is broken.

Ends with code 2 where something is broken, with 0 otherwise.
"""

import argparse
import sys
from pathlib import Path

try:
    from retinanet_edge.runtime.arguments import whole_number
    from retinanet_edge.runtime.errors import run_command
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')", file=sys.stderr)
    sys.exit(2)


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise argparse.ArgumentTypeError(f"must be a file that ends in .png or .jpg, got {text}")
    return path


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="COCO, Pascal VOC or YOLO folder (no default)")
    parser.add_argument("--sheet", type=_picture, metavar="FILE", help="picture of labelled images to write, .png or .jpg (default: none)")
    parser.add_argument("--images", type=whole_number(1, 200), default=24, metavar="N", help="images on the sheet (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Check as the command line says."""
    arguments = parse_arguments()
    from retinanet_edge.runtime.dataset_report import report_dataset

    report_dataset(arguments.data, arguments.sheet, arguments.images)


if __name__ == "__main__":
    sys.exit(run_command(main))
