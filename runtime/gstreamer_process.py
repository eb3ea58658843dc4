"""Images of a pipeline in a process of gst-launch-1.0, for an OpenCV without GStreamer.

Raw BGRx, which is the one format whose rows are never padded, comes through a pipe; its size is what gst-launch says of the sink's
capabilities before the first image. Behind a queue of one image that leaks, only the newest waits.
"""

from __future__ import annotations

import os
import re
import selectors
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.camera import SourceImage, SourceImages
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.redaction import redacted

TIMEOUT_S = 10.0  # for the first image, and for each piece of the next ones
_PATIENCE_S = 3.0  # to end by itself: a camera's daemon suffers from clients that are killed
_LOG_LENGTH = 16384
_CAPS = re.compile(
    r"GstFdSink:newest\.GstPad:sink: caps = [^\n]*width=\(int\)(\d+)[^\n]*height=\(int\)(\d+)"
    r"[^\n]*framerate=\(fraction\)(\d+)/(\d+)[^\n]*\n"
)
# What gst-launch says -> the fault; the first that is found counts.
_FAULTS = [
    (r"no element|erroneous pipeline|could not link", CameraFault.UNSUPPORTED),
    (r"not authorized|unauthorized|forbidden", CameraFault.AUTHENTICATION),
    (r"timed out|timeout|did not receive any data", CameraFault.TIMEOUT),
    (r"permission denied|is busy|refused", CameraFault.REFUSED),
    (r"no such|not found|cannot identify|resolv", CameraFault.NOT_FOUND),
    (r"not-negotiated|no decoder|cannot decode|missing.*plug-?in|could not determine type", CameraFault.NOT_DECODABLE),
]  # fmt: skip


def process_images(pipeline: str, name: str, found_fps: Callable[[float], None], timeout_s: float = TIMEOUT_S) -> SourceImages:
    """Yield images uint8 [H, W, 3] BGR of `pipeline`, which has no sink. Raises CameraError where it ends, whatever the reason.

    found_fps: called before the first image with the frames per second, where the pipeline states them.
    """
    import cv2

    with _launched(pipeline) as (process, data):
        output = _Output(process, data, name, found_fps, timeout_s)
        for image in output.images():
            yield SourceImage(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR), np.uint8))
        raise output.ended()


@contextmanager
def _launched(pipeline: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `pipeline`; give its process, whose stdout holds all messages, and the descriptor its images come from."""
    data, far_end = os.pipe()
    newest = "queue leaky=downstream max-size-buffers=1"
    sink = f"{newest} ! videoconvert ! video/x-raw,format=BGRx ! fdsink name=newest sync=false fd={far_end}"
    try:
        process = subprocess.Popen(
            ["gst-launch-1.0", "-v", *shlex.split(pipeline), "!", *sink.split()], pass_fds=(far_end,),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,  # Ctrl-C is ours to pass on
            restore_signals=False,  # with SIGPIPE ignored, as here, it stops its camera properly when we close our end
        )  # fmt: skip
    except OSError:
        os.close(data)
        raise
    finally:
        os.close(far_end)
    with process:
        try:
            yield process, data
        finally:
            os.close(data)  # a writer that is held up goes on, and ends
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()


class _Output:
    """What comes out of the process: images by one pipe, messages by another, neither of which may be left to fill."""

    def __init__(
        self, process: subprocess.Popen[bytes], data: int, name: str, found_fps: Callable[[float], None], timeout_s: float
    ) -> None:
        assert process.stdout is not None
        self._messages, self._data = process.stdout.fileno(), data
        self._name, self._found_fps, self._timeout_s = name, found_fps, timeout_s
        self._log, self._size = "", (0, 0)

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """Yield images uint8 [H, W, 4] BGRx, each valid until the next one, until the process has closed its end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._messages, selectors.EVENT_READ)
            while self._size == (0, 0):
                self._wait(selector)
                if not self._listen(selector):
                    return
            selector.register(self._data, selectors.EVENT_READ)
            buffer = bytearray(4 * self._size[0] * self._size[1])
            while self._fill(memoryview(buffer), selector):
                yield np.frombuffer(buffer, np.uint8).reshape(*self._size, 4)

    def ended(self) -> CameraError:
        """Return why there are no more images, by the messages."""
        running = self._size != (0, 0)
        said = re.findall(r"(?:ERROR: from element [^\n]*?: |erroneous pipeline: |ERROR: )([^\n]+)", self._log)
        if not said:
            return CameraError(f"{self._name} has ended", CameraFault.LOST)
        found = (fault for pattern, fault in _FAULTS if re.search(pattern, self._log, re.IGNORECASE))
        fault = CameraFault.LOST if running else next(found, CameraFault.OTHER)
        advice = ": install the plugin that has it (those of nv... are JetPack's)" if said[0].startswith("no element") else ""
        return CameraError(f"{self._name} {'is gone' if running else 'does not start'}: {redacted(said[0])}{advice}", fault)

    def _fill(self, view: memoryview, selector: selectors.BaseSelector) -> bool:
        filled = 0
        while filled < len(view):
            ready = self._wait(selector)
            if self._messages in ready:
                self._listen(selector)  # first, and by itself: before an image of another size comes the message of it
            elif count := os.readv(self._data, [view[filled:]]):
                filled += count
            else:
                self._drain(selector)
                return False
        return True

    def _listen(self, selector: selectors.BaseSelector) -> bool:
        """Read messages that are there; return whether there may be more. Raises CameraError where they tell of another size."""
        piece = os.read(self._messages, 65536)
        if not piece:
            selector.unregister(self._messages)
            return False
        self._log = (self._log + piece.decode(errors="replace"))[-_LOG_LENGTH:]
        for width, height, numerator, denominator in (map(int, caps) for caps in _CAPS.findall(self._log)):
            self._resize((height, width))
            if numerator:
                self._found_fps(numerator / denominator)
        return True

    def _resize(self, size: tuple[int, int]) -> None:
        if self._size not in ((0, 0), size):
            message = f"{self._name} changed its size from {self._size[1]}x{self._size[0]} to {size[1]}x{size[0]}"
            raise CameraError(message, CameraFault.LOST)
        self._size = size

    def _drain(self, selector: selectors.BaseSelector) -> None:
        selector.unregister(self._data)
        while self._messages in selector.get_map():
            self._wait(selector)
            self._listen(selector)

    def _wait(self, selector: selectors.BaseSelector) -> set[int]:
        ready = {key.fd for key, _ in selector.select(self._timeout_s)}
        if not ready:
            raise CameraError(f"{self._name} gave nothing for {self._timeout_s:g} s", CameraFault.TIMEOUT)
        return ready
