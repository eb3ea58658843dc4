"""Generate a small data set of scenes with moving things, COCO JSON with a train and a val split: the demo's data.

The same scenes, of seeds that no data set has, are the camera of `stream.py --camera demo`.
"""

import argparse
import sys
from pathlib import Path

try:
    from retinanet_edge.runtime.arguments import whole_number
    from retinanet_edge.runtime.errors import run_command
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')",
          file=sys.stderr)  # fmt: skip
    sys.exit(2)


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    images, pixels = whole_number(1, 50_000), whole_number(32, 4096)
    parser.add_argument("--output", type=Path, default=Path("data/scenes"), metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--train", type=images, default=800, metavar="N", help="training images, up to 50000")
    parser.add_argument("--val", type=images, default=150, metavar="N", help="validation images, up to 50000")
    parser.add_argument("--size", type=pixels, default=256, metavar="PIXELS", help="height and width, 32 to 4096")
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="the same seed gives the same scenes")
    return parser.parse_args()


def main() -> None:
    """Write the scenes that the command line asks for."""
    arguments = parse_arguments()
    from retinanet_edge.runtime.progress import Progress
    from retinanet_edge.runtime.scene_dataset import SceneDatasetOptions, write_scenes

    options = SceneDatasetOptions(arguments.train, arguments.val, arguments.seed, arguments.size, arguments.size)
    with Progress("generating scenes", arguments.train + arguments.val) as progress:
        written = write_scenes(arguments.output, options, progress.advance)
    print(f"{'wrote' if written else 'reused'} {arguments.output}: {arguments.train} training and {arguments.val} validation images; "
          f"train on them with python training/train.py --data {arguments.output}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
