"""Where tracked things have been in the last moments, to be drawn behind them."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.tracker import DEFAULT_LOST_S

_LENGTH_S = 1.5
_MOST_POINTS = 60  # of one trail, whatever the frame rate

Trail = tuple[tuple[float, float, float], ...]  # time, x, y in frame pixels; oldest first


class Trails:
    """The anchors (middle of the lower side) of tracks seen in the last `forget_s` seconds; nothing of other tracks is held."""

    def __init__(self, forget_s: float = DEFAULT_LOST_S) -> None:
        self._forget_s = forget_s
        self._points: dict[int, deque[tuple[float, float, float]]] = {}

    def __len__(self) -> int:
        return len(self._points)

    def clear(self) -> None:
        """Forget all."""
        self._points.clear()

    def update(self, detections: Detections, track_ids: NDArray[np.int64], timestamp_s: float) -> tuple[Trail, ...]:
        """Return the trail of each detection, with where it is now at its end; without points where track_ids [M] is -1."""
        for track_id in [known for known, points in self._points.items() if not 0 <= timestamp_s - points[-1][0] <= self._forget_s]:
            del self._points[track_id]
        return tuple(
            self._extend(track_id, box, timestamp_s) for track_id, box in zip(track_ids.tolist(), detections.xyxy.tolist(), strict=True)
        )

    def _extend(self, track_id: int, box: list[float], timestamp_s: float) -> Trail:
        if track_id < 0:
            return ()
        points = self._points.setdefault(track_id, deque(maxlen=_MOST_POINTS))
        while points and timestamp_s - points[0][0] > _LENGTH_S:
            points.popleft()
        points.append((timestamp_s, (box[0] + box[2]) / 2, box[3]))
        return tuple(points)
