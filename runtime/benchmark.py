"""Measure how fast a model runs on this machine: p50, p95 and p99 of each stage, and frames per second.

With --batches or --streams also its throughput, with --peers also PyTorch, torchvision and ONNX Runtime in turn with it.
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
    parser.add_argument(
        "--csv", type=Path, metavar="PATH",
        help="write the tables as CSV, too: a file, or a folder for <GPU or CPU>_<backend>_<precision>.csv; throughput and peers go beside "
        "it, into ...-throughput.csv and ...-peers.csv; default none",
    )  # fmt: skip
    load = parser.add_argument_group("throughput", "Of --frames frames a stream; left out where neither is given.")
    load.add_argument("--batches", type=_whole_numbers, default=(), metavar="N,...", help="batch sizes, as 1,2,4; default that of --batch")
    load.add_argument("--streams", type=_whole_numbers, default=(), metavar="N,...", help="engines at once, each in a thread; default 1")
    peers = parser.add_argument_group("peers", "In turn on the same frames, at each of --batches.")
    peers.add_argument(
        "--peers", action="store_true",
        help="compare with PyTorch eager and torch.compile, torchvision's RetinaNet, ONNX Runtime; default not",
    )  # fmt: skip
    peers.add_argument(
        "--peer-python", type=Path, metavar="PATH", help="interpreter that has torch, for --peers, which it implies; default this one"
    )
    peers.add_argument("--rounds", type=whole_number(1), default=10, metavar="N", help="times that each has its turn; default %(default)s")
    peers.add_argument("--turn", type=whole_number(1), default=5, metavar="N", help="calls in a turn; default %(default)s")
    peers.add_argument(
        "--peer-timeout", type=number(positive=True), default=900.0, metavar="SECONDS",
        help="longest time for a peer to get ready (torch.compile takes minutes) or take its turn; default %(default)g",
    )  # fmt: skip
    return parser.parse_args()


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(whole_number(1)(part) for part in text.split(","))


def main() -> None:
    """Measure as the command line says."""
    arguments = parse_arguments()
    from retinanet_edge.runtime.benchmark_run import BenchmarkOptions, PeerOptions, run_benchmark

    python = arguments.peer_python or Path(sys.executable)
    peers = PeerOptions(python, arguments.rounds, arguments.turn, arguments.peer_timeout)
    run_benchmark(BenchmarkOptions(
        arguments.model, arguments.engine, arguments.frames, arguments.warmup, arguments.batch, arguments.image, arguments.csv,
        arguments.batches, arguments.streams, peers if arguments.peers or arguments.peer_python else None,
    ))  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
