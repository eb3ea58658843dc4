"""What ends a connection, as one typed error without passwords, and whether another try may mend it."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass

from retinanet_edge.runtime.errors import CameraError, CameraFault, RetinaNetEdgeError
from retinanet_edge.runtime.redaction import redacted

# What only a mistake in the program raises. Drivers and codecs raise nearly everything else.
_MISTAKES = (TypeError, AttributeError, NameError, KeyError, IndexError, AssertionError, ImportError)
_log = logging.getLogger("retinanet_edge.camera")


@dataclass(frozen=True)
class CameraFailure:
    """Why a connection ended. lasting: no retry mends it."""

    error: CameraError
    lasting: bool = False


def failure_of(error: BaseException, camera: str) -> CameraFailure:
    """Return the failure behind whatever a source raised; the traceback of a mistake in the program goes to the log.

    The error is a new one: that of the source holds its connection's frames and buffers through its traceback.
    """
    if isinstance(error, CameraError):
        return CameraFailure(CameraError(redacted(str(error)), error.fault), error.fault is CameraFault.UNSUPPORTED)
    kind = "" if isinstance(error, RetinaNetEdgeError) else f"{type(error).__name__}: "
    wrapped = CameraError(redacted(f"camera {camera} failed ({kind}{error}): check it"), CameraFault.OTHER)
    if not isinstance(error, _MISTAKES):
        return CameraFailure(wrapped)
    _log.error("camera %s: a mistake in the program, please report it\n%s", camera, redacted("".join(traceback.format_exception(error))))
    return CameraFailure(wrapped, lasting=True)
