"""Opens and decodes video with PyAV, whether from a file or from the network; makes of FFmpeg's errors typed ones without passwords.

Not with OpenCV: PyAV says why something does not open, stops waiting in time, goes on after a broken packet and gives each frame's time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.camera import DEFAULT_FPS, SourceImage, SourceImages
from retinanet_edge.runtime.errors import CameraError, CameraFault

if TYPE_CHECKING:
    import av
    from av.codec.hwaccel import HWAccel

_LAST_FRAMES = 3  # by so many a header may be wrong without anything missing
_HARDWARE = ("cuda", "vaapi")  # in this order, what decodes beside the CPU and gives its images back to it


def hardware_decoder() -> HWAccel:
    """Return what decodes in hardware here. Raises CameraError, UNSUPPORTED, where nothing does."""
    import av
    from av.codec.hwaccel import HWAccel, hwdevices_available

    for kind in (kind for kind in _HARDWARE if kind in hwdevices_available()):
        decoder = HWAccel(kind, allow_software_fallback=False)
        try:
            decoder.create(av.Codec("h264", "r"))
        except (av.error.FFmpegError, RuntimeError, NotImplementedError):
            continue
        return decoder
    raise CameraError("PyAV finds no hardware here that decodes (cuda, vaapi): decode with auto or software", CameraFault.UNSUPPORTED)


def video_stream(container: av.container.InputContainer, name: str) -> Any:
    """Return the first video stream. Raises CameraError, NOT_DECODABLE, where there is none or no decoder for it."""
    if not container.streams.video:
        raise CameraError(f"{name} must hold video, got something without a video stream", CameraFault.NOT_DECODABLE)
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise CameraError(f"{name} holds video that this FFmpeg has no decoder for: send H.264, H.265 or MJPEG", CameraFault.NOT_DECODABLE)
    return stream


def nominal_fps(stream: Any) -> float:
    """Return a stream's frames per second, DEFAULT_FPS where it does not say."""
    return float(stream.average_rate or DEFAULT_FPS)


def recorded_images(container: av.container.InputContainer, name: str) -> SourceImages:
    """Yield every image of a recording, with its time. Returns a remark where fewer came than its header promises.

    Raises CameraError, NOT_DECODABLE where nothing decodes, LOST where it breaks off early.
    """
    import av

    stream = video_stream(container, name)
    stream.thread_type = "AUTO"  # several frames at once: delay costs a recording nothing
    fps, promised, promised_s = nominal_fps(stream), stream.frames, _end_s(stream)
    count, broken, lost, timestamp_s = 0, 0, 0, 0.0
    try:
        for decoded in _decode(container.demux(stream)):
            if decoded is None:
                broken, lost = broken + 1, lost + 1
                continue
            timestamp_s = count / fps if decoded.time is None else decoded.time
            yield SourceImage(upright(decoded), timestamp_s, lost)
            count, lost = count + 1, 0
    except av.error.FFmpegError:  # breaks off here
        broken += 1
    if count == 0:
        message = f"{name} must hold video that decodes, got no frame out of {promised or 'an unknown number'} promised"
        raise CameraError(message, CameraFault.NOT_DECODABLE)
    # Not by the count alone: a video that was trimmed without being encoded again still states that of the whole.
    if count < promised and timestamp_s + _LAST_FRAMES / fps < promised_s:
        raise CameraError(
            f"{name} ends early: its header promises {promised} frames, {promised_s:.1f} s, {count} decoded, up to {timestamp_s:.1f} s: "
            "what came has gone through, bring the whole file for the rest", CameraFault.LOST,
        )  # fmt: skip
    return _remark(name, promised, count, broken)


def live_images(container: av.container.InputContainer, name: str) -> SourceImages:
    """Yield the images of a stream as they come, in whatever size. Raises CameraError when it ends, since none should, or falls silent."""
    import av

    failed = 0
    try:
        for decoded in _decode(container.demux(video_stream(container, name))):
            if decoded is None:
                failed += 1
                continue
            yield SourceImage(upright(decoded), None, failed)
            failed = 0
    except (av.error.ExitError, av.error.TimeoutError):  # the first is PyAV's own time-out
        raise CameraError(f"{name} fell silent", CameraFault.TIMEOUT) from None
    except av.error.FFmpegError as error:
        raise CameraError(f"{name} is gone ({error.strerror})", CameraFault.LOST) from None
    raise CameraError(f"{name} has ended", CameraFault.LOST)


def upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Return the image uint8 [H, W, 3] BGR of a decoded frame, turned as the file asks: telephones record sideways."""
    image: NDArray[np.uint8] = frame.to_ndarray(format="bgr24")
    quarters = round(frame.rotation / 90)  # counterclockwise
    return np.ascontiguousarray(np.rot90(image, quarters))


def _decode(packets: Iterator[Any]) -> Iterator[Any]:
    """Yield decoded frames, and None for each packet that does not decode. Raises FFmpeg's error where no packet comes."""
    import av

    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.EOFError):
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            yield None
            continue
        yield from frames


def _remark(name: str, promised: int, count: int, broken: int) -> str | None:
    remarks = [f"header promised {promised} frames, {count} decoded"] if promised not in (0, count) else []
    remarks += [f"{broken} broken packets skipped"] if broken else []
    return f"{name}: {', '.join(remarks)}" if remarks else None


def _end_s(stream: Any) -> float:
    """Return when a stream ends by its header, infinitely late where that says nothing."""
    if stream.duration is None or stream.time_base is None:
        return math.inf
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
