"""The parts of an evaluation page that a confusion matrix tells; readable with many classes: the most confused ones are shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retinanet_edge.runtime import report_html as html
from retinanet_edge.runtime.confusion import ConfusionMatrix
from retinanet_edge.runtime.matching import f1_score
from retinanet_edge.runtime.report_charts import Cell, matrix_table

_SHOWN_CLASSES = 14
_SHOWN_MIX_UPS = 12


def errors_of_classes(matrix: ConfusionMatrix, class_names: Sequence[str]) -> str:
    """Return a table of precision, recall and F1 of all classes together and of each that has objects or detections."""
    columns = (matrix.objects, matrix.detections, matrix.right)
    names = ["all classes", *class_names]
    counts = np.stack([np.append(column.sum(), column) for column in columns], axis=1).tolist()  # [1 + K, 3]
    rows = [_errors(name, *row) for name, row in zip(names, counts, strict=True) if any(row)]
    return html.table(("", "objects", "found", "missed", "detections", "wrong", "precision", "recall", "F1"), rows)


def _errors(name: str, objects: int, detections: int, right: int) -> list[str]:
    missed, wrong = objects - right, detections - right
    scores = (_ratio(right, detections), _ratio(right, objects), f"{f1_score(right, wrong, missed):.3f}")
    return [name, *map(str, (objects, right, missed, detections, wrong)), *scores]


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def confusion_section(matrix: ConfusionMatrix, class_names: Sequence[str]) -> str:
    """Return the matrix of the most confused classes, and the commonest mix-ups of all."""
    shown = matrix.most_confused(_SHOWN_CLASSES)
    present = int(((matrix.objects > 0) | (matrix.detections > 0)).sum())
    which = f"The {len(shown)} most confused of {present} classes" if len(shown) < present else "All classes"
    said = (
        f"{which}. Rows are objects, columns what was detected on them; colour is the share of the row, in the last row of the column. "
        "Where the class is another, the detection is the best left over for an object that none of its own class has."
    )
    parts = [html.paragraph(said), _matrix(matrix, shown, class_names)]
    if mix_ups := matrix.mix_ups():
        rows = [[class_names[a], class_names[b], str(n), f"{n / matrix.objects[a]:.1%}"] for a, b, n in mix_ups[:_SHOWN_MIX_UPS]]
        parts.append(html.table(("object", "taken for", "times", "of its objects"), rows))
    return html.section("Confusion matrix", *parts)


def _matrix(matrix: ConfusionMatrix, shown: Sequence[int], class_names: Sequence[str]) -> str:
    nothing = len(class_names)
    names = [class_names[index] for index in shown]
    cells = [[_cell(matrix, row, column, class_names) for column in (*shown, nothing)] for row in shown]
    invented = [_cell(matrix, nothing, column, class_names) for column in shown]
    cells.append([*invented, Cell(0, 0.0, False, "")])
    return matrix_table([*names, "background"], [*names, "missed"], cells, "object \\ detected as")


def _cell(matrix: ConfusionMatrix, row: int, column: int, class_names: Sequence[str]) -> Cell:
    nothing, count = len(class_names), int(matrix.counts[row, column])
    if row == nothing:
        whole = int(matrix.detections[column])
        return Cell(count, count / max(whole, 1), False, f"{count} of {whole} detections of {class_names[column]} have no object")
    whole = int(matrix.objects[row])
    said = "missed" if column == nothing else f"detected as {class_names[column]}"
    return Cell(count, count / max(whole, 1), row == column, f"{count} of {whole} objects {class_names[row]} {said}")
