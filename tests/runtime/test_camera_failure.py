import gc
import logging
import weakref

import pytest

from retinanet_edge.runtime.camera_failure import failure_of
from retinanet_edge.runtime.errors import CameraError, CameraFault, RetinaNetEdgeError


def test_a_typed_error_keeps_its_fault():
    failure = failure_of(CameraError("door: nothing answers", CameraFault.TIMEOUT), "door")
    assert (str(failure.error), failure.error.fault, failure.lasting) == ("door: nothing answers", CameraFault.TIMEOUT, False)


def test_what_this_machine_cannot_do_lasts():
    assert failure_of(CameraError("no GStreamer here", CameraFault.UNSUPPORTED), "door").lasting


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (ValueError("odd height"), "ValueError: odd height"),
        (RetinaNetEdgeError("cable pulled"), "(cable pulled)"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_what_drivers_raise_may_be_mended(error, text):
    failure = failure_of(error, "door")
    assert text in str(failure.error)
    assert str(failure.error).startswith("camera door failed (")
    assert (failure.error.fault, failure.lasting) == (CameraFault.OTHER, False)


@pytest.mark.parametrize("error", [kind("x") for kind in (TypeError, AttributeError, KeyError, IndexError, AssertionError, ImportError)])
def test_a_mistake_in_the_program_lasts_and_is_logged_with_its_traceback(error, caplog):
    try:
        raise error
    except type(error) as raised:
        failure = failure_of(raised, "door")
    assert failure.lasting
    assert "raise error" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_no_password_in_message_or_log(caplog):
    address = "rtsp://user:geheim@10.0.0.1/"
    for error in (OSError(f"cannot open {address}"), TypeError(f"not {address}"), CameraError(f"{address} is gone")):
        assert "geheim" not in str(failure_of(error, "door").error)
    assert caplog.records
    assert "geheim" not in caplog.text


def test_the_error_does_not_keep_the_buffers_of_its_connection():
    class Buffer:
        pass

    def read():
        buffer = Buffer()
        references.append(weakref.ref(buffer))
        raise CameraError("gone")

    references, failure = [], None
    try:
        read()
    except CameraError as error:
        failure = failure_of(error, "door")
    gc.collect()
    assert str(failure.error) == "gone"
    assert references[0]() is None
