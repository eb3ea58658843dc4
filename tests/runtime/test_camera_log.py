import logging

from retinanet_edge.runtime.camera import CameraState
from retinanet_edge.runtime.camera_log import CameraLog

RUNNING, BACKOFF, CONNECTING = CameraState.RUNNING, CameraState.BACKOFF, CameraState.CONNECTING


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_line_names_camera_states_and_reason(caplog):
    caplog.set_level(logging.INFO)
    log = CameraLog("door", lambda: 0.0)
    log.change(CONNECTING, RUNNING)
    log.change(RUNNING, BACKOFF, "Connection reset", "; next try in 0.5 s")
    assert lines(caplog) == ["camera door: connecting -> running", "camera door: running -> backoff: Connection reset; next try in 0.5 s"]
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.WARNING]
    assert {record.name for record in caplog.records} == {"retinanet_edge.camera"}


def test_the_same_failure_is_logged_once_a_minute(caplog):
    caplog.set_level(logging.INFO)
    now_s = [0.0]
    log = CameraLog("door", lambda: now_s[0])
    for second in range(0, 125, 5):  # tells at 0, 60 and 120 s
        now_s[0] = float(second)
        log.change(CONNECTING, BACKOFF, "refused", f"; next try in {second} s")
        log.change(BACKOFF, CONNECTING)
    assert [line.split("in ")[1] for line in lines(caplog) if "refused" in line] == ["0 s", "60 s", "120 s"]
    assert lines(caplog).count("camera door: backoff -> connecting") == 3
    log.change(CONNECTING, BACKOFF, "wrong password")
    assert lines(caplog)[-1] == "camera door: connecting -> backoff: wrong password"


def test_that_it_runs_again_is_said_after_each_failure_that_was(caplog):
    caplog.set_level(logging.INFO)
    log = CameraLog("door", lambda: 0.0)
    for failure in ("refused", "refused", "reset"):
        log.change(CONNECTING, RUNNING)
        log.change(RUNNING, BACKOFF, failure)
        log.change(BACKOFF, CONNECTING)
    log.change(CONNECTING, RUNNING)
    assert [line.split(" -> ")[1] for line in lines(caplog)] == [
        "running", "backoff: refused", "connecting", "running",  # the second "refused" is not told
        "backoff: reset", "running",
    ]  # fmt: skip


def test_it_remembers_one_minute_only():
    now_s = [0.0]
    log = CameraLog("door", lambda: now_s[0])
    for second in range(1000):
        now_s[0] = float(second)
        log.change(CONNECTING, BACKOFF, f"failure {second}")
    assert len(log._logged_s) <= 60
