"""Write the portable model.onnx of a trained model and check it against PyTorch on images of its data set."""

import argparse
import sys
from pathlib import Path

try:
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL, find_model_folder
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, or pip install -e '.[train,export]'", file=sys.stderr)
    sys.exit(2)


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="model folder; default %(default)s")
    parser.add_argument("--data", type=Path, metavar="PATH", help="labelled folder whose images check the export; default the card's")
    return parser.parse_args()


def main() -> None:
    """Export as the command line says."""
    arguments = parse_arguments()
    find_model_folder(arguments.model)  # answered before torch takes its seconds to load
    from retinanet_edge.export.portable import export_portable

    path, difference = export_portable(arguments.model, arguments.data)
    print(f"wrote {path}: opset 17, at most {difference:.1e} from PyTorch; run python export/build_engine.py --int8 next")


if __name__ == "__main__":
    sys.exit(run_command(main))
