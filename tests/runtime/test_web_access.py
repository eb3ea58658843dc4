"""Who may see the web page and change the stream: tokens, sessions, names, origins, addresses."""

import json
import socket

import pytest

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.web_frames import LatestFrames
from retinanet_edge.runtime.web_server import WebServer
from tests.runtime.fake_control import FakeControl, result
from tests.runtime.web_site import TOKEN, serving


@pytest.fixture
def site():
    with serving() as one:
        yield one


@pytest.fixture
def guarded():
    with serving(token=TOKEN) as one:
        yield one


ROUTES = ["/", "/metrics", "/status", "/snapshot.jpg", "/stream.mjpg", "/detections", "/filter", "/nowhere"]


@pytest.mark.parametrize("path", ROUTES)
def test_everything_but_health_needs_the_token(guarded, path):
    guarded.frames.write(result())
    method = "POST" if path == "/filter" else "GET"
    for headers in ({}, {"Authorization": "Bearer wrong-token-of-tests"}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer"},
                    {"Cookie": f"retinanet_edge_{guarded.port}={TOKEN}"}):  # fmt: skip
        status, _, body = guarded.ask(path, method, **headers)
        assert status == 401
        assert b"picture" not in body
        assert TOKEN.encode() not in body


def test_the_token_as_bearer(guarded):
    assert guarded.ask("/status", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert guarded.ask("/status", Authorization=f"bearer  {TOKEN}")[0] == 200
    assert guarded.ask(f"/status?token={TOKEN}")[0] == 401  # addresses end in logs
    status, _, body = guarded.ask("/healthz")
    assert (status, body) == (200, b"ok\n")


def test_the_login_form_gives_a_cookie_that_is_not_the_token(guarded):
    form = {"Content_Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{guarded.port}"}
    assert b"/login" in guarded.ask("/")[2]
    status, headers, body = guarded.ask("/login", "POST", "token=wrong", **form)
    assert (status, headers["Set-Cookie"]) == (401, None)
    assert b"not the token" in body
    status, headers, _ = guarded.ask("/login", "POST", f"token={TOKEN}", **form)
    assert (status, headers["Location"]) == (303, "/")
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
    assert TOKEN not in cookie
    assert guarded.ask("/status", Cookie=cookie)[0] == 200
    assert guarded.ask("/status", Cookie=cookie[:-1])[0] == 401
    assert guarded.ask("/login", "POST", f"token={TOKEN}", **{**form, "Origin": "http://evil.example"})[0] == 403
    assert guarded.ask("/login", "POST", json.dumps({"token": TOKEN}), Content_Type="application/json")[0] == 415


@pytest.mark.parametrize("body", [b"", b"token", b"token=\xff\xfe", b"token=%ff%00", b"&" * 9000, b"other=" + TOKEN.encode()])
def test_strange_forms(guarded, body):
    assert guarded.ask("/login", "POST", body, Content_Type="application/x-www-form-urlencoded; charset=no-such")[0] == 401


def test_wrong_tokens_are_counted_and_sessions_go_on(guarded):
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    cookie = guarded.ask("/login", "POST", f"token={TOKEN}", **form)[1]["Set-Cookie"].split(";")[0]
    statuses = [guarded.ask("/status", Authorization=f"Bearer guess-{number}")[0] for number in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    status, headers, _ = guarded.ask("/login", "POST", f"token={TOKEN}", **form)
    assert (status, headers["Retry-After"]) == (429, "60")
    assert guarded.ask("/status", Cookie=cookie)[0] == 200
    for _ in range(10):
        assert guarded.ask("/status", Cookie="retinanet_edge_80=old")[0] == 401  # not an attempt


@pytest.mark.parametrize("given", ["Bearer \xff\xfe\xe9", "Bearer " + "x" * 7000, "Bearer a\tb", "\x80"])
def test_strange_tokens(guarded, given):
    assert guarded.ask("/status", Authorization=given.encode("latin-1"))[0] == 401


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "[", "", "a@localhost:x"])
def test_a_foreign_name_on_loopback(site, host):
    # A page of evil.example whose name suddenly points to 127.0.0.1 (DNS rebinding).
    assert site.ask("/status", Host=host)[0] in (400, 403)
    assert site.ask("/healthz", Host=host)[0] in (400, 403)


def test_no_name_at_all(site, monkeypatch):
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("DNS was asked, which may block for seconds"))
    with site.raw(b"GET /healthz HTTP/1.0\r\n\r\n") as connection, connection.makefile("rb") as file:
        assert b"403" in file.readline()


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1", "[::1]:8080", "LOCALHOST:1"])
def test_own_names(site, host):
    assert site.ask("/status", Host=host)[0] == 200


def test_a_proxys_name_is_trusted_where_asked():
    with serving(trusted=("Camera.example",)) as site:
        assert site.ask("/status", Host="camera.example")[0] == 200
        assert site.change({"threshold": 0.4}, Origin="https://camera.example")[0] == 200
        assert site.ask("/status", Host="evil.example")[0] == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "camera.example"])
def test_other_machines_need_a_token(host):
    with pytest.raises(UserInputError, match=r"needs a token.*token_urlsafe"):
        WebServer(FakeControl(), LatestFrames(), host=host)


@pytest.mark.parametrize("token", ["", "short", "with a space in its middle", "ümlaut-is-not-ascii", "a-line-break-in-it\n"])
def test_a_weak_token_is_refused(token):
    with pytest.raises(UserInputError, match="16 or more characters"):
        WebServer(FakeControl(), LatestFrames(), token=token)


def test_all_addresses_with_a_token():
    with serving(host="0.0.0.0", token=TOKEN) as site:
        assert socket.gethostname() in site.server.url
        assert TOKEN not in site.server.url
        assert site.ask("/status", Host="camera.example", Authorization=f"Bearer {TOKEN}")[0] == 200


def test_a_port_that_is_taken(site):
    with pytest.raises(UserInputError, match=rf"port {site.port} \(Address already in use\)"):
        WebServer(site.control, site.frames, port=site.port).start()


@pytest.mark.parametrize(("host", "port"), [("192.0.2.7", 8080), ("no-such-host.invalid", 8080), ("127.0.0.1", 99_999), ("a" * 70, 1)])
def test_an_address_that_is_not_ours(host, port):
    with pytest.raises(UserInputError, match="no web page at") as error:
        WebServer(FakeControl(), LatestFrames(), host=host, port=port, token=TOKEN).start()
    assert "\n" not in str(error.value)
