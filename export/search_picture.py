"""What keeping layers out of INT8 buys and costs, as a picture: AP and time of a call over the number of layers kept.

Plain SVG: nothing that draws is at hand on every machine that quantizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from retinanet_edge.export.layer_search import Found, Trial
from retinanet_edge.runtime.model_folder import REPORT_FOLDER, write_atomically

SEARCH_PICTURE = "int8_search.svg"
WIDTH, HEIGHT = 720, 540
_LEFT, _RIGHT, _TOPS, _PANEL = 84, 24, (52, 300), 176
_TICK_GAP = 26  # pixels that the label of a tick takes
_AP_COLOR, _TIME_COLOR, _LIMIT_COLOR = "#1668c7", "#b35c00", "#b3261e"


def write_search_picture(folder: Path, found: Found, max_ap_drop: float) -> Path:
    """Write the picture into the report of a model folder and return its path; max_ap_drop on the 0..1 scale."""
    path = folder / REPORT_FOLDER / SEARCH_PICTURE
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, draw(found.trials, len(found.kept), max_ap_drop).encode())
    return path


def draw(trials: Sequence[Trial], chosen: int, max_ap_drop: float) -> str:
    """Return the SVG. trials: by layers kept, the last with all of them. chosen: the number that is ringed."""
    layers, fp32_ap = trials[-1].kept, trials[-1].ap
    title, least = f"{chosen} of {layers} layers kept out of INT8 (ringed)", fp32_ap - max_ap_drop
    ap = _Panel(trials, [trial.ap for trial in trials], _TOPS[0], extra=(least,))
    time = _Panel(trials, [trial.milliseconds for trial in trials], _TOPS[1], extra=(0,))
    parts = [
        _text(_LEFT, 28, title, size=18, anchor="start"),
        *ap.lines("AP, validation", "{:.4f}", _AP_COLOR, chosen),
        *ap.level(least, f"{100 * max_ap_drop:.2f} points below FP32", _LIMIT_COLOR),
        *time.lines("ms a call, CPU", "{:.1f}", _TIME_COLOR, chosen),
        _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 14, "layers kept, the last point is FP32"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


class _Panel:
    """One curve over log2(1 + layers kept), which gives trials at 1, 2, 4, ... even steps."""

    def __init__(self, trials: Sequence[Trial], values: Sequence[float], top: float, extra: tuple[float, ...]) -> None:
        self._counts, self._values, self._top = [trial.kept for trial in trials], values, top
        low, high = min(*values, *extra), max(*values, *extra)
        margin = 0.08 * (high - low) or 1.0
        self._low, self._high = low - (margin if low else 0), high + margin

    def lines(self, label: str, form: str, color: str, chosen: int) -> Iterator[str]:
        """Yield axes, curve and points, that of `chosen` layers ringed."""
        bottom = self._top + _PANEL
        for step in range(5):
            value = self._low + (self._high - self._low) * step / 4
            yield _line((_LEFT, self._y(value)), (WIDTH - _RIGHT, self._y(value)), "#dfe3e8")
            yield _text(_LEFT - 8, self._y(value) + 4, form.format(value), anchor="end")
        free = -math.inf
        for count in self._counts:
            if self._x(count) >= free:
                yield _text(self._x(count), bottom + 18, str(count))
                free = self._x(count) + _TICK_GAP
        yield _text(_LEFT, self._top - 8, label, anchor="start")
        points = [(self._x(count), self._y(value)) for count, value in zip(self._counts, self._values, strict=True)]
        yield f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" stroke="{color}" stroke-width="2"/>'
        for count, (x, y) in zip(self._counts, points, strict=True):
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>'
            if count == chosen:
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="{color}" stroke-width="2"/>'

    def level(self, value: float, label: str, color: str) -> Iterator[str]:
        """Yield a named horizontal line."""
        y = self._y(value)
        yield _line((_LEFT, y), (WIDTH - _RIGHT, y), color, "6 5")
        yield _text(WIDTH - _RIGHT, y + 16, label, anchor="end", color=color)

    def _x(self, count: int) -> float:
        return _LEFT + 16 + (WIDTH - _LEFT - _RIGHT - 32) * math.log2(1 + count) / math.log2(1 + self._counts[-1])

    def _y(self, value: float) -> float:
        return self._top + _PANEL * (self._high - value) / (self._high - self._low)


def _line(start: tuple[float, float], end: tuple[float, float], color: str, dashes: str = "none") -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-dasharray="{dashes}"/>'


def _text(x: float, y: float, words: str, size: int = 13, anchor: str = "middle", color: str = "#5b6875") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}">{escape(words)}</text>'
