"""A web server with its stream, a client of it, and frames that come by themselves."""

import contextlib
import http.client
import json
import socket
import threading
import time

from retinanet_edge.runtime.web_frames import LatestFrames
from retinanet_edge.runtime.web_server import WebServer
from tests.runtime.fake_control import FakeControl, camera, result

TOKEN = "a-token-of-the-tests"
PATIENCE_S = 60


class Site:
    """A running server, its stream and a client."""

    def __init__(self, **options):
        self.control, self.frames = FakeControl((camera("yard"), camera("gate"))), LatestFrames()
        self.server = WebServer(self.control, self.frames, port=0, **options)
        self.server.start()
        self.port = int(self.server.url.rstrip("/").rsplit(":", 1)[1])

    def ask(self, path, method="GET", body=None, **headers):
        """Return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def change(self, body, **headers):
        """POST to /filter; return status and the answer's JSON, or text."""
        text = body if isinstance(body, (bytes, str)) else json.dumps(body)
        status, kind, content = self.ask("/filter", "POST", text, **{"Content_Type": "application/json", **headers})
        return status, json.loads(content) if kind.get_content_type() == "application/json" else content.decode()

    def raw(self, data=b""):
        """Open a connection and send bytes as they are."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        connection.sendall(data)
        return connection

    def watch(self, path):
        """Open a stream and return its file."""
        connection = self.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return connection, connection.makefile("rb")


@contextlib.contextmanager
def serving(**options):
    site = Site(**options)
    try:
        yield site
    finally:
        site.server.close()


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def read_until(file, wanted):
    """Read lines until one has `wanted` in it, and return it."""
    while wanted not in (line := file.readline()):
        assert line, "the connection ended"
    return line


@contextlib.contextmanager
def producing(frames, cameras=("yard",), interval_s=0.01):
    """Frames come on a thread of their own."""
    ended, written = threading.Event(), []

    def produce():
        while not ended.wait(interval_s):
            for name in cameras:
                frames.write(result(len(written), name))
            written.append(time.thread_time())

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        yield written
    finally:
        ended.set()
        thread.join()
