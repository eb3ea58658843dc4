"""What cards of earlier schema versions did not state, and what it was then: they are read as today's."""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 5
# What the version after each states and it could not, with what every model of that version is.
_ABSENT_IN_VERSION: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "network": {"p6_from": "P5", "tensorflow_padding": False, "box_variances": [0.1, 0.1, 0.2, 0.2]},
        "anchors": {
            "ratio_is": "h/w", "outer": "ratio", "offset": 0.5, "whole_sizes": False, "whole_corners": False, "strides_of_grid": False,
            "clip": False,
        },
    },
    2: {"training": {"profile": "default", "foreground_iou": 0.5, "background_iou": 0.4}},
    3: {"verdict": {"interval": None, "worst_classes": []}},
    4: {"int8": {"kept": [], "equalized": False}},
}  # fmt: skip


def to_todays(data: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a card of an earlier version as today's version writes it, any other as it is."""
    version = data.get("schema_version")
    while isinstance(version, int) and version in _ABSENT_IN_VERSION:
        absent = _ABSENT_IN_VERSION[version]
        sections = {name: {**fields, **data[name]} for name, fields in absent.items() if isinstance(data.get(name), dict)}
        version += 1
        data = {**data, **sections, "schema_version": version}
    return data
