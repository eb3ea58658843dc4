"""Pictures of what was found: the drawn frame, and each new object cut out of the plain one."""

from __future__ import annotations

import re
import time
from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.model_folder import write_atomically
from retinanet_edge.runtime.output_paths import cannot_write, plain_name, utc_stamp
from retinanet_edge.runtime.region_counter import RegionEvent
from retinanet_edge.runtime.rotation import STAMP, Keep, prune
from retinanet_edge.runtime.sink import FrameResult

KEEP_1000 = Keep(files=1000)
ON = ("tracks", "events", "detections")
_MINUTE_S = 60.0
_REMEMBERED = 10_000  # tracks that have their picture
_MARGIN = 0.1  # of a box, on each side


class SnapshotSink:
    """JPEG files in `folder`, each there whole or not at all: <UTC time>-<camera>.jpg and <UTC time>-<camera>-<class>-<number>.jpg.

    on: "tracks" takes a picture when a new track is seen (nothing without tracking), "events" when something happens at a line or zone,
    "detections" every `every_s` seconds of a camera's time while something is detected. At most `per_minute` frames are taken; a track
    that came in between gets its picture later, while it is in view. The number of a crop is its track or, untracked, its place in
    the frame. keep: what stays of all these files.
    """

    name = "snapshots"

    def __init__(
        self, folder: Path, on: str = "tracks", *, every_s: float = 10.0, per_minute: int = 30, keep: Keep = KEEP_1000
    ) -> None:
        if on not in ON:
            raise ValueError(f"on must be one of {', '.join(ON)}, got {on}")
        self._folder, self._on, self._every_s, self._keep = folder, on, every_s, keep
        self._taken_at: deque[float] = deque([-_MINUTE_S] * per_minute, per_minute)  # monotonic seconds
        self._last_s: dict[str, float] = {}  # camera -> time of its last picture
        self._pictured: dict[tuple[str, int], None] = {}  # camera and track, oldest first

    def write(self, result: FrameResult) -> None:
        """Take a picture if this frame deserves one. Raises SinkError where it cannot be written; it is tried again then."""
        wanted = self._wanted(result)
        if wanted is None or time.monotonic() - self._taken_at[0] < _MINUTE_S:
            return
        try:
            self._folder.mkdir(exist_ok=True)
            self._take(result, wanted)
            prune(self._pictures(), self._keep)
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        self._remember(result, wanted)

    def close(self) -> None:
        """Do nothing: each picture is finished when it is taken."""

    def _wanted(self, result: FrameResult) -> list[int] | None:
        """Return the detections to cut out, None where the frame deserves no picture."""
        camera, every = result.frame.camera, list(range(len(result.detections)))
        tracks = [-1] * len(every) if result.track_ids is None else result.track_ids.tolist()
        if self._on == "events":
            actors = {event.track_id for event in result.events if isinstance(event, RegionEvent)}
            return [index for index in every if tracks[index] in actors] if result.events else None
        if self._on == "tracks":
            return [index for index in every if tracks[index] >= 0 and (camera, tracks[index]) not in self._pictured] or None
        last_s = self._last_s.get(camera)
        due = last_s is None or abs(result.frame.timestamp_s - last_s) >= self._every_s
        return every if every and due else None

    def _take(self, result: FrameResult, wanted: list[int]) -> None:
        camera = plain_name(result.frame.camera)
        stem = f"{utc_stamp(result.frame.unix_s or time.time())}-{camera}"
        for index in wanted:
            crop = _crop(result.frame.image, result.detections.xyxy[index])
            if crop.size:
                label = plain_name(result.class_names[result.detections.classes[index]])
                number = index if result.track_ids is None else result.track_ids[index]
                write_atomically(self._folder / f"{stem}-{label}-{number}.jpg", _jpeg(crop))
        write_atomically(self._folder / f"{stem}.jpg", _jpeg(result.drawn))

    def _remember(self, result: FrameResult, wanted: list[int]) -> None:
        camera = result.frame.camera
        self._taken_at.append(time.monotonic())
        self._last_s[camera] = result.frame.timestamp_s
        if result.track_ids is not None:
            self._pictured.update(((camera, int(result.track_ids[index])), None) for index in wanted)
        while len(self._pictured) > _REMEMBERED:
            del self._pictured[next(iter(self._pictured))]

    def _pictures(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if re.fullmatch(rf"{STAMP}-.+\.jpg", path.name))


def _crop(image: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the part of the image in an xyxy box [4], with a margin; empty where the box is outside."""
    left, top, right, bottom = (float(side) for side in box)
    margin_x, margin_y = _MARGIN * (right - left), _MARGIN * (bottom - top)
    rows = slice(max(0, int(top - margin_y)), max(0, int(np.ceil(bottom + margin_y))))
    columns = slice(max(0, int(left - margin_x)), max(0, int(np.ceil(right + margin_x))))
    return image[rows, columns]


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    import cv2

    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])
