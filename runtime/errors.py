"""Every error a user can cause, and the one place where errors become messages and exit codes.

    RetinaNetEdgeError          exit 1   something failed while running
    ├── UserInputError          exit 2   what the user gave is missing, broken or does not fit
    │   ├── DatasetError                 a labelled folder or one of its files
    │   ├── ModelFolderError             a model folder, its card, or a file the card vouches for
    │   ├── WeightsError                 published weights that cannot be had
    │   └── CameraError                  a camera, video or image folder that cannot be opened
    ├── EngineError             exit 1   an engine that does not build, load or run on this machine
    └── VerdictError            exit 3   the INT8 model loses more accuracy than allowed

A message is one line: what was expected, what came, what to run next.
"""

import enum
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from retinanet_edge.runtime.redaction import redacted

# Exit codes of every command; 130 is the shell's own for a process ended by Ctrl-C.
EXIT_DONE, EXIT_FAILED, EXIT_USER_INPUT, EXIT_VERDICT, EXIT_INTERRUPTED = 0, 1, 2, 3, 130

# Module a command may miss -> the extra of pyproject.toml that brings it.
_EXTRA_OF_MODULE = {
    "torch": "train", "torchvision": "train", "timm": "train", "safetensors": "train", "matplotlib": "train",
    "onnx": "export", "onnxruntime": "export",
    "openvino": "cpu", "cv2": "cpu", "av": "cpu", "pycocotools": "cpu", "defusedxml": "cpu", "PIL": "cpu", "yaml": "cpu", "tqdm": "cpu",
    "aiohttp": "cpu", "prometheus_client": "cpu", "paho": "cpu", "tomli": "cpu",
    "tensorrt": "gpu", "pycuda": "gpu", "cuda": "gpu", "polygraphy": "gpu",
}  # fmt: skip


class RetinaNetEdgeError(Exception):
    """Something failed while running; the message says what and what to do."""

    exit_code = EXIT_FAILED


class UserInputError(RetinaNetEdgeError):
    """What the user gave is missing, broken or does not fit."""

    exit_code = EXIT_USER_INPUT


class DatasetError(UserInputError):
    """A labelled folder, or one of its files, cannot be used."""


class ModelFolderError(UserInputError):
    """A model folder, its card, or a file the card vouches for cannot be used."""


class WeightsError(UserInputError):
    """Published weights cannot be had.

    what: which, why, and how to bring them; the message ends in what to do `instead`.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"{what}, or {instead}")
        self.what = what


class CameraFault(enum.Enum):
    """Why a camera gives nothing; the value is its name in outputs."""

    NOT_FOUND = "not found"
    REFUSED = "refused"  # no permission, held by another program, connection refused
    AUTHENTICATION = "authentication"
    TIMEOUT = "time-out"
    NOT_DECODABLE = "not decodable"
    UNSUPPORTED = "unsupported"  # this machine's libraries cannot open its kind, or an option does not fit it
    LOST = "lost"  # it ran, and went away
    OTHER = "other"


class CameraError(UserInputError):
    """A camera, video or image folder cannot be opened, or went away; `fault` says in which way."""

    def __init__(self, message: str, fault: CameraFault = CameraFault.OTHER) -> None:
        super().__init__(message)
        self.fault = fault


class EngineError(RetinaNetEdgeError):
    """An engine does not build, load or run on this machine."""


class VerdictError(RetinaNetEdgeError):
    """The INT8 model loses more accuracy than allowed."""

    exit_code = EXIT_VERDICT


def run_command(main: Callable[[], None]) -> int:
    """Run a command's `main` and return its exit code, turning errors users can cause into one line on stderr."""
    interrupts: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # SIGTERM ends a command as Ctrl-C does: nothing half-written, exit code 130
        signal.signal(number, interrupt)
    try:
        return _run(main)
    except (ImportError, RuntimeError, SystemError):
        if not interrupts:  # compiled libraries turn a KeyboardInterrupt into errors of their own, above all while they load
            raise
        return _report("interrupted", EXIT_INTERRUPTED)


def _run(main: Callable[[], None]) -> int:
    try:
        main()
    except RetinaNetEdgeError as error:
        return _report(str(error), error.exit_code)
    except KeyboardInterrupt as interrupt:
        return _report(str(interrupt) or "interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output (head, less) has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _EXTRA_OF_MODULE:
            raise
        extra = _EXTRA_OF_MODULE[package]
        return _report(f"this command needs {package}: run pip install -e '.[{extra}]'", EXIT_USER_INPUT)
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _report(f"{where}{error.strerror}: check the path, its permissions and the free disk space",
                       EXIT_FAILED if error.errno is None else EXIT_USER_INPUT)  # fmt: skip
    return EXIT_DONE


def _report(message: str, exit_code: int) -> int:
    print(f"error: {redacted(message)}", file=sys.stderr)
    return exit_code
