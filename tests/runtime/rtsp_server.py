"""An RTSP server with a moving test picture, GStreamer's own, in a process of its own that can be killed.

As a program, which needs Debian's python3-gi and not this project's environment, it prints its port once it can be connected to:

    /usr/bin/python3 rtsp_server.py [--port 0] [--size 160x120] [--fps 25] [--path /camera] [--auth USER:PASSWORD]
"""

import argparse
import subprocess
from pathlib import Path

PYTHON = "/usr/bin/python3"
PATH = "/camera"
_CHECK = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
for name in ("videotestsrc", "x264enc", "rtph264pay"):
    assert Gst.ElementFactory.find(name), f"no {name}"
"""
_PACKAGES = "python3-gi, gir1.2-gst-rtsp-server-1.0 and gstreamer1.0-plugins-base, -good, -ugly"


def missing_parts():
    """Return why there can be no server here, None where there can."""
    if not Path(PYTHON).is_file():
        return f"an RTSP server needs {PYTHON}"
    checked = subprocess.run([PYTHON, "-c", _CHECK], capture_output=True, text=True, timeout=60, check=False)
    return f"an RTSP server needs {_PACKAGES}: {checked.stderr.splitlines()[-1]}" if checked.returncode else None


class RtspServer:
    """The server as a process, which can be killed and started again at the same port."""

    def __init__(self, **options):
        self._options = options
        self.port = self._process = None
        self.start()

    def start(self, **changed):
        """Start it, with some options changed, and wait until it can be connected to."""
        self._options |= {"port": self.port or 0, **changed}
        flags = [text for name, value in self._options.items() for text in (f"--{name}", str(value))]
        self._process = subprocess.Popen([PYTHON, __file__, *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.port = int(self._process.stdout.readline())

    def kill(self):
        """Let it vanish without a word to its clients."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", default="0")
    parser.add_argument("--size", default="160x120")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--path", default=PATH)
    parser.add_argument("--auth")
    serve(parser.parse_args())


def serve(options):
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    width, height = options.size.split("x")
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    factory = GstRtspServer.RTSPMediaFactory.new()
    factory.set_launch(
        f"( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width={width},height={height},framerate={options.fps}/1"
        " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=12 threads=1 ! rtph264pay name=pay0 pt=96 config-interval=-1 )"
    )
    factory.set_shared(True)
    if options.auth:
        ask_for(options.auth, server, factory)
    server.get_mount_points().add_factory(options.path, factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def ask_for(user_and_password, server, factory):
    from gi.repository import GstRtspServer

    user, password = user_and_password.split(":")
    token = GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, user)
    auth = GstRtspServer.RTSPAuth.new()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions.new()
    for right in (GstRtspServer.RTSP_PERM_MEDIA_FACTORY_ACCESS, GstRtspServer.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT):
        permissions.add_permission_for_role(user, right, True)
    factory.set_permissions(permissions)


if __name__ == "__main__":
    main()
