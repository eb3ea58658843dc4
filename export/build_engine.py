"""Make an engine of an exported model: calibrate and quantize for --int8, measure what it costs, compile with TensorRT.

Without TensorRT or a GPU it makes all but the engine, for the CPU backend here and for compiling on the device later.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

try:
    from retinanet_edge.runtime.arguments import number, whole_number
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, or pip install -e '.[export,cpu]'", file=sys.stderr)
    sys.exit(2)


# Not argparse's defaults: whether one was given matters.
_IMAGES: Final = 256
_METHOD: Final = "percentile"
_SEED: Final = 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="model folder; default %(default)s")
    precision = parser.add_mutually_exclusive_group()
    for name in ("int8", "fp16", "fp32"):
        precision.add_argument(
            f"--{name}", dest="precision", action="store_const", const=name, default="fp16",
            help=f"{name.upper()} engine" + ("; the default" if name == "fp16" else ""),
        )  # fmt: skip
    int8 = parser.add_argument_group("INT8", "The first five say how model.int8.onnx is made; giving one makes it again.")
    int8.add_argument("--data", type=Path, metavar="PATH", help="labelled folder to calibrate and measure on; default the card's")
    int8.add_argument("--calibration", type=Path, metavar="DIR", help="folder of images; default the training images")
    int8.add_argument("--images", type=whole_number(1), metavar="N", help=f"calibration images; default {_IMAGES}")
    int8.add_argument(
        "--method", choices=("percentile", "minmax"),
        help=f"range of each tensor: 99.99 %% of its values over all images, or all of them; default {_METHOD}",
    )  # fmt: skip
    int8.add_argument("--seed", type=whole_number(0), metavar="N", help=f"chooses the images; default {_SEED}")
    int8.add_argument(
        "--max-ap-drop", type=number(0, 100), default=0.5, metavar="POINTS", help="AP that INT8 may lose, in points; default %(default)s"
    )
    int8.add_argument("--force", action="store_true", help="accept an INT8 model that loses more")
    int8.add_argument("--recalibrate", action="store_true", help="make model.int8.onnx again though the card vouches for it")
    engine = parser.add_argument_group("TensorRT")
    engine.add_argument("--max-batch", type=whole_number(1), default=1, metavar="N", help="most images in one call; default %(default)s")
    engine.add_argument(
        "--workspace", type=whole_number(1), default=2048, metavar="MIB", help="the builder's scratch memory; default %(default)s"
    )
    engine.add_argument("--verbose", action="store_true", help="show TensorRT's own messages")
    return parser.parse_args()


def main() -> None:
    """Build as the command line says."""
    arguments = parse_arguments()
    from retinanet_edge.export.build import Int8Options, build
    from retinanet_edge.export.compiler import BuildOptions

    options = BuildOptions(
        precision=arguments.precision, max_batch=arguments.max_batch, workspace_mib=arguments.workspace, verbose=arguments.verbose
    )
    how = (arguments.data, arguments.calibration, arguments.images, arguments.method, arguments.seed)
    int8 = Int8Options(
        data=arguments.data, calibration=arguments.calibration, images=arguments.images or _IMAGES, method=arguments.method or _METHOD,
        seed=arguments.seed or _SEED, max_ap_drop=arguments.max_ap_drop / 100, force=arguments.force,
        recalibrate=arguments.recalibrate or any(value is not None for value in how),
    )  # fmt: skip
    build(arguments.model, options, int8 if arguments.precision == "int8" else None)


if __name__ == "__main__":
    sys.exit(run_command(main))
