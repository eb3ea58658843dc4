"""stream.py's configuration file: TOML whose keys are the flags without their dashes. What is typed as well wins.

The file becomes command line arguments, so that a value means, and is refused for, the same in both.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.redaction import redacted

_NOT_SETTINGS = ("help", "config", "print-config")


def with_config(parser: argparse.ArgumentParser, typed: Sequence[str]) -> list[str]:
    """Return the arguments of the file that --config names, then those typed; a flag that is typed is not taken from the file.

    Raises UserInputError where the file is missing, no TOML, or names what is no flag.
    """
    path = _config_path(parser, typed)
    if path is None:
        return list(typed)
    said = {argument.split("=")[0] for argument in typed if argument.startswith("--")}
    arguments: list[str] = []
    for key, value in _read(path).items():
        flag = f"--{key}"
        action = _actions(parser).get(key)
        if action is None:
            close = difflib.get_close_matches(key, _actions(parser), 1)
            raise UserInputError(f"{path}: {key} is no setting{f', is {close[0]} meant?' if close else ''}: run stream.py -h for all")
        if flag not in said:
            arguments += _as_arguments(path, flag, action, value)
    return [*arguments, *typed]


def config_text(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> str:
    """Return the file that means the same as these arguments; settings left at their default stand as comments.

    Passwords written out in addresses are left out, with a line that says so; ${NAME} stays as it is.
    """
    for action in parser._actions:
        action.type = None  # the text as it was given, not what becomes of it
    raw = vars(parser.parse_args(list(arguments)))
    lines = []
    for key, action in _actions(parser).items():
        value = raw[action.dest]
        if isinstance(action.const, bool):
            given, value = value != action.default, True
        else:
            given = value != action.default and value is not None
        if not given:
            lines.append(f"# {key} = {_toml('' if action.default is None else action.default if action.nargs != 0 else False)}")
            continue
        text = _toml(value)
        shown = _without_passwords(text)
        if shown != text:
            lines.append(f"# the password of {key} is left out: write ${{NAME}} for it, and set NAME in the environment")
        lines.append(f"{key} = {shown}")
    return "\n".join(lines) + "\n"


def _without_passwords(text: str) -> str:
    """Return the text without what is written out; names of the environment stay, being no secret."""
    named: list[str] = re.findall(r"(?<=//)[^/@\s:]*:\$\{\w+\}@|=\$\{\w+\}", text)
    for index, part in enumerate(named):
        text = text.replace(part, f"\0{index}\0", 1)
    text = redacted(text)
    for index, part in enumerate(named):
        text = text.replace(f"\0{index}\0", part)
    return text


def _config_path(parser: argparse.ArgumentParser, typed: Sequence[str]) -> Path | None:
    finder = type(parser)(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    path: Path | None = finder.parse_known_args(list(typed))[0].config
    return path


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the settings: flags by their long name without dashes."""
    named = {option[2:]: action for action in parser._actions for option in action.option_strings if option.startswith("--")}
    return {name: action for name, action in named.items() if name not in _NOT_SETTINGS}


def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserInputError(f"--config must be a readable TOML file, got {path} ({reason}): write one with --print-config") from None
    except tomllib.TOMLDecodeError as error:
        raise UserInputError(f"{path} must be TOML, got an error: {error}: mend it, or write one with --print-config") from None


def _as_arguments(path: Path, flag: str, action: argparse.Action, value: Any) -> list[str]:
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserInputError(f"{path}: {flag[2:]} must be true or false, got {value!r}")
        return [flag] if value else []
    if isinstance(action, argparse._AppendAction):
        return [f"{flag}={_text(path, flag, one)}" for one in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        return [f"{flag}={','.join(_text(path, flag, one) for one in value)}"]
    if isinstance(value, dict):
        return [f"{flag}={','.join(f'{name}={_text(path, flag, one)}' for name, one in value.items())}"]
    return [f"{flag}={_text(path, flag, value)}"]


def _text(path: Path, flag: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or "\0" in str(value):
        raise UserInputError(f"{path}: {flag[2:]} must be text or a number, got {value!r}")
    return str(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, int | float) or re.fullmatch(r"(0|[1-9]\d{0,8})(\.\d{0,2}[1-9])?", str(value)):
        return str(value)
    return json.dumps(str(value), ensure_ascii=False)  # TOML's basic strings take JSON's escapes
