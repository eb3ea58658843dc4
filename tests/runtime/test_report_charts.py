"""Charts as their SVG and HTML: where points are, and that no name breaks out of its place."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from retinanet_edge.runtime.report_charts import Cell, Line, line_chart, matrix_table

RISING = np.array([0.0, 0.5, 1.0])


def drawn(*lines, **options):
    """Return the chart's SVG, parsed, and its legend."""
    svg, legend = line_chart(lines, "recall", "precision", **options).split("</svg>")
    return ElementTree.fromstring(svg + "</svg>"), legend


def points(svg):
    return [[tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in svg.iter("polyline")]


def test_a_line_runs_from_corner_to_corner():
    svg, legend = drawn(Line("cat", RISING, RISING))
    (line,) = points(svg)
    grid = [(float(e.get("x1")), float(e.get("y1")), float(e.get("x2")), float(e.get("y2"))) for e in svg.iter("line")]
    left, right = min(g[0] for g in grid), max(g[2] for g in grid)
    top, bottom = min(g[1] for g in grid), max(g[1] for g in grid)
    np.testing.assert_allclose(line, [(left, bottom), ((left + right) / 2, (top + bottom) / 2), (right, top)], atol=0.06)
    assert "cat" in legend


def test_named_lines_differ_in_colour_and_others_are_not_in_the_legend():
    svg, legend = drawn(Line("", RISING, RISING), *(Line(f"class {i}", RISING, RISING) for i in range(10)))
    styles = [line.get("style") for line in svg.iter("polyline")]
    assert len(set(styles)) == len(styles) == 11
    assert legend.count("<li>") == 10


def test_long_lines_are_thinned_with_their_ends_kept():
    x = np.linspace(0, 1, 50000)
    (line,) = points(drawn(Line("cat", x, x))[0])
    (ends,) = points(drawn(Line("cat", RISING, RISING))[0])
    assert len(line) == 400
    assert (line[0], line[-1]) == (ends[0], ends[-1])


def test_no_line_at_all():
    svg, legend = drawn()
    assert points(svg) == []
    assert "<li>" not in legend


@pytest.mark.parametrize("mark", [0.0, 0.25, 1.0])
def test_a_mark_stands_upright_at_its_place(mark):
    svg, _ = drawn(Line("cat", RISING, RISING), mark_x=mark)
    (dashed,) = (line for line in svg.iter("line") if line.get("stroke-dasharray"))
    (line,) = points(svg)
    assert float(dashed.get("x1")) == float(dashed.get("x2")) == pytest.approx(line[0][0] + mark * (line[-1][0] - line[0][0]), abs=0.1)


def test_names_are_escaped():
    assert "<b>" not in line_chart([Line("<b>", RISING, RISING)], "<b>", "<b>")
    assert "<b>" not in matrix_table(["<b>"], ["<b>"], [[Cell(1, 1.0, True, '"><b>')]], "<b>")


def test_a_matrix_shows_counts_coloured_by_share():
    cells = [Cell(3, 1.0, True, "found"), Cell(1, 0.2, False, "mixed up"), Cell(0, 0.0, False, "")]
    table = matrix_table(["cat"], ["cat", "dog", "missed"], [cells], "")
    colours = re.findall(r'<td style="background:(.*?);', table)
    assert colours[0].endswith("0.75)")
    assert colours[1].endswith("0.15)")
    assert colours[0].split(", 0.")[0] != colours[1].split(", 0.")[0]
    assert colours[2] == "none"
    assert re.findall(r">([^<>]+)</td>", table) == ["3", "1", "&middot;"]
