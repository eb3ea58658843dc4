"""Drawn frames as video: one file a camera, or segments of which the newest are kept."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.camera import DEFAULT_FPS, Camera
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.mp4_writer import VideoWriter, open_video
from retinanet_edge.runtime.output_paths import cannot_write, plain_name
from retinanet_edge.runtime.rotation import KEEP_ALL, Keep, finished_files, prune, stamped_path
from retinanet_edge.runtime.sink import FrameResult, SinkError

_HIGHEST_FPS = 1000.0  # drivers that do not know it say -1 or 90000
_RETRY_S = 5.0  # a full disk is not asked again at every frame,
_LEAST_FREE = 1 << 20  # nor for less than a second's bytes, which the encoder would take and then lose


class VideoSink:
    """Drawn frames as MP4 at the frames' own times, each camera in files of its own.

    path: out.mp4; with several cameras out-<camera>.mp4. With segment_seconds out-20261121T140102.123Z.mp4 instead, begun anew after so
    many seconds of the frames' time and when the frame size changes; `keep` says how many of these stay besides the current one, for
    each camera. Without, the first frame sets the size and others are fitted into it, and what could be written before the disk was
    full stays: the next try is a segment.
    """

    name = "video"

    def __init__(
        self, path: Path, cameras: Sequence[Camera], *, segment_seconds: float | None = None, keep: Keep = KEEP_ALL
    ) -> None:
        names = [plain_name(camera.name) for camera in cameras]
        self._recordings = {}
        for index, camera in enumerate(cameras):
            again = f"-{index}" if names[index] in names[:index] else ""
            own = path if len(cameras) == 1 else path.with_name(f"{path.stem}-{names[index]}{again}{path.suffix}")
            self._recordings[camera.name] = _Recording(own, camera, segment_seconds, keep)

    def write(self, result: FrameResult) -> None:
        """Append one frame to its camera's video. Raises SinkError where it cannot be written."""
        self._recordings[result.frame.camera].write(result)

    def close(self) -> None:
        """Finish the files."""
        errors = [recording.close() for recording in self._recordings.values()]
        if message := next(filter(None, errors), None):
            raise SinkError(message)


class _Recording:
    """The video of one camera."""

    def __init__(self, path: Path, camera: Camera, segment_seconds: float | None, keep: Keep) -> None:
        self._path, self._camera, self._segment_s, self._keep = path, camera, segment_seconds, keep
        self._writer: VideoWriter | None = None
        self._file: Path | None = None  # the one being written
        self._size, self._start_s = (0, 0), 0.0
        self._kept = False  # what is at the path already is ours
        self._trouble, self._retry_at = "", 0.0

    def write(self, result: FrameResult) -> None:
        if time.monotonic() < self._retry_at:
            raise SinkError(self._trouble)
        image, time_s = result.drawn, result.frame.timestamp_s
        try:
            if self._writer is not None and self._is_over(image, time_s):
                self._finish()
            if self._writer is None:
                self._writer = self._open(result)
            self._writer.write(_fit(image, self._size), time_s)
        except SinkError as error:
            self._give_up(str(error))
            raise
        self._trouble = ""

    def close(self) -> str | None:
        """Finish the file, and return what went wrong."""
        try:
            self._finish()
        except SinkError as error:
            return str(error)
        return None

    def _is_over(self, image: NDArray[np.uint8], time_s: float) -> bool:
        if self._segment_s is None:
            return False
        return not self._start_s <= time_s < self._start_s + self._segment_s or _even(image) != self._size

    def _open(self, result: FrameResult) -> VideoWriter:
        try:
            if self._trouble and shutil.disk_usage(self._path.parent).free < _LEAST_FREE:
                raise SinkError(self._trouble)
            file = self._path
            if self._segment_s is not None or self._kept:
                prune(finished_files(self._path), self._keep)
                file = stamped_path(self._path, result.frame.unix_s or time.time())
        except OSError as error:
            raise cannot_write(self._path, error) from None
        self._file, self._size, self._start_s = file, _even(result.drawn), result.frame.timestamp_s
        fps = self._camera.fps
        return open_video(file, self._size, fps if 0 < fps <= _HIGHEST_FPS else DEFAULT_FPS)

    def _give_up(self, trouble: str) -> None:
        """Leave the file, if it can be played, and wait a while before the next one."""
        self._trouble, self._retry_at = trouble, time.monotonic() + _RETRY_S
        file, writer, self._file, self._writer = self._file, self._writer, None, None
        if writer is not None and writer.playable:
            self._kept = True
        elif file is not None and file.is_file():
            with suppress(OSError):
                file.unlink()

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._file, self._kept = None, None, True


def _even(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the size of the video: yuv420p has colour at half the rows and columns."""
    height, width = image.shape[:2]
    return height + height % 2, width + width % 2


def _fit(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the image in `size`: as it is, with its border repeated to even sides, or letterboxed."""
    height, width = image.shape[:2]
    rows, columns = size[0] - height, size[1] - width
    if rows in (0, 1) and columns in (0, 1):
        return np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge") if rows or columns else image
    return Letterbox(height, width, size[0], size[1]).apply(image)
