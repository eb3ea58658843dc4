"""A change of the detection filter, as it comes over the network: every value is checked before it is used."""

from __future__ import annotations

import json
from dataclasses import replace

from retinanet_edge.runtime.detection_filter import DetectionFilter
from retinanet_edge.runtime.errors import UserInputError

_KEYS = ("threshold", "class_thresholds", "only")


def changed_filter(used: DetectionFilter, body: bytes) -> DetectionFilter:
    """Return `used` with what a JSON object says of "threshold", "class_thresholds" and "only"; what it leaves out stays.

    Raises UserInputError for anything else. Whether the model has the classes is for StreamControl.change_filter to say.
    """
    try:
        wanted = json.loads(body)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, a number of thousands of digits, brackets without end
        raise UserInputError("the body must be JSON, got something else") from None
    if not isinstance(wanted, dict) or not wanted.keys() <= set(_KEYS):
        raise UserInputError(f"the body must be an object with no keys but {', '.join(_KEYS)}")
    if "threshold" in wanted:
        used = replace(used, threshold=_threshold("threshold", wanted["threshold"]))
    if "class_thresholds" in wanted:
        used = replace(used, class_thresholds=_class_thresholds(wanted["class_thresholds"]))
    if "only" in wanted:
        used = replace(used, only=_only(wanted["only"]))
    return used


def _threshold(name: str, value: object) -> float:
    # The comparison comes before float(), which an integer of many digits overflows; NaN is in no interval.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise UserInputError(f"{name} must be a number from 0 to 1")
    return float(value)


def _class_thresholds(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise UserInputError("class_thresholds must be an object of class names and numbers from 0 to 1")
    return {name: _threshold("every class threshold", threshold) for name, threshold in value.items()}


def _only(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise UserInputError("only must be a list of one or more class names, or null for all of them")
    return tuple(dict.fromkeys(value))
