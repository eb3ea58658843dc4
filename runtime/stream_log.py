"""The log of stream.py on stderr: lines for people, or one JSON object a line for a collector. Nothing in it holds a password."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from retinanet_edge.runtime.redaction import redacted

_LOGGER = "retinanet_edge"


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S" if sys.stderr.isatty() else "%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        clear = "\r\033[K" if sys.stderr.isatty() else ""  # over the line of figures that stands there
        return f"{clear}{clock} {level}{redacted(record.getMessage())}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        return json.dumps(entry)


@contextmanager
def stream_log(form: str) -> Iterator[None]:
    """Send the project's log to stderr as "text" or "json" meanwhile."""
    logger, handler = logging.getLogger(_LOGGER), logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
