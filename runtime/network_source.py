"""Cameras and recordings on the network: RTSP, MJPEG over HTTP, and whatever else FFmpeg reads from an address, through PyAV.

A video over HTTP whose length is known is a recording. Live streams come without buffering, in the size of each frame.
"""

from __future__ import annotations

import socket
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from retinanet_edge.runtime.camera import DEFAULT_FPS, SourceImages, SourceOptions
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.recorded_source import repeated
from retinanet_edge.runtime.redaction import redacted
from retinanet_edge.runtime.video_reading import hardware_decoder, live_images, nominal_fps, recorded_images, video_stream

if TYPE_CHECKING:
    import av

TIMEOUT_S = 10.0  # for an answer, and for each packet
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".ogv", ".flv", ".mpg", ".mpeg", ".wmv")
_PROBE_S = 2.0  # to find out why nothing answers


class NetworkSource:
    """A stream or video at `url`. `live` is a guess by its ending until it is connected, `fps` is DEFAULT_FPS until then."""

    def __init__(self, url: str, options: SourceOptions, timeout_s: float = TIMEOUT_S) -> None:
        self.name, self.fps = redacted(url), DEFAULT_FPS
        self._http = urlsplit(url).scheme.lower().startswith("http")
        self.live = not (self._http and PurePosixPath(urlsplit(url).path).suffix.lower() in _VIDEO_SUFFIXES)
        self._url, self._options, self._timeout_s = url, options, timeout_s

    def images(self) -> SourceImages:
        """Yield images as they come, or all of a recording. Raises CameraError for whatever is in the way."""
        return repeated(self._connection, lambda: self.fps) if self._options.loop and not self.live else self._connection()

    def _connection(self) -> SourceImages:
        with self._open() as container:
            self.fps = nominal_fps(video_stream(container, self.name))
            self.live = not (self._http and container.duration is not None)
            return (yield from (live_images if self.live else recorded_images)(container, self.name))

    def _open(self) -> av.container.InputContainer:
        import av

        av.logging.set_level(None)  # FFmpeg's own lines hold the address with its password
        hardware = hardware_decoder() if self._options.decode == "hardware" else None
        began = time.monotonic()
        try:
            return av.open(self._url, options=self._ffmpeg_options(), timeout=self._timeout_s, hwaccel=hardware)
        except av.error.FFmpegError as error:
            late = time.monotonic() - began >= self._timeout_s
            raise opening_error(self.name, self._url, error, self._timeout_s if late else None) from None
        except RuntimeError:
            message = f"{self.name} sends what no hardware here decodes: decode with auto or software"
            raise CameraError(message, CameraFault.UNSUPPORTED) from None

    def _ffmpeg_options(self) -> dict[str, str]:
        if self._http:
            return {}
        return {"rtsp_transport": self._options.transport, "fflags": "nobuffer", "flags": "low_delay"}


def opening_error(name: str, url: str, error: av.error.FFmpegError, waited_s: float | None) -> CameraError:
    """Return why `url` did not open. waited_s: after how long it was given up, None where it was refused sooner."""
    import av

    if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        message = f"{name} wants another user or password ({error.strerror}): write USER:PASSWORD@ before its host"
        return CameraError(message, CameraFault.AUTHENTICATION)
    if isinstance(error, av.error.HTTPNotFoundError):
        return CameraError(f"{name}: the server has nothing under this path ({error.strerror}): check it", CameraFault.NOT_FOUND)
    if isinstance(error, av.error.HTTPError):
        return CameraError(f"{name}: {error.strerror}: check the address and the server's own log", CameraFault.OTHER)
    return _unreachable(name, url) or _unreadable(name, error, waited_s)


def _unreachable(name: str, url: str) -> CameraError | None:
    """Return what keeps its server from being reached, None where it answers: FFmpeg says the same of most reasons."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme.lower(), 0)), _PROBE_S).close()
    except socket.gaierror:
        return CameraError(f"{name}: there is no such host: check the address and the name server", CameraFault.NOT_FOUND)
    except TimeoutError:
        return CameraError(f"{name}: nothing answers there: check the address, the cable and the firewall", CameraFault.TIMEOUT)
    except ConnectionRefusedError:
        return CameraError(f"{name}: Connection refused: check the port and that it is sending", CameraFault.REFUSED)
    except ValueError:
        return CameraError(f"{name} is no address: write @ and / in a password as %40 and %2F", CameraFault.NOT_FOUND)
    except OSError as error:
        return CameraError(f"{name} cannot be reached ({error.strerror}): check the address and the network", CameraFault.OTHER)
    return None


def _unreadable(name: str, error: av.error.FFmpegError, waited_s: float | None) -> CameraError:
    import av

    if waited_s is not None or isinstance(error, av.error.ExitError):
        return CameraError(f"{name} answers nothing: gave up after {waited_s or 0:g} s", CameraFault.TIMEOUT)
    if isinstance(error, (av.error.InvalidDataError, av.error.LookupError, av.error.PatchWelcomeError)):
        return CameraError(f"{name} sends nothing that is video ({error.strerror}): check the address", CameraFault.NOT_DECODABLE)
    return CameraError(f"{name} does not open ({error.strerror}): check the address and that it is sending", CameraFault.OTHER)
