"""The web server: an event loop on a thread of its own, to look at a running stream and to change its thresholds and classes."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Sequence

from aiohttp import web
from aiohttp.http import HttpProcessingError

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.stream_status import StreamControl
from retinanet_edge.runtime.web_access import Access, Handler
from retinanet_edge.runtime.web_frames import LatestFrames
from retinanet_edge.runtime.web_routes import Routes

_MOST_CONNECTIONS = 512  # of the 1024 files that a process may usually open
_FIRST_REQUEST_S = 10.0  # for a connection to say what it wants
_IDLE_S = 15.0  # between two requests of a connection
_SHUTDOWN_S = 0.5  # for answers under way; streams have no end of their own
_CLOSE_S = 5.0


class WebServer:
    """Serves the page of one stream, from `start` to `close`.

    host: address to listen at; any but this machine's own needs a token. port: 0 for a free one. trusted: see Access. Raises
    UserInputError where the token is missing or too weak.
    """

    def __init__(
        self, control: StreamControl, frames: LatestFrames, *, host: str = "127.0.0.1", port: int = 8080,
        token: str | None = None, trusted: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._host, self._port = host, port
        self._access = Access(host, token, trusted)
        self._control, self._frames = control, frames
        self._thread: threading.Thread | None = None
        self._end: Callable[[], object] = lambda: None  # set by the thread
        self._silent: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}  # connections without a request yet, and their ends

    def start(self) -> None:
        """Begin to serve. Raises UserInputError where the port is taken or the host is not this machine's."""
        listening = _listen(self._host, self._port)
        self._port = listening.getsockname()[1]
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listening, ready)), name="web", daemon=True)
        self._thread.start()
        ready.wait(_CLOSE_S)

    @property
    def url(self) -> str:
        """Where the page is, for people; without the token."""
        host = socket.gethostname() if self._host in ("", "0.0.0.0", "::") else self._host
        return f"http://[{host}]:{self._port}/" if ":" in host else f"http://{host}:{self._port}/"

    def close(self) -> None:
        """End every connection, in bounded time; may be called twice."""
        if self._thread is not None:
            self._end()
            self._thread.join(_CLOSE_S)
            self._thread = None

    async def _serve(self, listening: socket.socket, ready: threading.Event) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        routes = Routes(self._control, self._frames, self._access)
        application = routes.application()
        application.middlewares.insert(0, self._note_request)
        log = logging.getLogger(__name__)
        log.addFilter(_is_our_fault)
        runner = web.AppRunner(
            application, access_log=None, logger=log, shutdown_timeout=_SHUTDOWN_S, keepalive_timeout=_IDLE_S,
            handler_cancellation=True,  # when its client leaves
        )  # fmt: skip
        await runner.setup()
        listener = await loop.create_server(lambda: self._connection(runner), sock=listening)
        self._end = lambda: loop.call_soon_threadsafe(ended.set)
        ready.set()
        await ended.wait()
        listener.close()
        await runner.cleanup()
        routes.release()
        del self._control, self._frames

    def _connection(self, runner: web.AppRunner) -> asyncio.Protocol:
        """Return what handles a new connection: aiohttp, with an end for those that never finish their first request."""
        server = runner.server
        assert server is not None, "set up before"
        if len(server.connections) >= _MOST_CONNECTIONS:
            return _Refused()
        connection = server()
        self._silent[connection] = asyncio.get_running_loop().call_later(_FIRST_REQUEST_S, self._end_silent, connection)
        return connection

    def _end_silent(self, connection: web.RequestHandler) -> None:
        del self._silent[connection]
        connection.force_close()

    @web.middleware
    async def _note_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if (end := self._silent.pop(request.protocol, None)) is not None:
            end.cancel()
        return await handler(request)


def _listen(host: str, port: int) -> socket.socket:
    try:
        if not 0 <= port < 2**16:
            raise OSError(0, "a port is from 0 to 65535")
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda one: one[0])  # IPv4, where a name has both
        return socket.create_server(address[:2], family=family, backlog=_MOST_CONNECTIONS)
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", error)).partition(" (")[0]
        raise UserInputError(f"no web page at {host} port {port} ({reason}): choose another host or port") from None


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Keep what strangers send, which is no HTTP, out of the log: they could fill the disk with it."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
