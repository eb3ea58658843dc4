"""Results posted to a web address as JSON, with retries that end."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.result_json import as_json
from retinanet_edge.runtime.sink import FrameResult, SinkError

ON = ("events", "detections")
_TOKEN_VARIABLE = "WEBHOOK_TOKEN"
_TRIES = 4
_TRIES_S = 6.0  # no try begins later than that after the first
_FIRST_WAIT_S = 0.5  # doubles with each try, each wait being drawn between half and all of it
_PASSING = (408, 425, 429, *range(500, 600))  # HTTP statuses that another try may mend


class WebhookSink:
    """Posts a frame's JSON line to `url` when something happened at a line or zone ("events"), or when something was detected.

    An answer of 2xx takes it. What may pass is tried four times, `timeout_s` each; a redirection is not followed. token_file holds a bearer
    token; without one the environment variable WEBHOOK_TOKEN is asked. Certificates are verified (SSL_CERT_FILE names other authorities
    than the machine's). Messages name the host alone: the path may be a secret, too. Raises UserInputError for an address that is none
    and for a token file that cannot be read.
    """

    name = "webhook"

    def __init__(self, url: str, on: str = "events", *, token_file: Path | None = None, timeout_s: float = 3.0) -> None:
        if on not in ON:
            raise ValueError(f"on must be one of {', '.join(ON)}, got {on}")
        self._host, self._port, self._path, tls = _parse(url)
        self._on, self._timeout_s = on, timeout_s
        self._tls = ssl.create_default_context() if tls else None
        self._headers = {"Content-Type": "application/json", "User-Agent": "retinanet-edge"}
        if token := _token(token_file):
            self._headers["Authorization"] = f"Bearer {token}"

    def write(self, result: FrameResult) -> None:
        """Post one result if it is one to post. Raises SinkError where the receiver did not take it, after all tries."""
        if not (result.events if self._on == "events" else len(result.detections)):
            return
        body, wait_s, last = json.dumps(as_json(result)).encode(), _FIRST_WAIT_S, time.monotonic() + _TRIES_S
        for left in reversed(range(_TRIES)):
            trouble, passing = self._post(body)
            if not trouble:
                return
            if not (passing and left) or time.monotonic() + wait_s > last:
                raise SinkError(f"receiver at {self._host}: {trouble}")
            time.sleep(wait_s * random.uniform(0.5, 1))
            wait_s *= 2

    def close(self) -> None:
        """Do nothing: no connection stays open."""

    def _post(self, body: bytes) -> tuple[str, bool]:
        """Return what went wrong, empty where nothing did, and whether another try may mend it."""
        connection, began = self._connection(), time.monotonic()
        try:
            connection.connect()
            # A receiver that drips its answer would keep a time-out for each byte waiting for ever.
            limit = threading.Timer(self._timeout_s, _hang_up, (connection.sock,))
            limit.daemon = True
            limit.start()
            try:
                connection.request("POST", self._path, body, self._headers)
                status = connection.getresponse().status
            finally:
                limit.cancel()
        except ssl.SSLCertVerificationError as error:
            return f"certificate refused: {error.verify_message}", False
        except (OSError, http.client.HTTPException) as error:
            late = time.monotonic() - began >= self._timeout_s
            return f"no answer within {self._timeout_s:g} s" if late else str(error) or type(error).__name__, True
        finally:
            connection.close()
        return ("", False) if 200 <= status < 300 else (f"answered {status}", status in _PASSING)

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)


def _hang_up(connected: socket.socket) -> None:
    with suppress(OSError):  # over already
        socket.socket.shutdown(connected, socket.SHUT_RDWR)  # of TLS too, whose own shutdown is not for two threads


def _parse(url: str) -> tuple[str, int | None, str, bool]:
    """Return host, port, path with query, and whether it is https."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as the socket will
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or parts.username is not None:
        raise UserInputError("--webhook must be http(s)://HOST/PATH without user and password: a token goes in --webhook-token-file FILE")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return host, port, path, parts.scheme == "https"


def _token(token_file: Path | None) -> str:
    if token_file is None:
        return os.environ.get(_TOKEN_VARIABLE, "").strip()
    try:
        token = token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise UserInputError(f"--webhook-token-file must be a file with a token, got {token_file} ({reason})") from None
    if len(token.split()) != 1:
        raise UserInputError(f"--webhook-token-file must be a file with one token, got {token_file}, which holds {len(token.split())}")
    return token
