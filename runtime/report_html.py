"""The few pieces of HTML that a report is made of. Whatever text comes in is escaped here; what comes out is HTML.

No script, no font and no style sheet from elsewhere: a page can be mailed or opened from a disk without a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_CHART_WIDTH, _CHART_HEIGHT, _BINS = 640, 150, 40

_STYLE = """
:root { color-scheme: light dark; --ink: #16202a; --soft: #5b6875; --page: #f5f6f8; --card: #fff; --line: #dfe3e8; --accent: #1668c7;
  --good: #14763d; --good-back: #e2f4e8; --bad: #b3261e; --bad-back: #fbe6e4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #98a5b3; --page: #11161c; --card: #1a2129; --line: #2d3742;
  --accent: #6cb2ff; --good: #6fd596; --good-back: #163524; --bad: #ff9d94; --bad-back: #431d1a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 28px 20px 60px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 28px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 18px; }
p { margin: 0 0 12px; }
section { margin-top: 18px; padding: 20px 22px; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
section > :last-child { margin-bottom: 0; }
code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.soft, figcaption, .tile span { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 18px; }
.tile { padding: 14px 16px; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.tile b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; line-height: 1.25; }
.tile span { font-size: 13px; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; margin: 10px 0 0; padding: 0; list-style: none; max-height: 8.5em; overflow: auto; }
.chips li { padding: 1px 10px; border: 1px solid var(--line); border-radius: 99px; background: var(--card); font-size: 13px; }
.links { margin: 0 0 12px; padding-left: 1.2em; } a { color: var(--accent); }
.scroll { overflow-x: auto; margin-bottom: 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.facts, svg { margin-bottom: 14px; }
th, td { padding: 6px 12px 6px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > * { border-bottom: 0; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.facts th { width: 11em; }
.verdict { padding: 9px 14px; border-radius: 8px; }
.pass { color: var(--good); background: var(--good-back); }
.fail { color: var(--bad); background: var(--bad-back); }
.todo { padding: 9px 14px; border: 1px dashed var(--line); border-radius: 8px; color: var(--soft); }
figure { margin: 0 0 12px; }
figure img, video { display: block; width: 100%; height: auto; border-radius: 8px; background: #fff; }
video { max-height: 560px; background: #000; }
figcaption { margin-top: 4px; font-size: 13px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 18px; align-items: start; }
svg { display: block; width: 100%; height: auto; } svg rect { fill: var(--accent); }
svg text { fill: var(--soft); font-size: 17px; } svg line { stroke: var(--soft); }
footer { margin-top: 22px; font-size: 13px; }
@media (max-width: 560px) { section { padding: 16px 14px; } .facts th { width: 8.5em; white-space: normal; } th, td { padding-right: 9px; }
  table { font-size: 14px; } }
"""


def page(title: str, body: str) -> str:
    """Return a whole HTML page; `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str, *parts: str) -> str:
    """Return the head of a page; `parts` are HTML."""
    return f"<header>\n<h1>{escape(text)}</h1>\n" + "\n".join(parts) + "\n</header>"


def links(targets: Sequence[tuple[str, str]]) -> str:
    """Return a list of links, as (URL, text)."""
    items = (f'<li><a href="{escape(url)}">{escape(text)}</a></li>' for url, text in targets)
    return f'<ul class="links">{"".join(items)}</ul>'


def section(title: str, *parts: str) -> str:
    """Return a titled box; `parts` are HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def tiles(figures: Sequence[tuple[str, str]]) -> str:
    """Return large figures side by side, as (value, meaning)."""
    items = (f'<div class="tile"><b>{escape(value)}</b><span>{escape(meaning)}</span></div>' for value, meaning in figures)
    return f'<div class="tiles">{"".join(items)}</div>'


def chips(names: Sequence[str]) -> str:
    """Return a list of short names."""
    return f'<ul class="chips">{"".join(f"<li>{escape(name)}</li>" for name in names)}</ul>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with column heads."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of names and what they are."""
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def paragraph(text: str, kind: str = "soft") -> str:
    """Return a paragraph; `kind` is a class of the style sheet."""
    return f'<p class="{kind}">{escape(text)}</p>'


def not_made(what: str, command: str) -> str:
    """Say that a piece is missing, and the command that makes it."""
    return f'<p class="todo">{escape(what)} not made yet: run <code>{escape(command)}</code></p>'


def picture(link: str, caption: str) -> str:
    """Return a picture; `link` is a URL."""
    return (
        f'<figure><img src="{escape(link)}" alt="{escape(caption)}" loading="lazy"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def video(link: str, caption: str) -> str:
    """Return a video with controls; `link` is a URL."""
    return (
        f'<figure><video src="{escape(link)}" controls muted loop playsinline preload="metadata"></video>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def pair(*parts: str) -> str:
    """Return parts side by side where there is room."""
    return f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def histogram(values: NDArray[np.float64], unit: str) -> str:
    """Return a bar chart of how often values [n], n > 0, come, as SVG. The slowest 1% share the last bar, or they would stretch it."""
    least, most = float(values.min()), float(np.percentile(values, 99))
    counts, edges = np.histogram(np.minimum(values, most), _BINS, range=(least, most if most > least else least + 1))
    step, tallest = _CHART_WIDTH / _BINS, counts.max()
    bars = "".join(
        f'<rect x="{number * step + 0.5:.1f}" y="{_CHART_HEIGHT * (1 - count / tallest):.1f}" width="{step - 1:.1f}" '
        f'height="{_CHART_HEIGHT * count / tallest:.1f}"><title>{left:.2f} to {right:.2f} {escape(unit)}: {count}</title></rect>'
        for number, (count, left, right) in enumerate(zip(counts, edges[:-1], edges[1:], strict=True))
        if count
    )
    below = _CHART_HEIGHT + 20
    return (
        f'<svg viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT + 26}" role="img" aria-label="histogram">{bars}'
        f'<line x1="0" x2="{_CHART_WIDTH}" y1="{_CHART_HEIGHT}" y2="{_CHART_HEIGHT}"/>'
        f'<text x="0" y="{below}">{edges[0]:.1f} {escape(unit)}</text>'
        f'<text x="{_CHART_WIDTH}" y="{below}" text-anchor="end">{edges[-1]:.1f} {escape(unit)}</text></svg>'
    )
