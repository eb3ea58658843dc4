"""Detections of every frame as server-sent events: one text a frame, a queue for each client, dropped and counted where it is slow."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from retinanet_edge.runtime.result_json import as_json
from retinanet_edge.runtime.sink import FrameResult
from retinanet_edge.runtime.web_frames import LatestFrames

_QUEUE = 64  # events: about two seconds


class EventClient:
    """What waits for one client: at most 64 events, the oldest making room for new ones."""

    def __init__(self, camera: str | None) -> None:
        self.camera = camera
        self._waiting: deque[bytes] = deque(maxlen=_QUEUE)
        self._dropped = 0
        self._arrived = asyncio.Event()

    def put(self, event: bytes) -> int:
        """Queue an event, and return how many were dropped for it: 0 or 1."""
        dropped = int(len(self._waiting) == _QUEUE)
        self._dropped += dropped
        self._waiting.append(event)
        self._arrived.set()
        return dropped

    async def take(self) -> bytes:
        """Wait for events and return all that there are, as text; what was dropped before them is an event of its own."""
        await self._arrived.wait()
        self._arrived.clear()
        told = b"event: dropped\ndata: %d\n\n" % self._dropped if self._dropped else b""
        text = told + b"".join(self._waiting)
        self._waiting.clear()
        self._dropped = 0
        return text


class EventFeed:
    """Gives each result to all clients. Lives on one event loop; listens to the stream only while there are clients."""

    def __init__(self, frames: LatestFrames) -> None:
        self._frames, self._listening = frames, ExitStack()
        self._clients: set[EventClient] = set()
        self.dropped = 0

    @contextmanager
    def client(self, camera: str | None) -> Iterator[EventClient]:
        """Add a client, of one camera or (None) of all, until the context ends."""
        loop = asyncio.get_running_loop()

        def listen(result: FrameResult) -> None:
            loop.call_soon_threadsafe(self._deliver, result.frame.camera, event_text(result))

        if not self._clients:
            self._listening.enter_context(self._frames.listening(listen))
        client = EventClient(camera)
        self._clients.add(client)
        try:
            yield client
        finally:
            self._clients.remove(client)
            if not self._clients:
                self._listening.close()

    def _deliver(self, camera: str, event: bytes) -> None:
        for client in self._clients:
            if client.camera in (None, camera):
                self.dropped += client.put(event)


def event_text(result: FrameResult) -> bytes:
    """Return a result as one event: the object that a JSON line holds."""
    return b"data: " + json.dumps(as_json(result)).encode() + b"\n\n"
