"""The web server over real connections: every route, changes of the filter, its life from start to close."""

import contextlib
import gc
import json
import os
import socket
import threading
import urllib.request
import weakref

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime import web_body, web_routes
from retinanet_edge.runtime.web_frames import LatestFrames
from retinanet_edge.runtime.web_server import WebServer
from tests.runtime.fake_control import CLASSES, FakeControl, result
from tests.runtime.web_site import PATIENCE_S, producing, read_until, serving, until


@pytest.fixture
def site():
    with serving() as one:
        yield one


def test_the_page_and_its_headers(site):
    status, headers, body = site.ask("/")
    assert status == 200
    assert headers.get_content_type() == "text/html"
    assert b'id="picture"' in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "retinanet-edge"  # no versions


def test_health(site):
    assert site.ask("/healthz")[::2] == (200, b"ok\n")
    site.control.inferred_age_s = 100.0
    assert site.ask("/healthz")[::2] == (503, b"stalled\n")


def test_metrics_and_status(site):
    status, headers, body = site.ask("/metrics")
    assert (status, headers.get_content_type()) == (200, "text/plain")
    assert b'retinanet_edge_frames_captured_total{camera="yard"} 120.0' in body
    status, _, body = site.ask("/status")
    assert status == 200
    assert [one["name"] for one in json.loads(body)["cameras"]] == ["yard", "gate"]
    assert site.control.threads == {"web"}


def test_a_snapshot_of_each_camera_and_the_one_after(site):
    site.frames.write(result(0, "yard", (48, 64)))
    site.frames.write(result(0, "gate", (30, 40)))

    def shape(path):
        status, headers, body = site.ask(path)
        assert (status, headers.get_content_type()) == (200, "image/jpeg")
        return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR).shape[:2], headers["X-Frame-Number"]

    assert shape("/snapshot.jpg") == ((48, 64), "1")  # the first camera
    assert shape("/snapshot.jpg?camera=gate") == ((30, 40), "1")
    assert shape("/snapshot.jpg?after=nonsense") == ((48, 64), "1")
    later = threading.Timer(0.2, lambda: site.frames.write(result(1)))
    later.start()
    assert shape("/snapshot.jpg?camera=yard&after=1")[1] == "2"
    later.join()


def test_a_snapshot_before_the_first_frame(site, monkeypatch):
    monkeypatch.setattr(web_routes, "_PICTURE_S", 0.1)
    assert site.ask("/snapshot.jpg")[::2] == (503, b"no frame came\n")


@pytest.mark.parametrize("path", ["/snapshot.jpg", "/stream.mjpg", "/detections"])
def test_an_unknown_camera(site, path):
    assert site.ask(path + "?camera=nowhere")[0] == 404


def test_motion_jpeg_has_whole_pictures(site):
    with producing(site.frames):
        connection, file = site.watch("/stream.mjpg?camera=yard")
        with connection, file:
            assert b"200" in file.readline()
            assert b"multipart/x-mixed-replace; boundary=frame" in read_until(file, b"Content-Type")
            numbers = []
            for _ in range(3):
                length = int(read_until(file, b"Content-Length").split()[1])
                numbers.append(int(read_until(file, b"X-Frame-Number").split()[1]))
                assert file.readline() == b"\r\n"
                picture = cv2.imdecode(np.frombuffer(file.read(length), np.uint8), cv2.IMREAD_COLOR)
                assert picture.shape == (48, 64, 3)
    assert numbers == sorted(set(numbers))


def test_a_resting_camera_repeats_its_picture(site, monkeypatch):
    site.frames.write(result())
    assert site.ask("/snapshot.jpg")[0] == 200  # made before the stream begins, which has it at once
    monkeypatch.setattr(web_routes, "_PICTURE_S", 0.1)
    connection, file = site.watch("/stream.mjpg")
    with connection, file:
        assert [read_until(file, b"X-Frame-Number").split()[1] for _ in range(3)] == [b"1"] * 3


def test_detections_as_events(site, monkeypatch):
    monkeypatch.setattr(web_routes, "_ALIVE_S", 0.1)
    connection, file = site.watch("/detections?camera=yard")
    with connection, file:
        read_until(file, b": nothing new")  # now it listens
        site.frames.write(result(1, "gate"))
        site.frames.write(result(2, "yard"))
        event = json.loads(read_until(file, b"data: ").removeprefix(b"data: "))
    assert (event["camera"], event["frame"]) == ("yard", 2)
    (found,) = event["detections"]
    assert (found["class"], found["score"], found["xyxy"]) == ("boat", 0.9123, [4.0, 20.0, 40.13, 40.0])


def test_the_filter_is_changed_and_what_is_left_out_stays(site):
    status, answer = site.change({"threshold": 0.3, "class_thresholds": {"boat": 0.7}, "only": ["boat", "balloon", "boat"]})
    wanted = {"threshold": 0.3, "class_thresholds": {"boat": 0.7}, "only": ["boat", "balloon"]}
    assert (status, answer) == (200, {"filter": wanted, "warnings": []})
    assert site.change({"only": None}) == (200, {"filter": {**wanted, "only": None}, "warnings": []})
    assert site.control.detection_filter.min_size == (2, 2)


