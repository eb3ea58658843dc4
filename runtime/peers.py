"""Others that run a network for comparison, each in a process of its own, perhaps of another interpreter: this file speaks with them.

One JSON object a line, over the process's standard input and output:

    {"prepare": {...}}   what to get ready          -> {"ready": "what it is, in words"} or {"unavailable": "why"}
    {"run": 5}           how many calls to time     -> {"milliseconds": [21.5, ...]} or {"unavailable": "why"}

It ends when its input ends. benchmarks/peer_process.py is such a process. Nothing here knows what a peer is made of.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from retinanet_edge.runtime.errors import UserInputError

_CHECK_S, _END_S = 60.0, 5.0  # enough for Python to start on a busy machine, and to end
_SHOWN = 200  # characters of another program's message


class PeerError(Exception):
    """A peer cannot be had, has crashed, hangs, or says what is not the protocol; the message is the reason."""


class PeerProcess:
    """A peer in its own process. A context manager.

    command: what starts it. timeout_s: the longest that it may take for an answer.
    """

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(  # in a session of its own, so that what it starts can be ended with it
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, name="peer", daemon=True)
        self._reader.start()

    def prepare(self, wanted: Mapping[str, object]) -> str:
        """Let it get ready; return what it is, in words. Raises PeerError."""
        ready = self._ask({"prepare": dict(wanted)}, "ready")
        if not isinstance(ready, str):
            raise PeerError(f"must say in words what is ready, said {ready!r}"[:_SHOWN])
        return ready

    def run(self, calls: int) -> list[float]:
        """Let it make calls; return the milliseconds of each. Raises PeerError."""
        times = self._ask({"run": calls}, "milliseconds")
        if not isinstance(times, list) or len(times) != calls or not all(isinstance(t, float) and t > 0 for t in times):
            raise PeerError(f"must give {calls} times in milliseconds, gave {times!r}"[:_SHOWN])
        return times

    def _ask(self, request: Mapping[str, object], key: str) -> object:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=self._timeout_s)
        except queue.Empty:
            self._kill()
            raise PeerError(f"gave no answer in {self._timeout_s:g} s") from None
        except BrokenPipeError:
            line = None
        if line is None:
            raise PeerError(self._last_words())
        return _answer(line, key)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _last_words(self) -> str:
        """Return why it ended, as far as it said."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return f"ended with code {code}" + (f": {lines[-1].strip()}"[:_SHOWN] if lines else "")

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it, and whatever it started; may be called twice."""
        if self._errors.closed:
            return
        for stream in (self._process.stdin, self._errors):
            assert stream is not None
            with suppress(BrokenPipeError):  # it has gone already
                stream.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _answer(line: str, key: str) -> object:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not answer.keys() & {key, "unavailable"}:
        raise PeerError(f"does not speak the protocol of peers, said {line.strip()!r}"[:_SHOWN])
    if "unavailable" in answer:
        raise PeerError(str(answer["unavailable"]))
    return answer[key]


def check_interpreter(python: Path, timeout_s: float = _CHECK_S) -> None:
    """Raise UserInputError where `python` is no Python interpreter of 3.10 or newer, or gives no answer in `timeout_s`."""
    asked = "import sys; print('Python', sys.version_info >= (3, 10))"
    expected = f"--peer-python must be a Python interpreter of 3.10 or newer, got {python}"
    try:
        done = subprocess.run(
            [python, "-c", asked], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserInputError(f"{expected}, which gave no answer in {timeout_s:g} s") from None
    except OSError as error:
        raise UserInputError(f"{expected}: {error.strerror}") from None
    if done.stdout.strip() != "Python True":
        found = "an older one" if done.stdout.strip() == "Python False" else "another program"
        raise UserInputError(f"{expected}, which is {found}")


def peer_script() -> Path:
    """Return benchmarks/peer_process.py beside this package. Raises UserInputError where only the package is installed."""
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "peer_process.py"
    if not script.is_file():
        raise UserInputError(f"peers need {script}, which is not there: run runtime/benchmark.py of the project's folder")
    return script
