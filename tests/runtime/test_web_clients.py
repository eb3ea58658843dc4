"""What a stranger's program may do to the web server: bad paths, garbage, slowness, deafness, sheer number."""

import contextlib
import json
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from retinanet_edge.runtime import web_routes, web_server
from tests.runtime.fake_control import result
from tests.runtime.web_site import PATIENCE_S, producing, read_until, serving, until


@pytest.fixture
def site():
    with serving() as one:
        yield one


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/static/../../etc/passwd",
             "/%00", "/..\\..\\etc\\passwd", "/runtime/web_page.py", "/snapshot.jpg/../../etc/passwd", "/favicon.ico", "/%ff"],
)  # fmt: skip
def test_nothing_of_the_disk_is_served(site, path):
    with site.raw(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()) as connection, connection.makefile("rb") as file:
        answer = file.read()
    assert answer.split()[1] in (b"400", b"404")
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET\r\n\r\n", b"\x00" * 5000,
        b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /filter HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9" + b"9" * 30 + b"\r\n\r\n",
    ],
)  # fmt: skip
def test_garbage_is_answered_with_400_or_silence(site, data, caplog):
    answer = b""
    with site.raw(data) as connection, contextlib.suppress(ConnectionResetError), connection.makefile("rb") as file:
        answer = file.readline()
    assert answer == b"" or answer.startswith((b"HTTP/1.0 4", b"HTTP/1.1 4"))
    assert site.ask("/healthz")[0] == 200
    assert "Traceback" not in caplog.text


def test_a_connection_that_never_says_what_it_wants_is_ended(site, monkeypatch):
    monkeypatch.setattr(web_server, "_FIRST_REQUEST_S", 0.2)
    with site.raw(b"GET / HTTP/1.1\r\nHost: loc") as slow, site.raw() as mute:
        assert slow.recv(100) == b""
        assert mute.recv(100) == b""


def test_too_many_connections_are_refused(site, monkeypatch):
    monkeypatch.setattr(web_server, "_MOST_CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            connection, file = site.watch("/detections")
            stack.enter_context(connection)
            read_until(stack.enter_context(file), b"200")
        extra = stack.enter_context(site.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        with contextlib.suppress(ConnectionResetError):
            assert extra.recv(100) == b""


def test_too_many_viewers_are_refused_and_leave_room_when_they_go(site, monkeypatch):
    monkeypatch.setattr(web_routes, "_MOST_VIEWERS", 2)
    with producing(site.frames):
        with contextlib.ExitStack() as stack:
            for path in ("/stream.mjpg", "/detections"):
                connection, file = site.watch(path)
                stack.enter_context(connection)
                read_until(stack.enter_context(file), b"200")
            status, headers, _ = site.ask("/snapshot.jpg")
            assert (status, headers["Retry-After"]) == (503, "10")
            assert json.loads(site.ask("/status")[2])["viewers"] == 2
        until(lambda: json.loads(site.ask("/status")[2])["viewers"] == 0)
        assert site.ask("/snapshot.jpg")[0] == 200


def test_a_client_that_reads_nothing_is_cut_off_and_holds_nobody_up(site, monkeypatch):
    monkeypatch.setattr(web_routes, "_SEND_S", 0.3)
    noise = np.random.default_rng(0).integers(0, 255, (540, 960, 3), np.uint8)
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with deaf:
        deaf.connect(("127.0.0.1", site.port))
        deaf.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: site.frames._listeners)
        ended, index = time.monotonic() + PATIENCE_S, 0
        while json.loads(site.ask("/status")[2])["viewers"]:
            assert time.monotonic() < ended, "still a viewer"
            loud = result(index)
            loud.frame.image.resize((540, 960, 3), refcheck=False)
            loud.frame.image[:] = noise
            site.frames.write(loud)
            index += 1
    assert site.ask("/snapshot.jpg")[0] == 200


CLIENTS = """
import asyncio, sys
async def watch(port, enough):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /stream.mjpg HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    for _ in range(3):
        await reader.readuntil(b"X-Frame-Number")
    enough.release()
    while await reader.read(65536):
        pass
async def main(port, count):
    enough = asyncio.Semaphore(0)
    watching = [asyncio.create_task(watch(port, enough)) for _ in range(count)]
    for _ in range(count):
        await enough.acquire()
    print("all watch", flush=True)
    await asyncio.gather(*watching, return_exceptions=True)
asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""


def test_200_viewers_cost_the_stream_nothing(site):
    with producing(site.frames, interval_s=0.005) as written:
        viewers = subprocess.Popen([sys.executable, "-c", CLIENTS, str(site.port), "200"], stdout=subprocess.PIPE, text=True)
        try:
            assert viewers.stdout.readline() == "all watch\n"  # each has three pictures
            assert json.loads(site.ask("/status")[2])["viewers"] == 200
            begin = len(written)
            until(lambda: len(written) > begin + 200)
            # The writer's own processor time, which others on the machine do not change: it draws, encodes and sends nothing.
            assert (written[-1] - written[begin]) / (len(written) - 1 - begin) < 0.002
        finally:
            viewers.kill()
            viewers.communicate()
        until(lambda: json.loads(site.ask("/status")[2])["viewers"] == 0)
