"""GStreamer pipelines as sources, and the pipelines for a Jetson's own camera, decoder and sensor interface.

They run inside OpenCV where it is built with GStreamer (JetPack's and Debian's are, pip's is not), else in a process of gst-launch-1.0.
"""

from __future__ import annotations

import re
import shlex
import shutil
from typing import Any

from retinanet_edge.runtime.camera import DEFAULT_FPS, SourceImage, SourceImages, SourceOptions
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.gstreamer_process import process_images
from retinanet_edge.runtime.opencv_build import opencv_features
from retinanet_edge.runtime.redaction import redacted

_NEWEST = "appsink drop=1 max-buffers=1 sync=false"
_TO_BGR = f"videoconvert ! video/x-raw,format=BGR ! {_NEWEST}"
_FROM_NVMM = f"nvvidconv ! video/x-raw,format=BGRx ! {_TO_BGR}"  # NVIDIA's converter knows no BGR
_APPSINK = re.compile(r"!\s*appsink\b[^!]*$")
_NO_GSTREAMER = (
    "neither this OpenCV ({version}) is built with GStreamer nor is gst-launch-1.0 there: install gstreamer1.0-tools, or on a Jetson use "
    "JetPack's OpenCV in a virtual environment with --system-site-packages and without pip's opencv packages"
)


class GStreamerSource:
    """What a pipeline gives. It may end in an appsink; one that gives the newest frame is added where it does not."""

    live = True

    def __init__(self, pipeline: str, name: str, fps: float | None = None) -> None:
        """Raises CameraError, UNSUPPORTED, for a text that cannot be a pipeline."""
        self.name, self.fps = redacted(name), fps or DEFAULT_FPS
        try:
            shlex.split(pipeline)
        except ValueError:
            raise CameraError(f"{self.name}: a quotation mark is missing in this pipeline", CameraFault.UNSUPPORTED) from None
        self._pipeline = pipeline if re.search(r"\bappsink\b", pipeline) else f"{pipeline} ! {_TO_BGR}"

    def images(self) -> SourceImages:
        """Yield images. Raises CameraError where the pipeline does not start, falls silent or ends."""
        import cv2

        features = opencv_features(cv2.getBuildInformation())
        if features.gstreamer:
            return self._opencv_images()
        if shutil.which("gst-launch-1.0"):
            return process_images(without_sink(self._pipeline), self.name, self._found_fps)
        raise CameraError(f"{self.name}: {_NO_GSTREAMER.format(version=features.version)}", CameraFault.UNSUPPORTED)

    def _found_fps(self, fps: float) -> None:
        self.fps = fps

    def _opencv_images(self) -> SourceImages:
        import cv2

        silence = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel  # OpenCV 4, 5
        silence(0)  # its lines may hold the pipeline with its passwords
        capture: Any = cv2.VideoCapture(self._pipeline, cv2.CAP_GSTREAMER)
        try:
            if not capture.isOpened():
                raise CameraError(f"{self.name} does not start: try the pipeline in gst-launch-1.0 with a fakesink at its end")
            self.fps = capture.get(cv2.CAP_PROP_FPS) or self.fps
            while True:
                given, image = capture.read()
                if not given:
                    raise CameraError(f"{self.name} has ended", CameraFault.LOST)
                if image.ndim != 3 or image.shape[2] != 3:
                    message = f"{self.name} must give BGR images: put videoconvert ! video/x-raw,format=BGR before its appsink"
                    raise CameraError(message, CameraFault.NOT_DECODABLE)
                yield SourceImage(image)
        finally:
            capture.release()


def without_sink(pipeline: str) -> str:
    """Return a pipeline without the appsink at its end, or all of the end that was added here.

    Raises CameraError, UNSUPPORTED, where the appsink stands elsewhere.
    """
    shortened, count = _APPSINK.subn("", pipeline.replace(f"! {_TO_BGR}", f"! {_NEWEST}"))
    if not count:
        message = "a pipeline outside OpenCV must have its appsink at its end, or none: move it there"
        raise CameraError(message, CameraFault.UNSUPPORTED)
    return shortened.strip()


def csi_pipeline(sensor: int, options: SourceOptions) -> str:
    """Return the pipeline of a Jetson's CSI camera: its image processor gives NV12 in NVMM memory, in the sensor mode that fits best."""
    caps = "".join(["video/x-raw(memory:NVMM),format=NV12", *_caps(options)])
    return f"nvarguscamerasrc sensor-id={sensor} ! {caps} ! {_FROM_NVMM}"


def v4l2_pipeline(device: str, options: SourceOptions) -> str:
    """Return the pipeline of a USB camera that sends MJPEG, decoded by a Jetson's hardware."""
    caps = "".join(["image/jpeg", *_caps(options)])
    return f"v4l2src device={device} io-mode=2 ! {caps} ! nvv4l2decoder mjpeg=1 ! {_FROM_NVMM}"


def rtsp_pipeline(url: str, options: SourceOptions) -> str:
    """Return the pipeline of an RTSP camera (H.264, H.265) decoded by a Jetson's hardware."""
    quoted = url.replace("\\", "\\\\").replace('"', '\\"')
    source = f'rtspsrc location="{quoted}" protocols={options.transport} latency=100 drop-on-latency=true'
    return f"{source} ! application/x-rtp,media=video ! parsebin ! nvv4l2decoder enable-max-performance=1 ! {_FROM_NVMM}"


def _caps(options: SourceOptions) -> list[str]:
    size = [f",width={options.size[0]},height={options.size[1]}"] if options.size else []
    if not options.fps:
        return size
    numerator, denominator = options.fps.as_integer_ratio() if float(options.fps).is_integer() else (round(options.fps * 1001), 1001)
    return [*size, f",framerate={numerator}/{denominator}"]
