"""Recordings as sources: a video file, images. Every frame in order, again from the beginning where a loop is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.camera import DEFAULT_FPS, SourceImage, SourceImages, SourceOptions
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.redaction import redacted
from retinanet_edge.runtime.video_reading import hardware_decoder, nominal_fps, recorded_images, video_stream

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class VideoSource:
    """A video file; its frames have the file's own times, which go on growing in a loop."""

    live = False

    def __init__(self, path: str, options: SourceOptions) -> None:
        self.name, self.fps = redacted(path), DEFAULT_FPS
        self._path, self._options = str(Path(path).absolute()), options  # FFmpeg takes a:b.mp4 for an address

    def images(self) -> SourceImages:
        """Yield every image. Raises CameraError where the file is no video, or ends before it says."""
        return repeated(self._pass, lambda: self.fps) if self._options.loop else self._pass()

    def _pass(self) -> SourceImages:
        import av

        hardware = hardware_decoder() if self._options.decode == "hardware" else None
        try:
            container = av.open(self._path, hwaccel=hardware)
        except (av.error.FFmpegError, RuntimeError) as error:  # RuntimeError: not this codec in hardware
            reason = getattr(error, "strerror", None) or error
            message = f"{self.name} must be a video or an image, got a file that does not open ({reason})"
            raise CameraError(message, CameraFault.NOT_DECODABLE) from None
        with container:
            self.fps = nominal_fps(video_stream(container, self.name))
            return (yield from recorded_images(container, self.name))


class ImageSource:
    """Image files as a recording."""

    live = False

    def __init__(self, name: str, paths: Sequence[Path], options: SourceOptions) -> None:
        self.name, self.fps = redacted(name), options.fps or DEFAULT_FPS
        self._paths, self._loop = paths, options.loop

    def images(self) -> SourceImages:
        """Yield every image. Raises CameraError for one that does not decode."""
        return repeated(self._pass, lambda: self.fps) if self._loop else self._pass()

    def _pass(self) -> SourceImages:
        for index, path in enumerate(self._paths):
            yield SourceImage(_read_image(path), index / self.fps)
        return None


def images_among(paths: Iterator[Path]) -> list[Path]:
    """Return the images of these, by name, with numbers in the order of their value: frame2 before frame10."""
    return sorted((path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES), key=_natural)


def repeated(one_pass: Callable[[], SourceImages], fps: Callable[[], float]) -> SourceImages:
    """Yield the images of one pass after another, for ever; each pass goes on one frame after the last time of the one before."""
    begin_s = 0.0
    while True:
        last_s = begin_s
        for image in _images(one_pass()):
            last_s = begin_s + (image.timestamp_s or 0.0)
            yield image._replace(timestamp_s=last_s)
        begin_s = last_s + 1 / fps()


def _images(images: SourceImages) -> Iterator[SourceImage]:
    try:
        yield from images
    finally:
        images.close()


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]


def _read_image(path: Path) -> NDArray[np.uint8]:
    import cv2

    try:
        image: NDArray[np.uint8] | None = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # zero bytes, or more pixels than OpenCV takes
        image = None
    except OSError as error:
        raise CameraError(f"{path} does not open ({error.strerror}): bring it back or leave it out", CameraFault.NOT_FOUND) from None
    if image is None:
        message = f"{path} must be an image, got {path.stat().st_size} bytes that do not decode: mend or remove it"
        raise CameraError(message, CameraFault.NOT_DECODABLE)
    return image