def test_a_threshold_below_the_models_own_is_warned_of(site):
    status, answer = site.change({"threshold": 0})
    assert status == 200
    assert "raised to 0.05" in answer["warnings"][0]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff\xfe", b"null", b"[]", b"1", b'"text"', b"[" * 16_000, b'{"threshold": 1' + b"0" * 5000 + b"}",
        {"threshold": "0.5"}, {"threshold": None}, {"threshold": True}, {"threshold": [0.5]}, {"threshold": -0.1}, {"threshold": 1.1},
        b'{"threshold": NaN}', b'{"threshold": Infinity}', b'{"threshold": -Infinity}', b'{"threshold": 1e999}',
        b'{"threshold": 1' + b"0" * 400 + b"}",
        {"class_thresholds": []}, {"class_thresholds": {"boat": "high"}}, {"class_thresholds": {"boat": 2}},
        {"class_thresholds": {"submarine": 0.5}}, b'{"class_thresholds": {"boat": NaN}}',
        {"only": []}, {"only": "boat"}, {"only": [1]}, {"only": [["boat"]]}, {"only": ["submarine"]}, {"only": {"boat": 1}},
        {"min_size": [0, 0]}, {"__class__": 1}, b'{"only": ["\\ud800"]}',
    ],
)  # fmt: skip
def test_a_bad_change_is_refused_in_one_line_and_changes_nothing(site, body):
    before = site.control.detection_filter
    status, answer = site.change(body)
    assert status == 400
    assert "\n" not in answer["error"]
    assert site.control.detection_filter is before


def test_only_json_of_a_modest_size_from_this_site_is_taken(site):
    good = json.dumps({"threshold": 0.9})
    assert site.ask("/filter", "POST", good, Content_Type="text/plain")[0] == 415
    assert site.ask("/filter", "POST", good, Content_Type="application/x-www-form-urlencoded")[0] == 415
    assert site.ask("/filter", "POST", good)[0] == 415
    assert site.change(b" " * 17_000 + good.encode())[0] == 413
    for origin in ("http://evil.example", "null", "http://localhost.evil.example", "http://127.0.0.1:1", "http://[", ""):
        assert site.change(good, Origin=origin)[0] == 403
    assert site.ask("/filter")[0] == 405
    assert site.control.detection_filter.threshold == 0.5
    assert site.change(good, Origin=f"http://127.0.0.1:{site.port}")[0] == 200
    assert site.control.detection_filter.threshold == 0.9


@pytest.mark.parametrize(("path", "kind"), [("/filter", "application/json"), ("/login", "application/x-www-form-urlencoded")])
def test_a_body_that_never_comes(site, monkeypatch, path, kind):
    monkeypatch.setattr(web_body, "_BODY_S", 0.2)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n{{".encode()
    with site.raw(head) as connection, connection.makefile("rb") as file:
        assert b"408" in file.readline()


def descriptors():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_nothing_is_left_of_100_connections(site):
    with producing(site.frames):
        site.ask("/snapshot.jpg")
        threads, files = threading.active_count(), descriptors()
        for _ in range(25):
            for path in ("/stream.mjpg", "/detections"):
                connection, file = site.watch(path)
                read_until(file, b"200")
                file.close()
                connection.close()
            assert site.ask("/status")[0] == 200
            assert site.ask("/nowhere")[0] == 404
        until(lambda: descriptors() <= files)
        assert threading.active_count() == threads
        until(lambda: json.loads(site.ask("/status")[2])["viewers"] == 0)


def test_it_closes_with_streams_open_and_again():
    threads, files = threading.active_count(), descriptors()
    with serving() as site:
        site.frames.write(result())
        streams = [site.watch(path) for path in ("/stream.mjpg", "/detections", "/snapshot.jpg?after=1")]
        read_until(streams[0][1], b"X-Frame-Number")
        site.server.close()
        assert threading.active_count() == threads
        for connection, file in streams:
            with contextlib.suppress(ConnectionResetError):
                file.read()  # to its end: the server has closed it
            file.close()
            connection.close()
        site.server.close()
        assert site.frames._listeners == []
    assert descriptors() <= files


def test_a_server_that_never_started_closes():
    server = WebServer(FakeControl(), LatestFrames())
    server.close()
    assert server.url == "http://127.0.0.1:8080/"


def test_ipv6():
    with serving(host="::1") as site:
        assert site.server.url == f"http://[::1]:{site.port}/"
        with socket.create_connection(("::1", site.port), timeout=PATIENCE_S) as connection, connection.makefile("rb") as file:
            connection.sendall(f"GET /healthz HTTP/1.0\r\nHost: [::1]:{site.port}\r\n\r\n".encode())
            assert b"200" in file.readline()


def test_class_names_reach_the_page_as_they_are(site):
    assert [one["name"] for one in json.loads(site.ask("/status")[2])["classes"]] == list(CLASSES)


def test_nothing_holds_the_stream_after_the_end():
    """aiohttp's cache of handlers would keep each stream that was ever served, and a reload begins a new one."""
    control = FakeControl()
    server = WebServer(control, LatestFrames(), port=0)
    server.start()
    with urllib.request.urlopen(server.url + "status", timeout=PATIENCE_S) as answer:
        assert answer.status == 200
    server.close()
    gone = weakref.ref(control)
    del control
    gc.collect()
    assert gone() is None
