"""What each text means, decided without opening anything."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime import source_address
from retinanet_edge.runtime.camera import DEFAULT_FPS, SourceOptions
from retinanet_edge.runtime.demo_source import DemoSource
from retinanet_edge.runtime.device_source import DeviceSource
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.gstreamer_source import GStreamerSource
from retinanet_edge.runtime.network_source import NetworkSource
from retinanet_edge.runtime.recorded_source import ImageSource, VideoSource
from retinanet_edge.runtime.source_address import parse_source

ANY = SourceOptions()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to be in, with an image, an empty video and an empty folder."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "a.mp4").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("text", "kind", "name", "live"), [
    ("0", DeviceSource, "0", True), ("/dev/video3", DeviceSource, "3", True),
    ("/dev/v4l/by-id/usb-A_Cam-video-index0", DeviceSource, "/dev/v4l/by-id/usb-A_Cam-video-index0", True),
    ("csi://1", GStreamerSource, "csi://1", True), ("videotestsrc ! videoconvert", GStreamerSource, "videotestsrc", True),
    ("rtsp://u:secret@cam:554/1?password=secret", NetworkSource, "rtsp://cam:554/1?password=***", True),
    ("RTSPS://cam/", NetworkSource, "RTSPS://cam/", True), ("https://u:p@cam/mjpg", NetworkSource, "https://cam/mjpg", True),
    ("http://host/a.MP4?x=1", NetworkSource, "http://host/a.MP4?x=1", False),
    ("demo", DemoSource, "demo", False), ("demo:live", DemoSource, "demo", True), ("demo:gone@3", DemoSource, "demo", True),
    ("a.png", ImageSource, "a.png", False), ("a.mp4", VideoSource, "a.mp4", False), (".", ImageSource, ".", False),
    ("?.png", ImageSource, "?.png", False), ("*.[pP]ng", ImageSource, "*.[pP]ng", False),
])  # fmt: skip
def test_each_text_names_its_kind(text, kind, name, live):
    named = parse_source(text, ANY)
    assert type(named.source) is kind
    assert (named.name, named.source.name, named.source.live, named.source.fps) == (name, name, live, DEFAULT_FPS)
    again = parse_source(f"front-door_2={text}", ANY)
    assert (type(again.source), again.name, again.source.name) == (kind, "front-door_2", name)


def test_a_file_of_that_whole_name_goes_before_a_prefix(folder):
    (folder / "a=a.png").write_bytes((folder / "a.png").read_bytes())
    assert parse_source("a=a.png", ANY).name == "a=a.png"
    assert parse_source("b=a.png", ANY).name == "b"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("text", ["=0", "1a=0", "a b=0", "-=0"])
def test_what_is_no_prefix_belongs_to_the_text(text):
    with pytest.raises(CameraError, match="which does not exist"):
        parse_source(text, ANY)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("text", "match", "fault"), [
    ("none.mp4", r"must be a device index, .* got none\.mp4, which does not exist", CameraFault.NOT_FOUND),
    ("", "got nothing, which does not exist", CameraFault.NOT_FOUND),
    ("x=", "got nothing, which does not exist", CameraFault.NOT_FOUND),
    ("-1", "which does not exist", CameraFault.NOT_FOUND),
    ("x" * 5000, "which does not exist", CameraFault.NOT_FOUND),
    ("a\0b", "which does not exist", CameraFault.NOT_FOUND),
    ("empty", r"empty must hold images \(\.jpg, ", CameraFault.NOT_FOUND),
    ("*.gif", r"\*\.gif must hold images", CameraFault.NOT_FOUND),
    ("csi://", "must be csi://N", CameraFault.NOT_FOUND), ("csi://front", "must be csi://N", CameraFault.NOT_FOUND),
    ("ftp://u:secret@host/a", r"must begin with csi://, rtsp://, rtsps://, http://, https://, got ftp://", CameraFault.UNSUPPORTED),
    ("rtsp://u:my secret@host/", "must have no blanks", CameraFault.NOT_FOUND),
    ("demo:melt@3", "FAULT@FRAME", CameraFault.UNSUPPORTED), ("demo:", "FAULT@FRAME", CameraFault.UNSUPPORTED),
    ('filesrc location="a ! decodebin', "quotation mark", CameraFault.UNSUPPORTED),
])  # fmt: skip
def test_what_is_plainly_wrong_is_refused_in_one_line(text, match, fault):
    with pytest.raises(CameraError, match=match) as caught:
        parse_source(text, ANY)
    assert caught.value.fault is fault
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_pipeline_may_have_a_name():
    text = "videotestsrc ! " + " ! ".join(["identity"] * 1000)
    assert parse_source(f"left={text}", ANY).name == "left"


def test_a_pixel_format_that_no_device_has_is_refused_of_devices_alone():
    options = SourceOptions(pixel_format="purple")
    with pytest.raises(CameraError, match="four letters"):
        parse_source("0", options)
    assert parse_source("demo", options).name == "demo"


@pytest.mark.usefixtures("folder")
def test_rates_are_for_those_without_time_of_their_own():
    options = SourceOptions(fps=7.0)
    assert [parse_source(text, options).source.fps for text in ("0", "a.png", "demo", "a.mp4")] == [7, 7, 7, DEFAULT_FPS]


def test_hardware_decoding_goes_by_gstreamer_for_devices_and_on_a_jetson(tmp_path, monkeypatch):
    options = SourceOptions(decode="hardware")
    assert isinstance(parse_source("0", options).source, GStreamerSource)
    monkeypatch.setattr(source_address, "_JETSON", tmp_path / "none")
    assert isinstance(parse_source("rtsp://cam/", options).source, NetworkSource)
    monkeypatch.setattr(source_address, "_JETSON", tmp_path)
    on_jetson = parse_source("rtsp://u:secret@cam/", options)
    assert isinstance(on_jetson.source, GStreamerSource)
    assert on_jetson.name == "rtsp://cam/"
    assert isinstance(parse_source("rtsp://cam/", ANY).source, NetworkSource)


def test_it_costs_nothing():
    """No library that opens cameras is loaded, so that a wrong word is answered at once."""
    program = (
        "import sys; from retinanet_edge.runtime.camera import SourceOptions\n"
        "from retinanet_edge.runtime.source_address import parse_source\n"
        "for text in ('0', 'demo', 'rtsp://cam/', 'csi://0', 'a ! b'):\n"
        "    parse_source(text, SourceOptions())\n"
        "print(sorted({'cv2', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
