"""What the stream makes of a frame's detections: ids, what a user wants to see, counts at lines and zones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detection_filter import DetectionFilter, ResolvedFilter
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.overlay import Overlay
from retinanet_edge.runtime.region_counter import RegionCounter, RegionCounts, RegionEvent
from retinanet_edge.runtime.regions import Line, Zone, of_camera
from retinanet_edge.runtime.tracker import DEFAULT_LOST_S, Tracker
from retinanet_edge.runtime.trails import Trails


@dataclass(frozen=True, eq=False)
class Analysed:
    """A frame's result, which later frames do not change.

    detections: that pass the filter, M of them. track_ids int64 [M], -1 without a track; None where nothing is tracked. events: of this
    frame. counts: so far, as RegionCounter.counts has them. overlay: draws trails and regions; None where nothing is tracked.
    """

    detections: Detections
    track_ids: NDArray[np.int64] | None = None
    events: tuple[RegionEvent, ...] = ()
    counts: RegionCounts = field(default_factory=dict)
    overlay: Overlay | None = None


class Analysis:
    """Filter, tracker, lines and zones of one camera. `apply` belongs to one thread; `settings` may be set from any, at any time.

    class_names, built_in_threshold: of the model's card (nms.score_threshold). tracking: lines and zones need it and bring it. lines,
    zones: those for `camera` are taken. lost_s: see Tracker. Raises UserInputError for classes that the model does not have and for
    regions of one name.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        built_in_threshold: float,
        settings: DetectionFilter,
        *,
        tracking: bool = False,
        lines: Sequence[Line] = (),
        zones: Sequence[Zone] = (),
        camera: str = "",
        lost_s: float = DEFAULT_LOST_S,
    ) -> None:
        self._class_names, self._built_in_threshold = tuple(class_names), built_in_threshold
        self.settings = settings
        lines, zones = of_camera(lines, camera), of_camera(zones, camera)
        self._tracker = Tracker(self._current[1].thresholds, lost_s) if tracking or lines or zones else None
        self._counter = RegionCounter(lines, zones, self._class_names, lost_s) if lines or zones else None
        self._trails = Trails(lost_s)
        self._shape: tuple[int, int] | None = None

    @property
    def settings(self) -> DetectionFilter:
        """What is shown. Setting it raises UserInputError, and changes nothing, for classes that the model does not have."""
        return self._current[0]

    @settings.setter
    def settings(self, settings: DetectionFilter) -> None:
        # One assignment: the thread of `apply` sees the old pair or the new one.
        self._current: tuple[DetectionFilter, ResolvedFilter] = (
            settings, settings.resolved(self._class_names, self._built_in_threshold)
        )  # fmt: skip

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about the settings; a line each."""
        return self._current[1].warnings

    def apply(self, detections: Detections, timestamp_s: float, frame_shape: tuple[int, ...]) -> Analysed:
        """Return what is to be shown and written of a frame; frame_shape: height, width, and what else there may be.

        detections: all that the model gives, in frame pixels: doubtful ones help the tracker. Raises UserInputError where a region is
        outside of the camera's first frame.
        """
        chosen = self._current[1]
        keep = chosen.keep(detections)
        if self._tracker is None:
            return Analysed(detections[keep])
        return self._followed(self._tracker, detections, chosen, keep, timestamp_s, (frame_shape[0], frame_shape[1]))

    def _followed(
        self,
        tracker: Tracker,
        detections: Detections,
        chosen: ResolvedFilter,
        keep: NDArray[np.bool_],
        timestamp_s: float,
        shape: tuple[int, int],
    ) -> Analysed:
        if shape != self._shape:  # boxes of two sizes do not compare
            self._shape = shape
            tracker.end_tracks()
            self._trails.clear()
        tracker.high_threshold = chosen.thresholds
        track_ids = tracker.update(detections, timestamp_s)
        steady = tracker.smoothed(detections, track_ids)
        shown, shown_ids = detections[keep], track_ids[keep]
        trails = tuple(zip(self._trails.update(steady[keep], shown_ids, timestamp_s), shown.classes.tolist(), strict=True))
        if self._counter is None:
            return Analysed(shown, shown_ids, overlay=Overlay(trails))
        fits = chosen.fits(detections)  # a thing that has an id is where it is even while its score is low
        events = self._counter.update(steady[fits], track_ids[fits], timestamp_s, shape)
        counts = self._counter.counts()
        return Analysed(shown, shown_ids, events, counts, Overlay(trails, counts, self._counter.outlines()))
