"""A camera's picture for whoever watches: drawn, scaled and encoded at most once a frame, at a limited rate, and only while asked for."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import NamedTuple

from retinanet_edge.runtime.sink import FrameResult
from retinanet_edge.runtime.web_frames import LatestFrames

_MOST_FPS = 15.0
_MOST_SENDS = 600.0  # pictures a second over all viewers: with more than 40 of them each gets fewer, and inference keeps its processor
_MOST_WIDTH = 960  # pixels
_QUALITY = 80


class Picture(NamedTuple):
    """A JPEG. number: as of LatestFrames, 0 for none yet. jpeg: empty for none yet."""

    number: int
    jpeg: bytes


class LiveView:
    """One camera's newest picture. Lives on one event loop; the encoder's threads do the work."""

    def __init__(self, frames: LatestFrames, camera: str, encoder: Executor) -> None:
        self._frames, self._camera, self._encoder = frames, camera, encoder
        self._due_s = 0.0  # by the loop's clock: no picture is encoded before
        self._next: asyncio.Task[Picture] | None = None
        self.picture = Picture(0, b"")

    async def newer_than(self, seen: int, viewers: int = 1) -> Picture:
        """Return the newest picture once its number differs from `seen`; the rate is divided among so many viewers.

        Pictures are made for all who wait together: whoever comes late gets the newest, nobody gets a backlog.
        """
        if self.picture.number not in (0, seen) and not self._outdated():
            return self.picture
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._encode_next(max(1 / _MOST_FPS, viewers / _MOST_SENDS)))
        return await asyncio.shield(self._next)  # one viewer who leaves takes nothing from the others

    def close(self) -> None:
        """Stop waiting for pictures."""
        if self._next is not None:
            self._next.cancel()

    def _outdated(self) -> bool:
        newest = self._frames.newest(self._camera)
        due = asyncio.get_running_loop().time() >= self._due_s
        return due and newest is not None and newest.number != self.picture.number

    async def _encode_next(self, interval_s: float) -> Picture:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._due_s - loop.time())
        number, result = await self._newer_result()
        self._due_s = loop.time() + interval_s
        self.picture = Picture(number, await loop.run_in_executor(self._encoder, encode_jpeg, result))
        return self.picture

    async def _newer_result(self) -> tuple[int, FrameResult]:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake(_: FrameResult) -> None:
            loop.call_soon_threadsafe(arrived.set)

        with self._frames.listening(wake):
            while (newest := self._frames.newest(self._camera)) is None or newest.number == self.picture.number:
                arrived.clear()
                await arrived.wait()
        return newest


def encode_jpeg(result: FrameResult, width: int = _MOST_WIDTH) -> bytes:
    """Return the result drawn on its frame as JPEG, scaled down to at most `width` pixels."""
    import cv2

    drawn = result.drawn
    if drawn.shape[1] > width:
        height = max(1, round(drawn.shape[0] * width / drawn.shape[1]))
        drawn = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])
