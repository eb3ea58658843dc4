"""Make an engine of an exported model: calibrate and quantize for --int8, measure what it costs, compile with TensorRT.

Without TensorRT or a GPU it makes all but the engine, for the CPU backend here and for compiling on the device later.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

try:
    from retinanet_edge.runtime.arguments import number, whole_number, width_and_height
    from retinanet_edge.runtime.errors import UserInputError, run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, or pip install -e '.[export,cpu]'", file=sys.stderr)
    sys.exit(2)


# Not argparse's defaults: whether one was given matters.
_IMAGES: Final = 128
_METHOD: Final = "percentile"
_SEED: Final = 0
_MOST_IMAGES: Final = 1024  # of a call: no GPU of today has memory for more


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
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--dry-run", dest="action", action="store_const", const="print_plan", default="build",
        help="print what would be built and change nothing; needs neither TensorRT nor a GPU",
    )  # fmt: skip
    instead.add_argument(
        "--trtexec", dest="action", action="store_const", const="print_trtexec",
        help="write the whole graph as model.<precision>.complete.onnx and print the trtexec call that builds it",
    )  # fmt: skip
    _add_int8(parser.add_argument_group("INT8", "The first five say how model.int8.onnx is made; giving one makes it again."))
    _add_engine(parser.add_argument_group("what the engine takes and gives"))
    _add_tensorrt(parser.add_argument_group("how TensorRT builds it"))
    return parser.parse_args()


def _add_int8(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data", type=Path, metavar="PATH", help="labelled folder to calibrate and measure on; default the card's")
    group.add_argument("--calibration", type=Path, metavar="DIR", help="folder of images; default the training images")
    group.add_argument("--images", type=whole_number(1), metavar="N", help=f"calibration images; default {_IMAGES}")
    group.add_argument(
        "--method", choices=("percentile", "minmax", "entropy", "mse"),
        help=f"range of each tensor: 99.99 %% of its values, all of them, least divergence, least squared error; default {_METHOD}",
    )  # fmt: skip
    group.add_argument("--seed", type=whole_number(0), metavar="N", help=f"chooses the images; default {_SEED}")
    group.add_argument(
        "--max-ap-drop", type=number(0, 100), default=0.5, metavar="POINTS", help="AP that INT8 may lose, in points; default %(default)s"
    )
    group.add_argument(
        "--search", action="store_true",
        help="where INT8 loses more, equalize its channels and, if need be, keep the fewest convolutions out of it with which it does not; "
        "default off",
    )  # fmt: skip
    group.add_argument("--force", action="store_true", help="accept an INT8 model that loses more, or that no validation image can judge")
    group.add_argument(
        "--recalibrate", action="store_true",
        help="make model.int8.onnx again though the card vouches for it, and by calibration though train.py --qat has learned ranges",
    )  # fmt: skip


def _add_engine(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--batch", type=whole_number(1, _MOST_IMAGES), nargs=3, default=(1, 1, 1), metavar=("MIN", "OPT", "MAX"),
        help="images of one call: fewest, what it is tuned for, most; default 1 1 1",
    )  # fmt: skip
    group.add_argument(
        "--input", choices=("uint8-nhwc", "fp32-nchw"), default="uint8-nhwc",
        help="bytes, BGR pixels; or floats, RGB planes after normalisation, for DeepStream; default %(default)s",
    )  # fmt: skip
    group.add_argument(
        "--camera-size", type=width_and_height, metavar="WxH",
        help="take whole frames of this size in pixels and letterbox them in the engine; default: the host letterboxes",
    )  # fmt: skip
    group.add_argument(
        "--nms", choices=("efficient", "native", "none"), default="efficient",
        help="the plugin EfficientNMS_TRT, ONNX's NonMaxSuppression, or raw heads for a program's own; default %(default)s",
    )  # fmt: skip
    group.add_argument(
        "--score-threshold", type=number(0.01, 0.99), metavar="SCORE", help="least score kept, 0.01 to 0.99; default the card's"
    )
    group.add_argument(
        "--iou-threshold", type=number(0, 1, positive=True), metavar="IOU",
        help="overlap, up to 1, from which two boxes of a class are one; default the card's",
    )  # fmt: skip
    group.add_argument(
        "--max-detections", type=whole_number(1, 10_000), metavar="N", help="boxes kept of an image, up to 10000; default the card's"
    )
    group.add_argument(
        "--top-k", type=whole_number(1, 3840), metavar="K",
        help="anchors of each level that go into NMS; default the card's, else all, or as many as the plugin has memory for",
    )  # fmt: skip


def _add_tensorrt(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--workspace", type=whole_number(1, 1 << 20), metavar="MIB",
        help="scratch memory of a layer, MiB; default half of what is free on the GPU",
    )
    group.add_argument(
        "--dla", type=whole_number(0), metavar="CORE",
        help="DLA core of a Jetson, from 0, with FP16, a fixed batch, and the GPU for what it does not take; default the GPU alone",
    )  # fmt: skip
    group.add_argument(
        "--optimization-level", type=whole_number(0, 5), metavar="0-5",
        help="how long TensorRT 8.6 and newer searches for fast kernels; default TensorRT's own, 3",
    )  # fmt: skip
    group.add_argument(
        "--timing-cache", type=Path, metavar="FILE",
        help="kernel times of earlier builds, read and written; default one for each GPU and TensorRT, in the model folder",
    )  # fmt: skip
    group.add_argument(
        "--version-compatible", action="store_true",
        help="an engine that also loads in newer TensorRTs of its major version; TensorRT 8.6 and newer; default off",
    )  # fmt: skip
    group.add_argument(
        "--hardware-compatible", action="store_true",
        help="an engine that also runs on other GPUs from Ampere on, perhaps slower; TensorRT 8.6 and newer; default off",
    )  # fmt: skip
    group.add_argument("--verbose", action="store_true", help="show TensorRT's own messages; default off")


def main() -> None:
    """Build, or print, as the command line says."""
    arguments = parse_arguments()
    from retinanet_edge.export.build_options import BuildOptions, NmsOverrides

    low, tuned, high = arguments.batch
    options = BuildOptions(
        arguments.precision, low, tuned, high, workspace_mib=arguments.workspace, dla_core=arguments.dla,
        optimization_level=arguments.optimization_level, nms=arguments.nms, camera_size=arguments.camera_size, input=arguments.input,
        nms_overrides=NmsOverrides(arguments.score_threshold, arguments.iou_threshold, arguments.max_detections, arguments.top_k),
        version_compatible=arguments.version_compatible, hardware_compatible=arguments.hardware_compatible,
        timing_cache=arguments.timing_cache, verbose=arguments.verbose,
    )  # fmt: skip
    from retinanet_edge.export import build  # after what contradicts itself is refused

    how = (arguments.data, arguments.calibration, arguments.images, arguments.method, arguments.seed)
    switches = arguments.force or arguments.recalibrate or arguments.search
    if arguments.precision != "int8" and (any(value is not None for value in how) or switches):
        raise UserInputError(
            f"--data, --calibration, --search and others of INT8 need --int8, got --{arguments.precision}: add it or leave them out"
        )
    if arguments.search and arguments.force:
        raise UserInputError("--search makes an INT8 model that passes, --force accepts one that does not, got both: leave one out")
    int8 = build.Int8Options(
        data=arguments.data, calibration=arguments.calibration, images=arguments.images or _IMAGES, method=arguments.method or _METHOD,
        seed=arguments.seed or _SEED, max_ap_drop=arguments.max_ap_drop / 100, force=arguments.force,
        recalibrate=arguments.recalibrate or any(value is not None for value in how), search=arguments.search,
        learned=not arguments.recalibrate and not arguments.search and all(value is None for value in how[1:]),
    )  # fmt: skip
    actions = {"build": build.build, "print_plan": build.print_plan, "print_trtexec": build.print_trtexec}
    actions[arguments.action](arguments.model, options, int8 if arguments.precision == "int8" else None)


if __name__ == "__main__":
    sys.exit(run_command(main))
