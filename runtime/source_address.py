"""What `--camera` can name, told apart by its text alone: nothing is opened, only what is plainly wrong is refused.

    0, /dev/video0, /dev/v4l/by-id/...      a camera of this machine
    csi://0                                 a Jetson's CSI camera
    rtsp://, rtsps://, http://, https://    a camera or a video on the network
    "v4l2src ! videoconvert"                a GStreamer pipeline: whatever holds " ! "
    video.mp4, image.jpg, folder, "*.jpg"   recordings
    demo, demo:live, demo:freeze@100+50     generated scenes (demo_source.py)

Before each may stand the name it has in outputs: front=rtsp://...
"""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import NamedTuple

from retinanet_edge.runtime.camera import Source, SourceOptions
from retinanet_edge.runtime.demo_source import DemoSource
from retinanet_edge.runtime.device_source import DeviceSource
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.gstreamer_source import GStreamerSource, csi_pipeline, rtsp_pipeline, v4l2_pipeline
from retinanet_edge.runtime.network_source import DEFAULT_PORTS, NetworkSource
from retinanet_edge.runtime.recorded_source import IMAGE_SUFFIXES, ImageSource, VideoSource, images_among
from retinanet_edge.runtime.redaction import redacted

_EXPECTED = "a device index, a file, a folder, a URL, a GStreamer pipeline or demo"
_JETSON = Path("/etc/nv_tegra_release")


class NamedSource(NamedTuple):
    """A source and the name it has in outputs."""

    name: str
    source: Source


def parse_source(text: str, options: SourceOptions) -> NamedSource:
    """Return what `text` names. Options that its kind has no use for are left aside, so that several kinds can share them.

    Raises CameraError, typed by its fault, for what names nothing, and for options that the kind would need but cannot have.
    """
    prefix = re.match(r"([A-Za-z][\w-]*)=", text)
    if prefix is None or _exists(text):
        source = _source(text, options)
        return NamedSource(source.name, source)
    return NamedSource(prefix[1], _source(text[prefix.end() :], options))


def _source(text: str, options: SourceOptions) -> Source:
    if " ! " in text:
        return GStreamerSource(text, text.split(" ! ")[0], options.fps)
    if text == "demo" or text.startswith("demo:"):
        return DemoSource(text[len("demo:") :] if ":" in text else None, options)
    if text.isdecimal() or text.startswith("/dev/"):
        return _device(Path(f"/dev/video{int(text)}" if text.isdecimal() else text), options)
    if "://" in text:
        return _address(text, options)
    return _recording(text, options)


def _device(device: Path, options: SourceOptions) -> Source:
    if options.decode == "hardware":
        return GStreamerSource(v4l2_pipeline(str(device), options), str(device), options.fps)
    return DeviceSource(device, options)


def _address(text: str, options: SourceOptions) -> Source:
    scheme = text.partition("://")[0].lower()
    if scheme == "csi":
        if not re.fullmatch(r"csi://\d+", text, re.IGNORECASE):
            raise CameraError(f"a CSI camera must be csi://N, N from 0, got {redacted(text)}", CameraFault.NOT_FOUND)
        return GStreamerSource(csi_pipeline(int(text[len("csi://") :]), options), text, options.fps)
    if scheme not in DEFAULT_PORTS:
        message = f"an address must begin with csi://, {'://, '.join(DEFAULT_PORTS)}://, got {redacted(scheme)}://"
        raise CameraError(message, CameraFault.UNSUPPORTED)
    if re.search(r"\s", text):  # and is not repeated here: the blank may be a password's
        raise CameraError(f"a {scheme}:// address must have no blanks: write them as %20", CameraFault.NOT_FOUND)
    if scheme.startswith("rtsp") and options.decode == "hardware" and _JETSON.exists():
        return GStreamerSource(rtsp_pipeline(text, options), text, options.fps)
    return NetworkSource(text, options)


def _recording(text: str, options: SourceOptions) -> Source:
    path = Path(text)
    if _exists(text):
        if path.is_dir():
            return _images(text, images_among(path.iterdir()), options)
        return _images(text, [path], options) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(text, options)
    if re.search(r"[*?\[]", text):
        found = glob.iglob(text, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
        return _images(text, images_among(map(Path, found)), options)
    message = f"--camera must be {_EXPECTED}, got {redacted(text) or 'nothing'}, which does not exist"
    raise CameraError(message, CameraFault.NOT_FOUND)


def _images(text: str, paths: list[Path], options: SourceOptions) -> ImageSource:
    if not paths:
        message = f"{redacted(text)} must hold images ({', '.join(IMAGE_SUFFIXES)}), got none: name another folder"
        raise CameraError(message, CameraFault.NOT_FOUND)
    return ImageSource(text, paths, options)


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # longer than a file's name can be, as pipelines are
        return False
