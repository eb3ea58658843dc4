"""Checks of what is installed: Python, its libraries, and above all which OpenCV it is that this environment gets."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from retinanet_edge.runtime.health_check import Check
from retinanet_edge.runtime.jetson import jetson_linux
from retinanet_edge.runtime.opencv_build import OpenCVFeatures, opencv_features

_FIRST_NUMPY = (1, 24)
_PIP_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def python() -> Check:
    """Say which Python runs this."""
    return Check("python", "ok", f"{platform.python_version()}, {sys.executable}")


def operating_system() -> Check:
    """Check that this is Linux."""
    if platform.system() != "Linux":
        return Check("operating system", "warning", platform.platform(), "use Linux: this project is tried on no other system")
    title = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux") if _has_os_release() else "Linux"
    inside = ", in a container" if Path("/.dockerenv").exists() else ""
    return Check("operating system", "ok", f"{title}, kernel {platform.release()}, {platform.machine()}{inside}")


def _has_os_release() -> bool:
    return any(Path(path).is_file() for path in ("/etc/os-release", "/usr/lib/os-release"))


def numpy() -> Check:
    """Check that NumPy is new enough; the OpenCV of JetPack tells itself where it is too new."""
    fix = f"run pip install 'numpy>=1.24{',<2' if jetson_linux() else ''}'"
    try:
        from numpy import __version__ as version
    except ImportError as error:
        return Check("numpy", "failed", f"does not load: {_one_line(error)}", fix)
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < _FIRST_NUMPY:
        return Check("numpy", "failed", f"{version}, older than 1.24", fix)
    return Check("numpy", "ok", version)


def opencv() -> Check:
    """Check that cv2 loads, that on a Jetson it is JetPack's, and say what it was built with."""
    installed = pip_opencvs()
    try:
        import cv2
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            return Check("opencv", "failed", f"does not load: {error}", f"run pip install {error.name}")
        return Check("opencv", "failed", "not in this environment", _opencv_fix())
    except ImportError as error:
        return Check("opencv", "failed", f"does not load: {_one_line(error)}", load_fix(str(error)))
    features = opencv_features(cv2.getBuildInformation())
    return judged(f"{describe(features)}, from {Path(cv2.__file__).parent}", features, installed, jetson=jetson_linux() is not None)


def judged(found: str, features: OpenCVFeatures, installed: Sequence[str], *, jetson: bool) -> Check:
    """Return the check of an OpenCV that loads. installed: pip's distributions of it."""
    if len(installed) > 1:  # they share one folder: what is imported is a mixture
        uninstall = f"run pip uninstall -y {' '.join(installed)}, then install one of them again"
        return Check("opencv", "failed", f"{found}; {' and '.join(installed)} overwrite each other", uninstall)
    if jetson and installed:
        hidden = f"{found}; pip's {installed[0]} hides JetPack's OpenCV, which has GStreamer"
        return Check("opencv", "warning", hidden, f"run pip uninstall -y {installed[0]}")
    if jetson and not features.gstreamer:
        install = "run sudo apt install --reinstall libopencv libopencv-python"
        return Check("opencv", "warning", f"{found}; without GStreamer there is no CSI camera", install)
    return Check("opencv", "ok", found)


def describe(features: OpenCVFeatures) -> str:
    """Return version and abilities in words."""
    abilities = {"GStreamer": features.gstreamer, "FFmpeg": features.ffmpeg, "V4L2": features.v4l2, "windows": features.gui is not None}
    has, lacks = ([name for name, there in abilities.items() if there is wanted] for wanted in (True, False))
    return f"{features.version}{f' with {_listed(has)}' if has else ''}{f', without {_listed(lacks)}' if lacks else ''}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])


def _one_line(error: ImportError) -> str:
    return " ".join(str(error).split())


def pip_opencvs() -> list[str]:
    """Return pip's distributions of OpenCV that this environment sees."""
    names = {(distribution.metadata["Name"] or "").lower() for distribution in importlib.metadata.distributions()}
    return [name for name in _PIP_OPENCV if name in names]


def load_fix(reason: str) -> str:
    """Return what mends a cv2 that is there and does not load, by what it says."""
    if "numpy" in reason or "_ARRAY_API" in reason:
        return "run pip install 'numpy<2': this OpenCV was compiled for NumPy 1"
    if full := re.search(r"(/\S+): cannot allocate memory in static TLS block", reason):  # on aarch64, where it loads late
        return f"run export LD_PRELOAD={full[1]}, and set it in the service too"
    if missing := re.search(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object", reason):
        if missing[1].startswith(("libGL", "libgthread", "libSM", "libX", "libxcb")):
            return "run pip uninstall -y opencv-python, then pip install opencv-python-headless, which needs no display"
        return f"install the package that has {missing[1]}, which apt-file search {missing[1]} names"
    return _opencv_fix()


def _opencv_fix() -> str:
    if jetson_linux() is not None:
        return "make the environment anew with python3 -m venv --system-site-packages, so that it sees JetPack's OpenCV"
    return "run pip install --force-reinstall opencv-python-headless"


def pyav() -> Check:
    """Check that PyAV is there, which reads RTSP and writes MP4."""
    try:
        import av
    except ModuleNotFoundError:
        return Check("pyav", "failed", "not installed: no RTSP, no video files", "run pip install 'av>=14.1'")
    except ImportError as error:
        return Check("pyav", "failed", f"does not load: {error}", "run pip install --force-reinstall av")
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    return Check("pyav", "ok", f"{av.__version__}, libavcodec {version}")


def web_page() -> Check:
    """Say whether the live page can be served."""
    return _optional("web page", "aiohttp", "--web")


def mqtt() -> Check:
    """Say whether results can be published to a broker."""
    return _optional("mqtt", "paho-mqtt", "--mqtt")


def metrics() -> Check:
    """Say whether there are metrics for Prometheus."""
    return _optional("metrics", "prometheus-client", "/metrics")


def _optional(name: str, distribution: str, serves: str) -> Check:
    try:
        return Check(name, "ok", f"{distribution} {importlib.metadata.version(distribution)}")
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "absent", f"no {distribution}, which only {serves} needs")
