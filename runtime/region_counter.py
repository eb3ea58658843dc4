"""What tracked things do at the lines and in the zones of one camera: counts, and an event for each crossing, entering and leaving.

A thing is where its anchor is, the middle of its box's lower side: where it stands. A box trembles from frame to frame, the more the larger
it is, so what counts is only what goes further than a margin: a line is crossed once the thing is clearly beside it on the other side, a
zone is left once the thing is clearly outside.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.regions import Line, Point, Zone, check_names, fractions, segments_touch
from retinanet_edge.runtime.tracker import DEFAULT_LOST_S

_MARGIN = 0.1  # of the mean of the box's sides

RegionCounts = Mapping[str, Mapping[str, Mapping[str, object]]]
EventKind = Literal["crossed_in", "crossed_out", "entered", "left"]


@dataclass(frozen=True)
class RegionEvent:
    """One thing did something at one region. stay_s: of "left", the seconds it was inside; None of all others."""

    kind: EventKind
    region: str
    track_id: int
    class_name: str
    timestamp_s: float
    stay_s: float | None = None


@dataclass
class _Crossings:
    """A line and what has crossed it by class."""

    name: str
    place: NDArray[np.float64]  # [2, 2], fractions of the frame
    inward: Counter[str] = field(default_factory=Counter)
    outward: Counter[str] = field(default_factory=Counter)


@dataclass
class _Stays:
    """A zone and what was in it by class."""

    name: str
    place: NDArray[np.float64]  # [n, 2], fractions of the frame
    entered: Counter[str] = field(default_factory=Counter)
    left: int = 0
    left_stay_s: float = 0.0  # sum


class _Place(NamedTuple):
    """Where a thing is, and how far it has to be from a region's border to be clearly on one side; pixels."""

    anchor: Point
    margin: float


@dataclass
class _Seen:
    """A track that has not ended, and what there is to know for each line and zone."""

    class_name: str
    seen_s: float
    beside: list[tuple[Point, bool] | None]  # where it was last clearly beside a line, and whether to its right
    since_s: list[float | None]  # since when it is inside a zone
    counted: list[bool]  # whether a zone has counted it


