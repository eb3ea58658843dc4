"""What a camera does, in the log: each change of state a line, and no flood from one that fails in the same way for days."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from retinanet_edge.runtime.camera import CameraState

_AGAIN_AFTER_S = 60.0
_LEVELS = {CameraState.STALE: logging.WARNING, CameraState.BACKOFF: logging.WARNING, CameraState.FAILED: logging.ERROR}
_log = logging.getLogger("retinanet_edge.camera")


class CameraLog:
    """The log of one camera."""

    def __init__(self, camera: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._camera, self._clock = camera, clock
        self._shown: CameraState | None = None  # by the last line
        self._logged_s: dict[tuple[CameraState, CameraState, str], float] = {}  # of the last minute

    def change(self, old: CameraState, new: CameraState, reason: str = "", detail: str = "") -> None:
        """Log a change of state, but the same one for the same reason only once a minute; `detail` may differ.

        That a camera runs again is said after every failure that was.
        """
        now_s = self._clock()
        self._logged_s = {key: at_s for key, at_s in self._logged_s.items() if now_s - at_s < _AGAIN_AFTER_S}
        mended = new is CameraState.RUNNING and self._shown is not CameraState.RUNNING
        if (old, new, reason) in self._logged_s and not mended:
            return
        self._shown = new
        self._logged_s[old, new, reason] = now_s
        why = f": {reason}{detail}" if reason else ""
        _log.log(_LEVELS.get(new, logging.INFO), "camera %s: %s -> %s%s", self._camera, old.value, new.value, why)
