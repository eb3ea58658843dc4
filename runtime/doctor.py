"""Examine this machine: libraries, GPU, cameras, memory, disk, clock and the model folder, with one fix for each thing that is wrong."""

import argparse
import sys
from pathlib import Path

try:
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
    parser.add_argument("--json", action="store_true", help="print JSON for a program; default a table for people")
    return parser.parse_args()


def main() -> None:
    """Examine as the command line says. Ends with code 1 where a check failed."""
    arguments = parse_arguments()
    from retinanet_edge.runtime.health_report import examine

    examine(arguments.model, arguments.json)


if __name__ == "__main__":
    sys.exit(run_command(main))
