"""Charts of a report that need no script: lines in a unit square as SVG, and a matrix of counts as a coloured table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 640, 420, 46, 10, 48
_MOST_POINTS = 400  # of a line: more cannot be seen
_GOLDEN_ANGLE = 137.5  # degrees; steps of it around the colour circle keep neighbouring lines far apart
_RIGHT_COLOR, _WRONG_COLOR = "20, 140, 70", "200, 50, 40"


@dataclass(frozen=True)
class Line:
    """A line through points (x [n], y [n]), all from 0 to 1; `name` stands in the legend, unless it is empty: then the line is faint."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    strong: bool = False


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, mark_x: float | None = None) -> str:
    """Return the lines and their legend; a dashed upright line stands at `mark_x`."""
    named = [line for line in lines if line.name]
    colors = {line.name: _color(number, line) for number, line in enumerate(named)}
    faint = "".join(_polyline(line, "var(--line)", 1.2) for line in lines if not line.name)
    shown = "".join(_polyline(line, colors[line.name], 4 if line.strong else 2) for line in named)
    legend = "".join(f'<li><span style="color:{colors[line.name]}">&#9644;</span> {escape(line.name)}</li>' for line in named)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)} over {escape(x_label)}">'
        f"{_axes(x_label, y_label)}{faint}{shown}{'' if mark_x is None else _mark(mark_x)}</svg>"
        f'<ul class="chips" style="max-height:none">{legend}</ul>'
    )


def _color(number: int, line: Line) -> str:
    return "var(--ink)" if line.strong else f"hsl({210 + number * _GOLDEN_ANGLE:.0f} 70% 50%)"


def _place(x: float, y: float) -> tuple[float, float]:
    return _LEFT + x * (_WIDTH - _LEFT - 10), _TOP + (1 - y) * (_HEIGHT - _TOP - _BOTTOM)


def _polyline(line: Line, color: str, width: float) -> str:
    picked = np.unique(np.linspace(0, len(line.x) - 1, min(len(line.x), _MOST_POINTS)).round().astype(int))
    points = " ".join("{:.1f},{:.1f}".format(*_place(line.x[i], line.y[i])) for i in picked)
    style = f"fill:none;stroke:{color};stroke-width:{width}"
    return f'<polyline points="{points}" style="{style}"><title>{escape(line.name)}</title></polyline>'


def _axes(x_label: str, y_label: str) -> str:
    parts = []
    for step in (0, 0.25, 0.5, 0.75, 1):
        (x, bottom), (left, y) = _place(step, 0), _place(0, step)
        right, top = _place(1, 1)
        grid = 'style="stroke:var(--line)"'
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" {grid}/><line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}" {grid}/>')
        parts.append(f'<text x="{x}" y="{bottom + 20}" text-anchor="{"end" if step == 1 else "middle"}">{step:g}</text>')
        parts.append(f'<text x="{left - 6}" y="{y + 6}" text-anchor="end">{step:g}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (_HEIGHT - _BOTTOM) / 2
    if y_label:
        parts.append(f'<text x="{_LEFT + 8}" y="{middle}" transform="rotate(-90 {_LEFT + 16} {middle})">{escape(y_label)}</text>')
    return "".join(parts)


def _mark(x: float) -> str:
    (left, bottom), (_, top) = _place(x, 0), _place(x, 1)
    return f'<line x1="{left}" x2="{left}" y1="{top}" y2="{bottom}" stroke-dasharray="6 5"/>'


@dataclass(frozen=True)
class Cell:
    """One count of a matrix. share: 0..1, how strongly it is coloured; right: in the colour of what is right; meaning: its tooltip."""

    count: int
    share: float
    right: bool
    meaning: str


def matrix_table(row_names: Sequence[str], column_names: Sequence[str], cells: Sequence[Sequence[Cell]], corner: str) -> str:
    """Return a table of counts, the names of its columns upright; `corner` says what rows and columns are."""
    upright = "writing-mode:vertical-rl;transform:rotate(180deg);display:inline-block;max-height:11em"
    head = "".join(
        f'<th style="vertical-align:bottom;text-align:center;padding:6px 3px"><span style="{upright}">{escape(name)}</span></th>'
        for name in column_names
    )
    rows = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(_cell(cell) for cell in row)}</tr>" for name, row in zip(row_names, cells, strict=True)
    )
    top = f'<th style="vertical-align:bottom;white-space:normal">{escape(corner)}</th>{head}'
    return f'<div class="scroll"><table style="width:auto"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(cell: Cell) -> str:
    color = f"rgba({_RIGHT_COLOR if cell.right else _WRONG_COLOR}, {0.75 * cell.share:.2f})" if cell.count else "none"
    return (
        f'<td style="background:{color};text-align:center;padding:6px 8px;min-width:3em" title="{escape(cell.meaning)}">'
        f"{cell.count or '&middot;'}</td>"
    )
