"""What equalizing and keeping layers out of INT8 buy and cost, as a picture: AP and time of a call over the number of layers kept.

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
    write_atomically(path, draw(found.trials, found.chosen, max_ap_drop).encode())
    return path


def draw(trials: Sequence[Trial], chosen: Trial, max_ap_drop: float) -> str:
    """Return the SVG. trials: by layers kept, the last with all of them. chosen: the one that is ringed."""
    layers, least = trials[-1].kept, trials[-1].ap - max_ap_drop
    title = f"{chosen.kept} of {layers} layers kept out of INT8{', channels equalized' if chosen.equalized else ''} (ringed)"
    squares = "squares: channels equalized; " if any(trial.equalized for trial in trials) else ""
    ap = _Panel(trials, [trial.ap for trial in trials], _TOPS[0], extra=(least,))
    time = _Panel(trials, [trial.milliseconds for trial in trials], _TOPS[1], extra=(0,))
    parts = [
        _text(_LEFT, 28, title, size=18, anchor="start"),
        *ap.lines("AP, validation", "{:.4f}", _AP_COLOR, chosen),
        *ap.level(least, f"{100 * max_ap_drop:.2f} points below FP32", _LIMIT_COLOR),
        *time.lines("ms a call, CPU", "{:.1f}", _TIME_COLOR, chosen),
        _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 14, f"layers kept; {squares}the last point is FP32"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


class _Panel:
    """One curve over log2(1 + layers kept), which gives trials at 1, 2, 4, ... even steps."""

    def __init__(self, trials: Sequence[Trial], values: Sequence[float], top: float, extra: tuple[float, ...]) -> None:
        self._trials, self._values, self._top = trials, values, top
        low, high = min(*values, *extra), max(*values, *extra)
        margin = 0.08 * (high - low) or 1.0
        self._low, self._high = low - (margin if low else 0), high + margin

    def lines(self, label: str, form: str, color: str, chosen: Trial) -> Iterator[str]:
        """Yield axes, curve and points, that of `chosen` ringed."""
        bottom = self._top + _PANEL
        for step in range(5):
            value = self._low + (self._high - self._low) * step / 4
            yield _line((_LEFT, self._y(value)), (WIDTH - _RIGHT, self._y(value)), "#dfe3e8")
            yield _text(_LEFT - 8, self._y(value) + 4, form.format(value), anchor="end")
        free = -math.inf
        for trial in self._trials:
            if self._x(trial.kept) >= free:
                yield _text(self._x(trial.kept), bottom + 18, str(trial.kept))
                free = self._x(trial.kept) + _TICK_GAP
        yield _text(_LEFT, self._top - 8, label, anchor="start")
        points = [(self._x(trial.kept), self._y(value)) for trial, value in zip(self._trials, self._values, strict=True)]
        yield f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" stroke="{color}" stroke-width="2"/>'
        for trial, (x, y) in zip(self._trials, points, strict=True):
            if trial.equalized:
                yield f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{color}"/>'
            else:
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>'
            if (trial.kept, trial.equalized) == (chosen.kept, chosen.equalized):
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="{color}" stroke-width="2"/>'

    def level(self, value: float, label: str, color: str) -> Iterator[str]:
        """Yield a named horizontal line."""
        y = self._y(value)
        yield _line((_LEFT, y), (WIDTH - _RIGHT, y), color, "6 5")
        yield _text(WIDTH - _RIGHT, y + 16, label, anchor="end", color=color)

    def _x(self, count: int) -> float:
        return _LEFT + 16 + (WIDTH - _LEFT - _RIGHT - 32) * math.log2(1 + count) / math.log2(1 + self._trials[-1].kept)

    def _y(self, value: float) -> float:
        return self._top + _PANEL * (self._high - value) / (self._high - self._low)


def _line(start: tuple[float, float], end: tuple[float, float], color: str, dashes: str = "none") -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-dasharray="{dashes}"/>'


def _text(x: float, y: float, words: str, size: int = 13, anchor: str = "middle", color: str = "#5b6875") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}">{escape(words)}</text>'
