"""Which frames go through the engine next: at most one of each camera, every camera in its turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from retinanet_edge.runtime.camera import Camera, CameraState
from retinanet_edge.runtime.frame import Frame

_CHECK_S = 0.1  # how often somebody who waits looks whether all has ended
OVER = (CameraState.ENDED, CameraState.FAILED)


class FrameGather:
    """Takes frames from cameras for one batch after the other. A camera that gives nothing is passed over, never waited for.

    frame_ready: set by every camera when a frame or its end has come. most: frames of one batch.
    """

    def __init__(self, cameras: Sequence[Camera], frame_ready: threading.Event, most: int) -> None:
        self._cameras, self._frame_ready, self._most = list(cameras), frame_ready, most
        self._stopped = False

    def next(self) -> list[Frame]:
        """Wait for a frame and return it with those that other cameras have by then; nothing once no camera will give any."""
        while True:
            self._frame_ready.clear()
            # Asked before the frames are: one that comes in between is taken, not lost with the end.
            over = self._stopped or all(camera.status.state in OVER for camera in self._cameras)
            if frames := self._take():
                return frames
            if over:
                return []
            self._frame_ready.wait(_CHECK_S)

    def wait(self, seconds: float) -> None:
        """Let time go by, for newer frames; where all are recordings nothing gets newer, and nobody waits."""
        if seconds > 0 and not self._stopped and any(camera.live for camera in self._cameras):
            time.sleep(seconds)

    def skip_waiting(self) -> None:
        """Drop the frames that live cameras gave before there was anybody to take them: they are old, and counted with what was before."""
        for camera in self._cameras:
            if camera.live:
                camera.take()

    def stop(self) -> None:
        """Let `next` come to an end. May be called from a signal handler."""
        self._stopped = True

    def _take(self) -> list[Frame]:
        if self._stopped:
            return []
        frames: list[Frame] = []
        for _ in range(len(self._cameras)):
            camera = self._cameras.pop(0)
            self._cameras.append(camera)
            if frame := camera.take():
                # A recording's frame lay ready for as long as nobody wanted it: its age begins here.
                frames.append(frame if camera.live else replace(frame, arrived_s=time.perf_counter()))
            if len(frames) == self._most:
                break
        return frames
