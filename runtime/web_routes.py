"""What the web server answers. Nothing comes from the file system."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.stream_status import StreamControl
from retinanet_edge.runtime.web_access import Access
from retinanet_edge.runtime.web_body import LARGEST_BODY, read_body
from retinanet_edge.runtime.web_events import EventFeed
from retinanet_edge.runtime.web_filter import changed_filter
from retinanet_edge.runtime.web_frames import LatestFrames
from retinanet_edge.runtime.web_live import LiveView, Picture
from retinanet_edge.runtime.web_metrics import metrics_text
from retinanet_edge.runtime.web_page import CONTENT_SECURITY_POLICY, PAGE
from retinanet_edge.runtime.web_status import OK, filter_json, health, status_json

_MOST_VIEWERS = 256
_PICTURE_S = 10.0  # to wait for a frame
_ALIVE_S = 10.0  # between signs of life in a stream, by which clients that are gone are found
_SEND_S = 20.0  # for a client to take what it was sent
_SEND_BUFFER = 128 * 1024  # bytes in the kernel, for a client that is slow: about two pictures, not seconds of them
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",  # no other page may show the pictures
    "Cache-Control": "no-store",
    "Server": "retinanet-edge",
}


class Routes:
    """The handlers of one server, all on one event loop."""

    def __init__(self, control: StreamControl, frames: LatestFrames, access: Access) -> None:
        self._control, self._frames, self._access = control, frames, access
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="web-jpeg")
        self._views: dict[str, LiveView] = {}
        self._events = EventFeed(frames)
        self._viewers = 0

    def release(self) -> None:
        """Let go of the stream, after the end: aiohttp remembers handlers of applications that are long over, up to a thousand."""
        self._views.clear()
        del self._control, self._frames, self._events

    def application(self) -> web.Application:
        """Return the application."""
        application = web.Application(middlewares=[self._access.check], client_max_size=LARGEST_BODY)
        application.add_routes([
            web.get("/", self.page),
            web.post("/login", self._access.login),
            web.get("/healthz", self.healthz),
            web.get("/metrics", self.metrics),
            web.get("/status", self.status),
            web.post("/filter", self.filter),
            web.get("/snapshot.jpg", self.snapshot, allow_head=False),
            web.get("/stream.mjpg", self.stream, allow_head=False),
            web.get("/detections", self.detections, allow_head=False),
        ])  # fmt: skip
        application.on_response_prepare.append(_add_headers)
        application.on_shutdown.append(self._close)
        return application

    async def page(self, _: web.Request) -> web.Response:
        """The page."""
        return web.Response(text=PAGE, content_type="text/html")

    async def healthz(self, _: web.Request) -> web.Response:
        """200 and "ok", or 503 and what is wrong in a word."""
        word = health(self._control.status())
        return web.Response(status=200 if word == OK else 503, text=word + "\n")

    async def metrics(self, _: web.Request) -> web.Response:
        """Metrics for Prometheus."""
        return web.Response(body=metrics_text(self._control), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def status(self, _: web.Request) -> web.Response:
        """Everything that the page shows but the pictures."""
        return web.json_response(status_json(self._control, self._frames, self._viewers, self._events.dropped))

    async def filter(self, request: web.Request) -> web.Response:
        """Change thresholds and classes; answer with what is used now, and warnings."""
        if request.content_type != "application/json":  # which a form of another site cannot send
            raise web.HTTPUnsupportedMediaType(text="application/json is expected\n")
        body = await read_body(request)
        try:
            warnings = self._control.change_filter(changed_filter(self._control.detection_filter, body))
        except UserInputError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"filter": filter_json(self._control.detection_filter), "warnings": warnings})

    async def snapshot(self, request: web.Request) -> web.Response:
        """A camera's newest picture, or, with ?after=NUMBER, the next one whose X-Frame-Number is another."""
        view, after = self._view(request), request.query.get("after", "")
        with self._one_more_viewer():
            try:
                picture = await self._picture(view, int(after) if after.isdecimal() and len(after) < 20 else 0)
            except asyncio.TimeoutError:
                raise web.HTTPServiceUnavailable(text="no frame came\n") from None
        return web.Response(body=picture.jpeg, content_type="image/jpeg", headers={"X-Frame-Number": str(picture.number)})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """A camera's pictures as motion JPEG, always the newest."""
        view = self._view(request)
        with self._one_more_viewer():
            response = await _start(request, "multipart/x-mixed-replace; boundary=frame")
            seen, taken = 0, True
            while taken:
                try:
                    picture = await self._picture(view, seen)
                except asyncio.TimeoutError:  # the camera rests: the same once more
                    picture = view.picture
                seen = picture.number
                taken = not picture.jpeg or await _send(request, response, _part(picture))
        return response

    async def detections(self, request: web.Request) -> web.StreamResponse:
        """Every frame's detections as server-sent events."""
        camera = self._camera(request) if "camera" in request.query else None
        with self._one_more_viewer(), self._events.client(camera) as client:
            response = await _start(request, "text/event-stream")
            taken = True
            while taken:
                try:
                    text = await asyncio.wait_for(client.take(), _ALIVE_S)
                except asyncio.TimeoutError:
                    text = b": nothing new\n\n"
                taken = await _send(request, response, text)
        return response

    async def _picture(self, view: LiveView, seen: int) -> Picture:
        return await asyncio.wait_for(view.newer_than(seen, self._viewers), _PICTURE_S)

    def _camera(self, request: web.Request) -> str:
        names = [camera.name for camera in self._control.status().cameras]
        name = request.query.get("camera", names[0] if names else "")
        if name not in names:
            raise web.HTTPNotFound(text="there is no such camera\n")
        return name

    def _view(self, request: web.Request) -> LiveView:
        named = self._views.get(request.query.get("camera", ""))
        if named is None:  # the state of the stream, which takes its time, is not asked for each picture
            camera = self._camera(request)
            named = self._views.setdefault(camera, LiveView(self._frames, camera, self._encoder))
        return named

    @contextmanager
    def _one_more_viewer(self) -> Iterator[None]:
        if self._viewers >= _MOST_VIEWERS:
            raise web.HTTPServiceUnavailable(text="too many viewers\n", headers={"Retry-After": "10"})
        self._viewers += 1
        try:
            yield
        finally:
            self._viewers -= 1

    async def _close(self, _: web.Application) -> None:
        for view in self._views.values():
            view.close()
        self._encoder.shutdown(cancel_futures=True)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


async def _start(request: web.Request, content_type: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": content_type, "X-Accel-Buffering": "no"})  # nginx would gather events
    await response.prepare(request)
    if request.transport is not None:
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return response


async def _send(request: web.Request, response: web.StreamResponse, data: bytes) -> bool:
    """Send to a client, and return whether it took it. One that takes nothing is cut off."""
    try:
        await asyncio.wait_for(response.write(data), _SEND_S)
    except asyncio.TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    except ConnectionResetError:
        pass
    else:
        return True
    return False


def _part(picture: Picture) -> bytes:
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture.jpeg)}\r\nX-Frame-Number: {picture.number}\r\n\r\n"
    return head.encode() + picture.jpeg + b"\r\n"
