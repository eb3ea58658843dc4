"""Where results go: a window, JSON lines, a video (video_sink.py). Each opens its output with the first frame, so that a stream that
never starts leaves nothing behind; `check_output` refuses early what could not be written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.camera import Frame
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.draw import draw_detections
from retinanet_edge.runtime.errors import UserInputError

_WINDOW = "retinanet-edge"
_END_KEYS = (ord("q"), 27)  # 27 is Esc
_PROBE_S = 20.0  # a display over a slow network may take its time


@dataclass(frozen=True)
class FrameResult:
    """What the stream knows of one frame. latency_ms: from the frame's arrival until its detections were known."""

    frame: Frame
    detections: Detections
    class_names: tuple[str, ...]
    latency_ms: float

    @cached_property
    def drawn(self) -> NDArray[np.uint8]:
        """The image with its detections: drawn once, and only if a sink wants it."""
        return draw_detections(self.frame.image, self.detections, self.class_names)


class Sink(Protocol):
    """Takes results in order."""

    def write(self, result: FrameResult) -> None:
        """Take one result. Raises UserInputError where it cannot be written (disk full)."""

    def close(self) -> None:
        """Finish the output; may be called twice."""


class JsonlSink:
    """One JSON object a line and frame; each line is in the file, whole, before the next frame is looked at."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None

    def write(self, result: FrameResult) -> None:
        """Append one line."""
        try:
            if self._stream is None:
                self._stream = self._path.open("wb", buffering=0)
            self._append(self._stream, json.dumps(as_json(result)).encode() + b"\n")
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    @staticmethod
    def _append(stream: BinaryIO, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                written += stream.write(line[written:])
        except OSError:
            if written:  # no half line stays behind on a full disk
                stream.truncate(stream.tell() - written)
            raise


class WindowSink:
    """Shows frames on the screen. `on_end` is called when the user presses q or Esc or closes the window.

    Raises UserInputError, beginning "no display", where there can be no window.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end, self._sized, self._open = on_end, False, False
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserInputError("no display: neither DISPLAY nor WAYLAND_DISPLAY is set; see the frames with --video out.mp4")
        if not _a_window_opens():
            raise UserInputError("no display: this OpenCV opens no window here; pip install -e '.[window]' brings one that does")
        import cv2

        cv2.namedWindow(_WINDOW, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)  # no toolbar
        self._open = True

    def write(self, result: FrameResult) -> None:
        """Show one frame."""
        import cv2

        if not self._sized:
            cv2.resizeWindow(_WINDOW, *result.drawn.shape[1::-1])
            self._sized = True
        cv2.imshow(_WINDOW, result.drawn)
        key = cv2.waitKey(1) & 0xFF
        if key in _END_KEYS or cv2.getWindowProperty(_WINDOW, cv2.WND_PROP_VISIBLE) < 1:
            self._on_end()

    def close(self) -> None:
        """Close the window."""
        if self._open:
            import cv2

            self._open = False
            cv2.destroyAllWindows()  # unlike destroyWindow, at peace with one that the user has closed


def _a_window_opens() -> bool:
    """Try in a process of its own: with a display that does not answer, as of a dead SSH session, Qt aborts the process it is in."""
    try:
        probe = [sys.executable, "-c", "import cv2; cv2.namedWindow('probe')"]
        return subprocess.run(probe, capture_output=True, timeout=_PROBE_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def as_json(result: FrameResult) -> dict[str, object]:
    """Return a result as its JSON line holds it: frame pixels to 0.01, scores to 0.0001."""
    found = result.detections
    return {
        "frame": result.frame.index,
        "time_s": round(result.frame.timestamp_s, 6),
        "latency_ms": round(result.latency_ms, 3),
        "detections": [
            {
                "class": result.class_names[index],
                "score": round(float(score), 4),
                "xyxy": [round(float(side), 2) for side in box],
            }
            for box, score, index in zip(found.xyxy, found.scores, found.classes, strict=True)
        ],
    }


def check_output(path: Path, flag: str) -> None:
    """Raise UserInputError, naming the flag, where `path` cannot be written. Leaves what is there as it is."""
    if path.is_dir():
        raise UserInputError(f"{flag} must name a file, got the folder {path}")
    if not path.parent.is_dir():
        raise UserInputError(f"{flag} must be in a folder that exists, got {path}: run mkdir -p {path.parent}")
    if path.exists():
        if not os.access(path, os.W_OK):
            raise UserInputError(f"{flag} must be writable, got {path}, which is not: name another file")
        return
    try:
        with tempfile.TemporaryFile(dir=path.parent):  # asks the disk itself: root may do what a read-only disk refuses
            pass
    except OSError as error:
        raise UserInputError(f"{flag} must be in a writable folder, got {path} ({error.strerror}): name another file") from None


def cannot_write(path: Path, error: OSError) -> UserInputError:
    """Return the error for an output that failed on the way."""
    return UserInputError(f"cannot write {path} ({error.strerror}): free some space or name another file")
