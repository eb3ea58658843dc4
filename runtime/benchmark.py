"""Measure how fast a model runs on this machine: p50, p95 and p99 of each stage, and frames per second."""

import argparse
import sys
from pathlib import Path

try:
    from retinanet_edge.runtime.arguments import whole_number
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')",
          file=sys.stderr)  # fmt: skip
    sys.exit(2)


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="model folder; default %(default)s")
    parser.add_argument(
        "--engine", default="auto",
        help="auto (the default: newest TensorRT engine that fits this machine, else INT8, else FP32 on the CPU), fp32, int8, "
        "or the file name of an engine in the model folder",
    )  # fmt: skip
    parser.add_argument("--frames", type=whole_number(1), default=100, metavar="N", help="frames to time; default %(default)s")
    parser.add_argument(
        "--warmup", type=whole_number(0), default=10, metavar="N", help="frames to run untimed before; default %(default)s"
    )
    parser.add_argument(
        "--batch", type=whole_number(1), default=1, metavar="N", help="frames that go through together; default %(default)s"
    )
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="image, video or folder of images to take frames from; default generated scenes"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV, too; default none")
    return parser.parse_args()


def main() -> None:
    """Measure as the command line says."""
    arguments = parse_arguments()
    from retinanet_edge.runtime.speed import benchmark

    speed = benchmark(
        arguments.model, arguments.engine, frames=arguments.frames, warmup=arguments.warmup, batch=arguments.batch,
        image=arguments.image, csv_file=arguments.csv,
    )  # fmt: skip
    print(speed.table())


if __name__ == "__main__":
    sys.exit(run_command(main))
