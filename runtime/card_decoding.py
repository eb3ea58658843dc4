"""The JSON of a card as the dataclasses it was written from, strictly; knows nothing of what they mean."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, Literal


def decode(expected: Any, value: Any, where: str) -> Any:
    """Return JSON `value` as the annotated type `expected`: a frozen dataclass of such types, X | None, Literal, tuple, dict, or plain.

    `where` names the value in messages, "" the card itself. Raises ValueError saying where, what was expected, what came, for a field
    that is missing or unknown, for another type, and for a number that is not finite.
    """
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        return _decode_dataclass(expected, value, where)
    if origin is types.UnionType:  # only `X | None` is used
        return None if value is None else decode(arguments[0], value, where)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} must be one of {list(arguments)}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, got {value!r}")
        return tuple(decode(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object, got {value!r}")
        return {key: decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    accepted = (int, float) if expected is float else (expected,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
        raise ValueError(f"{where} must be {expected.__name__}, got {value!r}")
    if expected is float and not math.isfinite(value):
        raise ValueError(f"{where} must be finite, got {value!r}")
    return float(value) if expected is float else value


def _decode_dataclass(expected: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'card'} must be an object, got {value!r}")
    hints = typing.get_type_hints(expected)
    missing, unknown = sorted(set(hints) - set(value)), sorted(set(value) - set(hints))
    if missing or unknown:
        raise ValueError(f"{where or 'card'} lacks {missing} and has unknown {unknown}")
    prefix = f"{where}." if where else ""
    return expected(**{name: decode(hint, value[name], prefix + name) for name, hint in hints.items()})