class RegionCounter:
    """Counts at the regions of one camera. Not for several threads. Holds only tracks seen in the last `forget_s` seconds.

    Raises UserInputError where two regions have one name.
    """

    def __init__(
        self, lines: Sequence[Line], zones: Sequence[Zone], class_names: Sequence[str], forget_s: float = DEFAULT_LOST_S
    ) -> None:
        check_names((*lines, *zones))
        self._regions, self._class_names, self._forget_s = (tuple(lines), tuple(zones)), class_names, forget_s
        self._lines: list[_Crossings] = []
        self._zones: list[_Stays] = []
        self._tracks: dict[int, _Seen] = {}
        self._shape: tuple[int, int] | None = None
        self._now_s = 0.0

    def __len__(self) -> int:
        return len(self._tracks)

    def update(
        self, detections: Detections, track_ids: NDArray[np.int64], timestamp_s: float, frame_shape: tuple[int, int]
    ) -> tuple[RegionEvent, ...]:
        """Return what happened by this frame of frame_shape (height, width). track_ids [M]: -1 of those without, which do nothing.

        Raises UserInputError where a region is outside of the first frame; in later sizes, regions keep their place in the picture.
        """
        resized = frame_shape != self._shape
        self._set_shape(frame_shape)
        events = [event for track_id in self._ended(timestamp_s, all_of_them=resized) for event in self._forget(track_id)]
        self._now_s = timestamp_s
        for index in np.flatnonzero(track_ids >= 0):
            left, top, right, bottom = detections.xyxy[index].tolist()
            place = _Place(((left + right) / 2, bottom), _MARGIN * (right - left + bottom - top) / 2)
            events += self._move(int(track_ids[index]), self._class_names[detections.classes[index]], place)
        return tuple(events)

    def outlines(self) -> dict[str, NDArray[np.float64]]:
        """Return the points [n, 2] of each region in pixels of the last frame; two of a line, more of a zone."""
        lines = {line.name: line.place * self._scale for line in self._lines}
        return lines | {zone.name: zone.place * self._scale for zone in self._zones}

    def counts(self) -> RegionCounts:
        """Return the counts as JSON takes them: {"lines": {name: {...}}, "zones": {name: {...}}}.

        Of a line "in" and "out", {class: how many}. Of a zone "inside", now, and "entered", different tracks since the beginning, {class:
        how many}; "mean_stay_s" of stays that have ended, None before; "longest_stay_s" of what is inside now, 0 where nothing is.
        """
        lines = {crossings.name: {"in": dict(crossings.inward), "out": dict(crossings.outward)} for crossings in self._lines}
        zones = {stays.name: self._zone_counts(index, stays) for index, stays in enumerate(self._zones)}
        return {"lines": lines, "zones": zones}

    def _zone_counts(self, index: int, stays: _Stays) -> dict[str, object]:
        inside: Counter[str] = Counter()
        longest = 0.0
        for track in self._tracks.values():
            since = track.since_s[index]
            if since is not None:
                inside[track.class_name] += 1
                longest = max(longest, self._now_s - since)
        return {
            "inside": dict(inside),
            "entered": dict(stays.entered),
            "mean_stay_s": round(stays.left_stay_s / stays.left, 3) if stays.left else None,
            "longest_stay_s": round(longest, 3),
        }

    def _set_shape(self, shape: tuple[int, int]) -> None:
        if shape == self._shape:
            return
        height, width = shape
        if self._shape is None:
            lines, zones = self._regions
            self._lines = [_Crossings(line.name, fractions(line, height, width)) for line in lines]
            self._zones = [_Stays(zone.name, fractions(zone, height, width)) for zone in zones]
        self._shape, self._scale = shape, np.array([width, height])
        self._ends = [tuple(tuple(point) for point in (line.place * self._scale).tolist()) for line in self._lines]
        self._contours = [(zone.place * self._scale).astype(np.float32) for zone in self._zones]

    def _ended(self, timestamp_s: float, *, all_of_them: bool) -> list[int]:
        return [
            track_id for track_id, track in self._tracks.items() if all_of_them or not 0 <= timestamp_s - track.seen_s <= self._forget_s
        ]

    def _forget(self, track_id: int) -> Iterator[RegionEvent]:
        """A thing that is not seen any more leaves the zones when it was last seen."""
        track = self._tracks.pop(track_id)
        for index, since in enumerate(track.since_s):
            if since is not None:
                yield self._leave(index, track_id, track, since)

    def _move(self, track_id: int, class_name: str, place: _Place) -> Iterator[RegionEvent]:
        if track_id not in self._tracks:
            lines, zones = len(self._lines), len(self._zones)
            self._tracks[track_id] = _Seen(class_name, self._now_s, [None] * lines, [None] * zones, [False] * zones)
        track = self._tracks[track_id]
        track.seen_s = self._now_s
        for index in range(len(self._lines)):
            yield from self._cross(index, track_id, track, place)
        for index in range(len(self._zones)):
            yield from self._visit(index, track_id, track, place)

    def _cross(self, index: int, track_id: int, track: _Seen, place: _Place) -> Iterator[RegionEvent]:
        start, end = self._ends[index]
        distance = _distance_to_the_right(start, end, place.anchor)
        if abs(distance) < place.margin:
            return
        before, track.beside[index] = track.beside[index], (place.anchor, distance > 0)
        if before is None or before[1] == (distance > 0):
            return
        if segments_touch(before[0], place.anchor, start, end):  # else it went round the line's end
            crossings = self._lines[index]
            (crossings.inward if distance > 0 else crossings.outward)[track.class_name] += 1
            kind: EventKind = "crossed_in" if distance > 0 else "crossed_out"
            yield RegionEvent(kind, crossings.name, track_id, track.class_name, self._now_s)

    def _visit(self, index: int, track_id: int, track: _Seen, place: _Place) -> Iterator[RegionEvent]:
        import cv2

        depth = cv2.pointPolygonTest(self._contours[index], place.anchor, True)  # pixels, positive inside
        stays, since = self._zones[index], track.since_s[index]
        if since is None and depth >= 0:
            track.since_s[index] = self._now_s
            stays.entered[track.class_name] += not track.counted[index]
            track.counted[index] = True
            yield RegionEvent("entered", stays.name, track_id, track.class_name, self._now_s)
        elif since is not None and depth < -place.margin:
            yield self._leave(index, track_id, track, since)

    def _leave(self, index: int, track_id: int, track: _Seen, since_s: float) -> RegionEvent:
        stays, stay_s = self._zones[index], track.seen_s - since_s
        track.since_s[index] = None
        stays.left += 1
        stays.left_stay_s += stay_s
        return RegionEvent("left", stays.name, track_id, track.class_name, track.seen_s, round(stay_s, 3))


def _distance_to_the_right(start: Point, end: Point, point: Point) -> float:
    """Return the pixels from the endless line through `start` and `end`: positive to its right, for who walks along it in the picture."""
    along = end[0] - start[0], end[1] - start[1]
    turn = along[0] * (point[1] - start[1]) - along[1] * (point[0] - start[0])
    return turn / math.hypot(*along)
