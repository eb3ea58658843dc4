"""What the OpenCV that is installed was built with, read from its own account (`cv2.getBuildInformation()`). Imports no cv2.

pip's wheels have FFmpeg and V4L2 but no GStreamer, JetPack's and Debian's have all three, a home-made one may lack any.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class OpenCVFeatures:
    """version: "4.8.0". The others say whether it can use them; gui: what draws its windows ("GTK3", "QT5"), None for no windows."""

    version: str
    gstreamer: bool
    ffmpeg: bool
    v4l2: bool
    gui: str | None


def opencv_features(text: str) -> OpenCVFeatures:
    """Return what the build information in `text` says; what it does not mention is not there."""
    version = re.search(r"General configuration for OpenCV (\S+)", text)
    return OpenCVFeatures(
        version=version[1] if version else "unknown",
        gstreamer=_has(text, "GStreamer"),
        ffmpeg=_has(text, "FFMPEG"),
        v4l2=_has(text, "v4l/v4l2"),
        gui=_gui(text),
    )


def _has(text: str, name: str) -> bool:
    return re.search(rf"^ +{re.escape(name)}:[ \t]+YES\b", text, re.MULTILINE) is not None


def _gui(text: str) -> str | None:
    named = re.search(r"^  GUI:[ \t]*(\S*)[ \t]*$", text, re.MULTILINE)
    if named and named[1]:
        return None if named[1] == "NONE" else named[1]
    # Before 4.5.3 the line is empty, and what is there follows it.
    return next((toolkit.rstrip("+") for toolkit in ("QT", "GTK+", "Win32 UI", "Cocoa") if _has(text, toolkit)), None)
