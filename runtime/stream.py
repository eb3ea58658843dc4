"""Stream cameras, videos or images through a model: boxes in a window, in videos, as JSON lines, over MQTT, on a web page.

Live cameras give their newest frame and are connected again when they fail; recordings give every frame. Ctrl-C ends it, as do q and Esc in
the window.
"""

import argparse
import sys

try:
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.stream_arguments import stream_parser
    from retinanet_edge.runtime.stream_config import config_text, with_config
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')",
          file=sys.stderr)  # fmt: skip
    sys.exit(2)


def parse_arguments() -> argparse.Namespace:
    """Return the command line with its configuration file. Raises UserInputError where a flag is wrong."""
    parser = stream_parser(__doc__)
    return parser.parse_args(with_config(parser, sys.argv[1:]))


def main() -> None:
    """Stream as the command line and the configuration file say."""
    arguments = parse_arguments()
    if arguments.print_config:
        parser = stream_parser(__doc__)
        print(config_text(parser, with_config(parser, sys.argv[1:])), end="")
        return
    from retinanet_edge.runtime.stream_options import options_from
    from retinanet_edge.runtime.stream_run import stream

    stream(options_from(arguments), (lambda: options_from(parse_arguments())) if arguments.config else None)


if __name__ == "__main__":
    sys.exit(run_command(main))
