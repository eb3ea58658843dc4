"""Write the report of a model, report/index.html in its folder: accuracy, INT8 verdict, training, pictures, a stream, speed."""

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
    parser.add_argument("--video", type=Path, metavar="FILE", help="video of stream.py to show; default demo.mp4 in report/")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="JSON lines of stream.py to sum up; default demo.jsonl in report/")
    parser.add_argument("--benchmark", type=Path, metavar="FILE", help="CSV of benchmark.py to show; default benchmark.csv in report/")
    return parser.parse_args()


def main() -> None:
    """Write the report that the command line asks for."""
    arguments = parse_arguments()
    from retinanet_edge.runtime.report_page import ReportOptions, write_report

    print(f"wrote {write_report(ReportOptions(**vars(arguments)))}: open it in a browser")


if __name__ == "__main__":
    sys.exit(run_command(main))
