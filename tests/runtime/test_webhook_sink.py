import json
import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from retinanet_edge.runtime import webhook_sink
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.sink_runner import SinkRunner
from retinanet_edge.runtime.webhook_sink import WebhookSink
from tests.runtime.certificates import make_certificate
from tests.runtime.stream_results import crossing, refused, result_of, two_found, wait_until


class Receiver(ThreadingHTTPServer):
    """A web server that answers with `status`, after `hold` was set if there is one; keeps what it was sent."""

    daemon_threads = True

    def __init__(self, port=0, certificate=None):
        super().__init__(("127.0.0.1", port), Handler)
        self.status, self.hold, self.drip, self.seen = [], None, False, []
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request, client_address):
        """Clients that have gone are no error."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), body))
        if self.server.hold:
            self.server.hold.wait(60)
        while self.server.drip:
            self.wfile.write(b"H")
            self.server.drip.wait(0.05)
        self.send_response(self.server.status.pop(0) if self.server.status else 204)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def receiver(port=0, certificate=None):
    server = Receiver(port, certificate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(webhook_sink, "_FIRST_WAIT_S", 0.01)
    monkeypatch.delenv("WEBHOOK_TOKEN", raising=False)


def event_result(index=0):
    return result_of(index, found=two_found(), tracks=[7, -1], events=[crossing()])


def url_of(server, path="/hook?a=1"):
    return f"http://127.0.0.1:{server.server_port}{path}"


def test_an_event_is_posted_with_its_frame(tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    with receiver() as server:
        sink = WebhookSink(url_of(server), token_file=tmp_path / "token")
        sink.write(result_of(0, found=two_found()))
        sink.write(event_result(1))
        sink.close()
    ((path, headers, body),) = server.seen
    assert path == "/hook?a=1"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer s3cret"
    message = json.loads(body)
    assert (message["schema"], message["frame"], len(message["detections"])) == (2, 1, 2)
    assert message["events"][0]["region"] == "gate"


def test_frames_with_detections_are_posted_where_asked(monkeypatch):
    monkeypatch.setenv("WEBHOOK_TOKEN", "environment")
    with receiver() as server:
        sink = WebhookSink(url_of(server), "detections")
        for result in (result_of(0), result_of(1, found=two_found()), result_of(2)):
            sink.write(result)
    ((_, headers, body),) = server.seen
    assert json.loads(body)["frame"] == 1
    assert headers["Authorization"] == "Bearer environment"


def test_what_may_pass_is_tried_again():
    with receiver() as server:
        server.status = [500, 503, 429]
        WebhookSink(url_of(server)).write(event_result())
    assert len(server.seen) == 4
    assert "Authorization" not in server.seen[0][1]


@pytest.mark.parametrize(("status", "tries"), [(500, 4), (404, 1), (401, 1), (301, 1), (302, 1)])
def test_tries_end_and_what_does_not_pass_is_not_tried_again(status, tries):
    with receiver() as server:
        server.status = [status] * 10
        sink = WebhookSink(url_of(server, "/secret/path"))
        assert refused(sink, event_result()) == f"receiver at 127.0.0.1: answered {status}"
        assert len(server.seen) == tries
        server.status = []
        assert refused(sink, event_result()) is None


def test_a_receiver_that_hangs_or_drips_ends_in_time():
    with receiver() as server:
        sink = WebhookSink(url_of(server), timeout_s=0.2)
        server.hold = threading.Event()
        assert refused(sink, event_result()) == "receiver at 127.0.0.1: no answer within 0.2 s"
        server.hold.set()
        server.hold, server.drip = None, threading.Event()
        assert refused(sink, event_result()) == "receiver at 127.0.0.1: no answer within 0.2 s"
        assert wait_until(lambda: len(server.seen) == 8)
        dripping, server.drip = server.drip, False
        dripping.set()
        assert refused(sink, event_result()) is None


def test_nobody_there_then_somebody():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sink = WebhookSink(f"http://127.0.0.1:{port}/hook")
    assert "Connection refused" in refused(sink, event_result())
    with receiver(port) as server:
        assert refused(sink, event_result()) is None
    assert len(server.seen) == 1


def test_in_a_stream_a_receiver_that_hangs_costs_only_its_own_results():
    with receiver() as server:
        server.hold = threading.Event()
        runner = SinkRunner(WebhookSink(url_of(server), timeout_s=0.2), capacity=5)
        for index in range(100):
            runner.put(event_result(index))
        assert wait_until(lambda: runner.status.failed >= 1)
        assert runner.status.dropped >= 94
        assert "no answer" in runner.status.message
        server.hold.set()
        server.hold = None
        assert wait_until(lambda: runner.status.written >= 1)
        runner.close(30)
        status = runner.status
        assert status.written + status.dropped + status.failed == 100
        assert status.message is None


def test_https_is_verified(tmp_path, monkeypatch):
    authority, certificate = make_certificate(tmp_path)
    with receiver(certificate=certificate) as server:
        url = url_of(server).replace("http://127.0.0.1", "https://localhost")
        message = refused(WebhookSink(url), event_result())
        assert message.startswith("receiver at localhost: certificate refused: ")
        assert server.seen == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert refused(WebhookSink(url), event_result()) is None
        assert "certificate refused" in refused(WebhookSink(url.replace("localhost", "127.0.0.1")), event_result())  # not its name
    assert len(server.seen) == 1


def test_an_address_and_a_token_file_that_are_none(tmp_path):
    for url in ("ftp://host/x", "host/x", "http://", "http://host:port/", "http://user:geheim@host/", "http://[::1/", "http://a..b/"):
        with pytest.raises(UserInputError, match="--webhook must be") as caught:
            WebhookSink(url)
        assert "geheim" not in str(caught.value)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two").write_text("a b")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, reason in (("empty", "holds 0"), ("two", "holds 2"), ("bytes", "not ASCII"), ("none", "No such file")):
        with pytest.raises(UserInputError, match=reason):
            WebhookSink("http://host/x", token_file=tmp_path / name)
    with pytest.raises(ValueError, match="on must be one of"):
        WebhookSink("http://host/x", "always")


def test_no_secret_is_said(tmp_path, caplog):
    (tmp_path / "token").write_text("s3cret")
    with receiver() as server:
        server.status = [500] * 4
        sink = WebhookSink(url_of(server, "/services/T000/geheim?key=geheim"), token_file=tmp_path / "token")
        message = refused(sink, event_result())
    for text in (message, repr(sink), caplog.text):
        assert "geheim" not in text
        assert "s3cret" not in text
