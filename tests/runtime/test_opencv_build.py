"""Build information of the OpenCVs that people have: pip's is this environment's own, the others are excerpts in the same form."""

import pytest

from retinanet_edge.runtime.opencv_build import OpenCVFeatures, opencv_features

JETPACK = """
General configuration for OpenCV 4.8.0 =====================================
  Version control:               4.8.0

  Extra modules:
    Location (extra):            /opt/opencv_contrib/modules

  Platform:
    Host:                        Linux 5.15.122-tegra aarch64

  GUI:                           GTK3
    GTK+:                        YES (ver 3.24.33)
      GThread :                  YES (ver 2.72.4)
      GtkGlExt:                  NO
    VTK support:                 NO

  Media I/O:
    JPEG:                        /usr/lib/aarch64-linux-gnu/libjpeg.so (ver 80)

  Video I/O:
    DC1394:                      NO
    FFMPEG:                      YES
      avcodec:                   YES (58.134.100)
      avformat:                  YES (58.76.100)
    GStreamer:                   YES (1.20.3)
    v4l/v4l2:                    YES (linux/videodev2.h)

  Parallel framework:            TBB (ver 2021.5 interface 12050)
"""

DEBIAN = """
General configuration for OpenCV 4.2.0 =====================================
  Version control:               unknown

  GUI: 
    QT:                          NO
    GTK+:                        YES (ver 3.24.20)
      GThread :                  YES (ver 2.64.2)

  Video I/O:
    DC1394:                      YES (2.2.5)
    FFMPEG:                      YES
    GStreamer:                   YES (1.16.2)
    PvAPI:                       NO
    v4l/v4l2:                    YES (linux/videodev2.h)
"""  # noqa: W291 - the blank behind "GUI:" is OpenCV's

BARE = """
General configuration for OpenCV 4.10.0-dev =====================================
  GUI:                           NONE
    GTK+:                        YES (ver 3.24.33)

  Video I/O:
    FFMPEG:                      NO
      avcodec:                   YES (58.134.100)
    GStreamer:                   NO
    v4l/v4l2:                    NO
"""


@pytest.mark.parametrize(
    ("text", "features"),
    [
        (JETPACK, OpenCVFeatures("4.8.0", gstreamer=True, ffmpeg=True, v4l2=True, gui="GTK3")),
        (DEBIAN, OpenCVFeatures("4.2.0", gstreamer=True, ffmpeg=True, v4l2=True, gui="GTK")),
        (DEBIAN.replace("QT:                          NO", "QT:                          YES (ver 5.12.8)"),
         OpenCVFeatures("4.2.0", gstreamer=True, ffmpeg=True, v4l2=True, gui="QT")),
        (DEBIAN.replace("YES", "NO"), OpenCVFeatures("4.2.0", gstreamer=False, ffmpeg=False, v4l2=False, gui=None)),
        (BARE, OpenCVFeatures("4.10.0-dev", gstreamer=False, ffmpeg=False, v4l2=False, gui=None)),
        ("", OpenCVFeatures("unknown", gstreamer=False, ffmpeg=False, v4l2=False, gui=None)),
    ],
)  # fmt: skip
def test_features_are_read_as_each_build_writes_them(text, features):
    assert opencv_features(text) == features


def test_the_wheel_of_this_environment():
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "version"):
        pytest.skip("this cv2 is not pip's")
    features = opencv_features(cv2.getBuildInformation())
    assert features.version == cv2.__version__
    # pip's wheels have no GStreamer, though cv2's list of backends names it (it would be a plugin), and headless ones no windows.
    assert (features.gstreamer, features.ffmpeg, features.v4l2) == (False, True, True)
    assert (features.gui is None) == cv2.version.headless
