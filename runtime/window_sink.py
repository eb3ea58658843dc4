"""Frames on the screen, one window a camera."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.sink import FrameResult, SinkError

_TITLE = "retinanet-edge"
_END_KEYS = (ord("q"), 27)  # 27 is Esc
_PROBE_S = 20.0  # a display over a slow network may take its time


class WindowSink:
    """Shows frames on the screen. `on_end` is called, on the sink's thread, when the user presses q or Esc or closes a window.

    Windows are made, drawn and destroyed on the thread that writes, as OpenCV wants it. Raises UserInputError, beginning "no display",
    where there can be no window.
    """

    name = "window"

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._titles: set[str] = set()
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserInputError("no display: neither DISPLAY nor WAYLAND_DISPLAY is set; see the frames with --video out.mp4")
        if not _a_window_opens():
            raise UserInputError("no display: this OpenCV opens no window here; pip install -e '.[window]' brings one that does")

    def write(self, result: FrameResult) -> None:
        """Show one frame. Raises SinkError where the display has gone."""
        import cv2

        title = f"{_TITLE} {result.frame.camera}".rstrip()
        try:
            if title not in self._titles:
                cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)  # no toolbar
                cv2.resizeWindow(title, *result.drawn.shape[1::-1])
                self._titles.add(title)
            cv2.imshow(title, result.drawn)
            key = cv2.waitKey(1) & 0xFF
            if key in _END_KEYS or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
                self._on_end()
        except cv2.error as error:
            raise SinkError(f"the window cannot be drawn: {error.err}") from None

    def close(self) -> None:
        """Close the windows."""
        if self._titles:
            import cv2

            self._titles.clear()
            cv2.destroyAllWindows()  # unlike destroyWindow, at peace with one that the user has closed


def _a_window_opens() -> bool:
    """Try in a process of its own: with a display that does not answer, as of a dead SSH session, Qt aborts the process it is in."""
    try:
        probe = [sys.executable, "-c", "import cv2; cv2.namedWindow('probe')"]
        return subprocess.run(probe, capture_output=True, timeout=_PROBE_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
