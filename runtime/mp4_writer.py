"""Images into one video file: fragmented MP4 with H.264, which browsers play and which stays readable when the process is killed.

A fragment ends at each key frame and is on the disk when the next begins, so a kill costs at most about the last second.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.output_paths import cannot_write
from retinanet_edge.runtime.sink import SinkError

_LOG = logging.getLogger("retinanet_edge.sink")
_TIME_BASE = Fraction(1, 90_000)  # MPEG's clock: every usual frame rate is a whole number of ticks
_KEY_FRAME_S = 1.0
_BACK_S = 1.0  # a recording's time may stutter; what goes back by more has begun again
_LAST_BOX_BYTES = 16  # ISO/IEC 14496-12, 8.8.11
_ENCODER = "libx264"


class VideoWriter(Protocol):
    """One file."""

    @property
    def playable(self) -> bool:
        """Whether something of it can be played if nothing more is written."""

    def write(self, image: NDArray[np.uint8], timestamp_s: float) -> None:
        """Append an image of the file's size. Raises SinkError where it cannot be written; the file is at its end then."""

    def close(self) -> None:
        """Finish the file; may be called twice. Raises SinkError where its end cannot be written."""


def open_video(path: Path, size: tuple[int, int], fps: float) -> VideoWriter:
    """Begin a video of `size` (even height, even width), over a file that is there. Raises SinkError where it cannot be written."""
    try:
        import av

        av.Codec(_ENCODER, "w")
    except (ImportError, ValueError) as reason:  # ValueError: PyAV's UnknownCodecError
        _LOG.warning(
            "%s: MPEG-4 by OpenCV instead of H.264 (%s): browsers do not play it, nor is it readable after a kill", path, reason
        )
        return _OpenCVWriter(path, size, fps)
    return _H264Writer(path, size, fps)


class _H264Writer:
    """Fragmented MP4 by PyAV, with the images' own times."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        import av

        self._path, self._fps, self._closed = path, fps, False
        self._key_frames, self._whole_bytes = 0, 0
        self._start_s, self._last_s, self._last_ticks, self._key_frame_at = 0.0, 0.0, -1, -_KEY_FRAME_S
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

    @property
    def playable(self) -> bool:
        """Whether a fragment is on the disk."""
        return self._whole_bytes > 0

    def write(self, image: NDArray[np.uint8], timestamp_s: float) -> None:
        """Encode one image at its time since the first one."""
        import av

        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame.pts, frame.time_base = self._ticks(timestamp_s), _TIME_BASE
        if time.monotonic() - self._key_frame_at >= _KEY_FRAME_S:  # a slow stream's group of pictures would take long to fill
            frame.pict_type = av.video.frame.PictureType.I
            self._key_frame_at = time.monotonic()
        with self._said():
            self._mux(frame)

    def close(self) -> None:
        """Write what the encoder holds and end the file."""
        if not self._closed:
            with self._said():
                self._mux(None)
                self._container.close()
                self._check_end()
            self._closed = True

    def _ticks(self, timestamp_s: float) -> int:
        """Return the time as it stands in the file: it grows, whatever a broken recording says."""
        if self._last_ticks < 0:
            self._start_s = timestamp_s
        elif timestamp_s < self._last_s - _BACK_S:
            self._start_s = timestamp_s - self._last_ticks * float(_TIME_BASE) - 1 / self._fps
        self._last_s = timestamp_s
        self._last_ticks = max(self._last_ticks + 1, round((timestamp_s - self._start_s) / _TIME_BASE))
        return self._last_ticks

    def _mux(self, frame: object) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
            self._key_frames += packet.is_keyframe
            if packet.is_keyframe and self._key_frames > 1:  # which has sent the fragment before it to the disk
                self._whole_bytes = self._path.stat().st_size

    def _check_end(self) -> None:
        """Raise OSError where the last box of a fragmented MP4 is missing: of a disk that is full by now, PyAV says nothing."""
        if self._path.is_file():
            with self._path.open("rb") as file:
                file.seek(max(0, self._path.stat().st_size - _LAST_BOX_BYTES))
                if b"mfro" not in file.read():
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Turn what FFmpeg raises into SinkError. The file is given up, with the fragments that are whole."""
        import av

        failures = (OSError, av.error.FFmpegError)
        try:
            yield
        except failures as error:
            self._closed = True
            with suppress(*failures):
                self._container.close()
            with suppress(OSError):
                os.truncate(self._path, self._whole_bytes)
            raise cannot_write(self._path, error) from None


class _OpenCVWriter:
    """MP4 with MPEG-4 part 2 by OpenCV, at a constant frame rate: the fallback."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        import cv2

        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size[::-1])
        if not self._writer.isOpened():
            raise SinkError(f"cannot write {path}: the disk is full, or this OpenCV has no video encoder: run pip install av")

    @property
    def playable(self) -> bool:
        """Only when it is closed."""
        return False

    def write(self, image: NDArray[np.uint8], timestamp_s: float) -> None:  # noqa: ARG002 - the format has no times
        """Encode one image."""
        self._writer.write(image)

    def close(self) -> None:
        """End the file."""
        self._writer.release()
