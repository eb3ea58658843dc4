"""Who may see the web page: a token where one is set, names against DNS rebinding, same origin for what changes something."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.web_body import read_body
from retinanet_edge.runtime.web_page import login_page

_LEAST_TOKEN = 16  # characters
_MAKE_TOKEN = "make one with python -c 'import secrets; print(secrets.token_urlsafe())'"
_FAILURES, _FAILURES_S = 5, 60.0  # so many wrong tokens from one address within so many seconds, then none is looked at
_ADDRESSES = 1024  # remembered at most
_COOKIE_S = 30 * 24 * 3600
_HOST = re.compile(r"(\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[0-9a-z._-]+))(:(?P<port>\d{1,5}))?")
OPEN_PATHS = ("/healthz", "/login")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access:
    """The rules of one server. trusted: names, besides its own, by which a reverse proxy calls it or is itself called.

    Raises UserInputError where others than this machine could reach it without a token, or with one that is easily guessed.
    """

    def __init__(self, host: str, token: str | None, trusted: Sequence[str] = ()) -> None:
        self._loopback = is_loopback(host)
        if token is None and not self._loopback:
            raise UserInputError(f"a web page on {host or 'every address'} needs a token, or everybody may watch: {_MAKE_TOKEN}")
        if token is not None and (len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
            raise UserInputError(f"the web token must have {_LEAST_TOKEN} or more characters of ASCII, and no space: {_MAKE_TOKEN}")
        self._token, self._trusted = token, {name.lower() for name in trusted}
        self._failures: dict[str, deque[float]] = {}

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 403 to foreign names and origins, 429 after too many wrong tokens, 401 or the login page without a token."""
        host, _ = _host_and_port(request)
        if self._loopback and not (host in self._trusted or is_loopback(host)):
            raise web.HTTPForbidden(text="this server does not answer to that name\n")  # a name that a foreign DNS server points here
        if request.method not in ("GET", "HEAD") and self._is_foreign(request.headers.get("Origin"), request):
            raise web.HTTPForbidden(text="this request comes from another site\n")
        if request.path in OPEN_PATHS or self._admits(request):
            return await handler(request)
        if request.path == "/":
            return web.Response(status=401, text=login_page(), content_type="text/html")
        raise web.HTTPUnauthorized(text="a token is needed: Authorization: Bearer TOKEN\n", headers={"WWW-Authenticate": "Bearer"})

    async def login(self, request: web.Request) -> web.Response:
        """Take the token from the login form, and give a cookie for it."""
        if request.content_type != "application/x-www-form-urlencoded":
            raise web.HTTPUnsupportedMediaType(text="a form is expected\n")
        given = parse_qs((await read_body(request)).decode(errors="replace")).get("token", [""])[0]
        if self._token is None or not self._is_token(given, request):
            return web.Response(status=401, text=login_page("That is not the token."), content_type="text/html")
        response = web.HTTPSeeOther("/")
        response.set_cookie(_cookie_name(request), self._session(), max_age=_COOKIE_S, httponly=True, samesite="Strict")
        raise response

    def _is_foreign(self, origin: str | None, request: web.Request) -> bool:
        """Whether a browser says that the request comes from the page of another server; programs say nothing."""
        if origin is None or _host_name(origin) in self._trusted:
            return False
        return origin.partition("://")[2].lower() != request.headers["Host"].lower()

    def _admits(self, request: web.Request) -> bool:
        if self._token is None:
            return True
        cookie = request.cookies.get(_cookie_name(request))
        if cookie is not None and _same(cookie, self._session()):  # an old cookie is no attempt: its page asks again and again
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._is_token(given.strip(), request)

    def _is_token(self, given: str, request: web.Request) -> bool:
        """Compare a token. Raises HTTPTooManyRequests where its address has tried too many wrong ones lately."""
        address, now = request.remote or "", time.monotonic()
        failures = self._failures.setdefault(address, deque(maxlen=_FAILURES))
        if len(failures) == _FAILURES and now - failures[0] < _FAILURES_S:
            raise web.HTTPTooManyRequests(text="too many wrong tokens: wait a minute\n", headers={"Retry-After": str(int(_FAILURES_S))})
        if self._token is not None and _same(given, self._token):
            del self._failures[address]
            return True
        failures.append(now)
        if len(self._failures) > _ADDRESSES:
            del self._failures[next(iter(self._failures))]
        return False

    def _session(self) -> str:
        """Return what the cookie holds: derived from the token, from which nobody gets back to it, and the same after a restart."""
        return hmac.new((self._token or "").encode(), b"retinanet-edge session", hashlib.sha256).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="backslashreplace"), expected.encode())


def _host_and_port(request: web.Request) -> tuple[str, str]:
    """Return by which name and port the client calls this server. Raises HTTPForbidden where its Host is no name."""
    found = _HOST.fullmatch(request.headers.get("Host", "").lower())  # request.host would ask DNS where there is none, and block
    if found is None:
        raise web.HTTPForbidden(text="a Host that is a name or an address is expected\n")
    return found["v6"] or found["name"], found["port"] or "80"


def _host_name(origin: str) -> str:
    """Return the host name of an origin without its port, "" where there is none."""
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:  # brackets that are no IPv6 address
        return ""


def _cookie_name(request: web.Request) -> str:
    return f"retinanet_edge_{_host_and_port(request)[1]}"  # browsers keep one jar for all ports of a host
