"""Recordings as cameras: videos, images and the demo's generated scenes. Every frame, in order, none dropped.

Video is read with PyAV, not OpenCV: it says why a file does not open, goes on after a broken packet and gives each frame's time.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.camera import DEFAULT_FPS, Frame
from retinanet_edge.runtime.errors import CameraError

if TYPE_CHECKING:
    import av

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_DEMO_FRAMES_A_SCENE = 100
_LAST_FRAMES = 3  # by so many a header may be wrong without anything missing

# Yields frames; what it returns at its end is the camera's remark.
_Frames = Generator[Frame, None, str | None]


class RecordedCamera:
    """A recording as a Camera."""

    def __init__(self, name: str, fps: float, frames: _Frames) -> None:
        self.name, self.fps = name, fps
        self.dropped = 0
        self.remark: str | None = None
        self._frames, self._stopped = frames, False

    def frames(self) -> Iterator[Frame]:
        """Yield what is left of the recording. Raises CameraError for what does not decode."""
        while not self._stopped:
            try:
                frame = next(self._frames)
            except StopIteration as end:
                self.remark = end.value
                return
            yield frame

    def stop(self) -> None:
        """Let `frames` end after the frame at hand."""
        self._stopped = True

    def close(self) -> None:
        """Release the file."""
        self._frames.close()

    def __enter__(self) -> RecordedCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_demo(fps: float) -> RecordedCamera:
    """Open generated scenes without end, the same ones each time."""
    return RecordedCamera("demo", fps, _scene_frames(fps))


def open_folder(folder: Path, fps: float) -> RecordedCamera:
    """Open the images directly in `folder`, by name. Raises CameraError where there are none."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise CameraError(f"{folder} must hold images ({', '.join(IMAGE_SUFFIXES)}), got none: name another folder")
    return open_images(paths, str(folder), fps)


def open_images(paths: Sequence[Path], name: str, fps: float) -> RecordedCamera:
    """Open image files as a recording of `fps`."""
    return RecordedCamera(name, fps, _image_frames(paths, fps))


def open_video(name: str) -> RecordedCamera:
    """Open a video file. Raises CameraError, with FFmpeg's reason, where it is none."""
    import av

    try:
        container = av.open(name)
    except av.error.FFmpegError as error:
        raise CameraError(f"{name} must be a video or an image, got a file that does not open ({error.strerror})") from None
    return record_container(container, name)


def record_container(container: av.container.InputContainer, name: str) -> RecordedCamera:
    """Return the camera of an open container. Raises CameraError where it holds no video."""
    if not container.streams.video:
        container.close()
        raise CameraError(f"{name} must hold video, got a file without a video stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"  # several frames at once: delay costs a recording nothing
    fps = float(stream.average_rate or DEFAULT_FPS)
    return RecordedCamera(name, fps, _video_frames(container, name, fps))


def upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Return the image uint8 [H, W, 3] BGR of a decoded frame, turned as the file asks: telephones record sideways."""
    image: NDArray[np.uint8] = frame.to_ndarray(format="bgr24")
    quarters = round(frame.rotation / 90)  # counterclockwise
    return np.ascontiguousarray(np.rot90(image, quarters))


def _scene_frames(fps: float) -> _Frames:
    from retinanet_edge.runtime.scene_video import DEMO_CAMERA_SEED, SEEDS_A_BLOCK, SceneVideo

    for index in itertools.count():
        scene, moment = divmod(index, _DEMO_FRAMES_A_SCENE)
        if moment == 0:
            video = SceneVideo((DEMO_CAMERA_SEED + scene) % SEEDS_A_BLOCK)
        image, _, _ = video.frame(moment)
        yield Frame(image, index, index / fps, time.perf_counter())
    return None


def _image_frames(paths: Sequence[Path], fps: float) -> _Frames:
    for index, path in enumerate(paths):
        yield Frame(_read_image(path), index, index / fps, time.perf_counter())
    return None


def _read_image(path: Path) -> NDArray[np.uint8]:
    import cv2

    try:
        image: NDArray[np.uint8] | None = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # zero bytes, or more pixels than OpenCV takes
        image = None
    if image is None:
        raise CameraError(f"{path} must be an image, got {path.stat().st_size} bytes that do not decode: mend or remove it")
    return image


def _video_frames(container: av.container.InputContainer, name: str, fps: float) -> _Frames:
    with container:
        stream, broken = container.streams.video[0], _Counter()
        count, promised, promised_s, timestamp_s = 0, stream.frames, _end_s(stream), 0.0
        for decoded in _decode(container, broken):
            timestamp_s = count / fps if decoded.time is None else decoded.time
            yield Frame(upright(decoded), count, timestamp_s, time.perf_counter())
            count += 1
    if count == 0:
        raise CameraError(f"{name} must hold video that decodes, got no frame out of {promised or 'an unknown number'} promised")
    # Not by the count alone: a video that was trimmed without being encoded again still states that of the whole.
    if count < promised and timestamp_s + _LAST_FRAMES / fps < promised_s:
        raise CameraError(
            f"{name} ends early: its header promises {promised} frames, {promised_s:.1f} s, {count} decoded, up to {timestamp_s:.1f} s: "
            "what came has gone through, bring the whole file for the rest"
        )
    remarks = [f"header promised {promised} frames, {count} decoded"] if promised not in (0, count) else []
    remarks += [f"{broken.count} broken packets skipped"] if broken.count else []
    return f"{name}: {', '.join(remarks)}" if remarks else None


def _end_s(stream: Any) -> float:
    """Return when a stream ends by its header, infinitely late where that says nothing."""
    if stream.duration is None or stream.time_base is None:
        return math.inf
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base)


class _Counter:
    def __init__(self) -> None:
        self.count = 0


def _decode(container: av.container.InputContainer, broken: _Counter) -> Iterator[Any]:
    """Yield what decodes; a broken packet is counted and skipped, a file that breaks off ends there."""
    import av

    packets = container.demux(container.streams.video[0])
    while True:
        try:
            decoded = next(packets).decode()
        except (StopIteration, av.error.EOFError):
            return
        except av.error.FFmpegError:  # once the demuxer itself has failed, the next turn ends the loop
            broken.count += 1
            continue
        yield from decoded
