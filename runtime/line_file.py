"""A file of lines that are there whole or not at all, whatever the disk does, begun anew when it is full."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from retinanet_edge.runtime.output_paths import cannot_write
from retinanet_edge.runtime.rotation import Rotation, finished_files, prune, stamped_path


class LineFile:
    """Appends lines to `path`, unbuffered. The first line opens it, so that a stream that never starts leaves nothing behind.

    Without a rotation a file that is there is overwritten. With one it is kept under the time of its last line, as are the files that
    became full; `path` is always the current one. header: stands at the top of each file.
    """

    def __init__(self, path: Path, rotation: Rotation | None = None, header: bytes = b"") -> None:
        self._path, self._rotation, self._header = path, rotation, header
        self._stream: BinaryIO | None = None
        self._begun = False  # by this process
        self._size, self._begun_at = 0, 0.0  # bytes of whole lines; monotonic seconds

    def append(self, lines: bytes) -> None:
        """Write whole lines. Raises SinkError where none of them could be; the next call opens the file again."""
        try:
            if self._begun and self._is_full(len(lines)):
                self._finish()
            if self._stream is None:
                self._stream = self._open()
            self._write(self._stream, lines if self._size else self._header + lines)
        except OSError as error:
            self.close()
            raise cannot_write(self._path, error) from None

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._stream is not None:
            with suppress(OSError):  # nothing is buffered here: what was said to be written is
                self._stream.close()
            self._stream = None

    def _is_full(self, coming: int) -> bool:
        if self._rotation is None or not self._size:
            return False
        size, seconds = self._rotation.max_size, self._rotation.max_seconds
        return (size is not None and self._size + coming > size) or (
            seconds is not None and time.monotonic() - self._begun_at >= seconds
        )

    def _finish(self) -> None:
        """Put the current file aside, and delete the oldest ones of those."""
        assert self._rotation is not None
        self.close()
        if self._path.is_file() and self._path.stat().st_size:
            self._path.rename(stamped_path(self._path, self._path.stat().st_mtime))
        self._begun, self._size = False, 0
        prune(finished_files(self._path), self._rotation.keep)

    def _open(self) -> BinaryIO:
        if not self._begun:
            if self._rotation is not None:
                self._finish()  # what an earlier process left
            self._begun_at = time.monotonic()
        stream = self._path.open("ab" if self._begun else "wb", buffering=0)
        self._begun = True
        size = os.fstat(stream.fileno()).st_size
        if size > self._size:  # half a line, which a failing disk did not let us take back
            stream.truncate(self._size)
        self._size = min(size, self._size)
        return stream

    def _write(self, stream: BinaryIO, lines: bytes) -> None:
        written = 0
        try:
            while written < len(lines):
                written += stream.write(lines[written:])
        except OSError:
            if written:
                with suppress(OSError):  # tried again when the file is next opened
                    stream.truncate(self._size)
            raise
        self._size += written
