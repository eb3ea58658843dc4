"""Stream a camera, video or folder of images through a model: boxes on a window, in a video, as JSON lines.

A live camera gives its newest frame, a recording every frame. Ctrl-C ends it, as do q and Esc in the window.
"""

import argparse
import sys
from pathlib import Path

try:
    from retinanet_edge.runtime.arguments import number, whole_number
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')",
          file=sys.stderr)  # fmt: skip
    sys.exit(2)


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--camera", default="0", metavar="SOURCE",
        help="device index, video or image file, folder of images, URL (rtsp, http), or demo for generated scenes; default %(default)s",
    )  # fmt: skip
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="model folder; default %(default)s")
    parser.add_argument(
        "--engine", default="auto",
        help="auto (the default: newest TensorRT engine that fits this machine, else INT8, else FP32 on the CPU), fp32, int8, "
        "or the file name of an engine in the model folder",
    )  # fmt: skip
    parser.add_argument("--threshold", type=number(0, 1), default=0.5, help="least score kept, 0 to 1; default %(default)s")
    parser.add_argument("--classes", type=_names, metavar="A,B", help="only these classes of the model; default all")
    parser.add_argument("--video", type=Path, metavar="FILE.mp4", help="write the drawn frames as MP4; default none")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="write one JSON object a frame and line; default none")
    parser.add_argument("--frames", type=whole_number(1), metavar="N", help="end after N frames; default all, of the demo 300")
    parser.add_argument(
        "--fps", type=number(maximum=1000, positive=True), default=25.0,
        help="frames per second of images and the demo; default %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--no-window", dest="window", action="store_false", help="show no window; default: show one where there is a display"
    )
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"must be class names with commas between them, got {text!r}")
    return names


def main() -> None:
    """Stream as the command line says."""
    arguments = parse_arguments()
    from retinanet_edge.runtime.pipeline import StreamOptions, stream

    stream(StreamOptions(**vars(arguments)))


if __name__ == "__main__":
    sys.exit(run_command(main))
