"""Results as a video: fragmented MP4 with H.264, which browsers play and which stays readable when the process is killed.

A fragment ends at each key frame and is on the disk when the next begins, so a kill costs at most about the last second.
"""

from __future__ import annotations

import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.sinks import FrameResult, cannot_write

_TIME_BASE = Fraction(1, 90_000)  # MPEG's clock: every usual frame rate is a whole number of ticks
_KEY_FRAME_S = 1.0
_ENCODER = "libx264"


class _Writer(Protocol):
    def write(self, image: NDArray[np.uint8], timestamp_s: float) -> None: ...

    def close(self) -> None: ...


class VideoSink:
    """Drawn frames as MP4 at the recording's own times. The first frame sets the size; others are fitted into it."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._size = (0, 0)
        self._writer: _Writer | None = None

    def write(self, result: FrameResult) -> None:
        """Append one frame. Raises UserInputError where the disk is full."""
        image = result.drawn
        if self._writer is None:
            height, width = image.shape[:2]
            self._size = (height + height % 2, width + width % 2)  # yuv420p: colour has half the rows and columns
            self._writer = _open_writer(self._path, self._size, self._fps)
        self._writer.write(_fit(image, self._size), result.frame.timestamp_s)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


def _open_writer(path: Path, size: tuple[int, int], fps: float) -> _Writer:
    try:
        import av

        av.Codec(_ENCODER, "w")
    except (ImportError, ValueError) as reason:  # ValueError: PyAV's UnknownCodecError
        print(
            f"{path}: MPEG-4 by OpenCV instead of H.264 ({reason}): browsers do not play it, nor is it readable after a kill",
            file=sys.stderr,
        )
        return _OpenCVWriter(path, size, fps)
    return _H264Writer(path, size, fps)


class _H264Writer:
    """Fragmented MP4 by PyAV."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        import av

        self._path, self._failed, self._closed = path, False, False
        self._start_s, self._last_ticks, self._key_frame_at = 0.0, -1, -_KEY_FRAME_S
        flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
        try:
            self._container = av.open(str(path), "w", format="mp4", options=flags)
        except OSError as error:
            raise cannot_write(path, error) from None
        self._stream = self._container.add_stream(_ENCODER, rate=Fraction(fps).limit_denominator(1001))
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _TIME_BASE
        self._stream.codec_context.gop_size = max(1, round(fps * _KEY_FRAME_S))
        # Without look-ahead (zerolatency) no frame waits in the encoder when the process is killed.
        self._stream.codec_context.options = {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}

    def write(self, image: NDArray[np.uint8], timestamp_s: float) -> None:
        """Encode one frame of the size, at its time since the first one."""
        import av

        if self._last_ticks < 0:
            self._start_s = timestamp_s
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        # Times must grow, whatever a broken recording says.
        self._last_ticks = max(self._last_ticks + 1, round((timestamp_s - self._start_s) / _TIME_BASE))
        frame.pts, frame.time_base = self._last_ticks, _TIME_BASE
        if time.monotonic() - self._key_frame_at >= _KEY_FRAME_S:  # a slow stream's group of pictures would take long to fill
            frame.pict_type = av.video.frame.PictureType.I
            self._key_frame_at = time.monotonic()
        self._mux(frame)

    def close(self) -> None:
        """Write what the encoder holds and end the file."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._failed:
                self._mux(None)
            self._container.close()
        except OSError as error:
            if not self._failed:  # else said already: what is on the disk stays readable
                raise cannot_write(self._path, error) from None

    def _mux(self, frame: object) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except OSError as error:
            self._failed = True
            raise cannot_write(self._path, error) from None


class _OpenCVWriter:
    """MP4 with MPEG-4 part 2 by OpenCV, at a constant frame rate: the fallback."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        import cv2

        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size[::-1])
        if not self._writer.isOpened():
            raise UserInputError(f"cannot write {path}: this OpenCV has no video encoder: run pip install av")

    def write(self, image: NDArray[np.uint8], timestamp_s: float) -> None:  # noqa: ARG002 - the format has no times
        """Encode one frame of the size."""
        self._writer.write(image)

    def close(self) -> None:
        """End the file."""
        self._writer.release()


def _fit(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the image in `size`: as it is, with its border repeated to even sides, or letterboxed."""
    height, width = image.shape[:2]
    rows, columns = size[0] - height, size[1] - width
    if rows in (0, 1) and columns in (0, 1):
        return np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge") if rows or columns else image
    return Letterbox(height, width, size[0], size[1]).apply(image)
