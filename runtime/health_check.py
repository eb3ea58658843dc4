"""One check of a machine, run in a process of its own: a library that aborts on import, or a driver that hangs, spoils that check alone."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from retinanet_edge.runtime.redaction import redacted

Status = Literal["ok", "warning", "failed", "absent"]
_ANSWER = "import sys; from retinanet_edge.runtime.health_check import answer; answer(*sys.argv[1:])"
_LAST_GASP_S = 2.0  # a killed process that hangs in a driver may not end before the driver does; it is not waited for


@dataclass(frozen=True)
class Check:
    """What a check found. absent: not there, and not needed. fix: the one thing to do about a warning or a failure, else None."""

    name: str
    status: Status
    found: str
    fix: str | None = None

    def __post_init__(self) -> None:
        """Hold the one rule: what is wrong comes with its fix."""
        assert (self.fix is not None) == (self.status in ("warning", "failed")), self


@dataclass(frozen=True)
class Said:
    """What a tool said. code: None where it had to be stopped or is not there, negative for a signal."""

    code: int | None
    out: str
    err: str


def run_tool(command: list[str], timeout_s: float = 10.0) -> Said:
    """Run a tool and return what it said, within `timeout_s` and a little also where it cannot even be killed."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Said(None, "", f"{command[0]} does not run: {error.strerror}")
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_LAST_GASP_S)
        return Said(None, "", f"no answer within {timeout_s:g} s")
    return Said(process.returncode, out, err)


def name_of(check: Callable[..., Check]) -> str:
    """Return the name of a check, which is its function's in words."""
    return check.__name__.replace("_", " ")


def run_check(check: Callable[..., Check], *arguments: str, timeout_s: float = 60.0) -> Check:
    """Run a check, a function at the top of a module, with `arguments` in a process of its own.

    One that breaks, aborts or hangs comes back as failed.
    """
    said = run_tool([sys.executable, "-c", _ANSWER, check.__module__, check.__name__, *arguments], timeout_s)
    name = name_of(check)
    if said.code == 0:
        with suppress(ValueError, IndexError, TypeError):  # a library that ends the process as if all were well
            return Check(**json.loads(said.out.splitlines()[-1]))
    if said.code is None:
        return Check(name, "failed", f"the check hangs: {said.err}", "restart this machine; a driver or a disk does not answer")
    reason = f"stopped by {signal.Signals(-said.code).name}" if said.code < 0 else (said.err.splitlines() or ["no answer"])[-1]
    return Check(name, "failed", f"the check broke: {redacted(reason)}", f"report this, with the output of {_by_hand(check, arguments)}")


def answer(module: str, function: str, *arguments: str) -> None:
    """Run a check in this process and print it as the last line, for `run_check`."""
    check: Check = getattr(importlib.import_module(module), function)(*arguments)
    shown = dataclasses.replace(check, found=redacted(check.found), fix=check.fix and redacted(check.fix))
    print(f"\n{json.dumps(dataclasses.asdict(shown))}", flush=True)


def _by_hand(check: Callable[..., Check], arguments: tuple[str, ...]) -> str:
    called = ", ".join(repr(argument) for argument in arguments)
    return f'python -c "from {check.__module__} import {check.__name__} as check; print(check({called}))"'
