"""Results to an MQTT broker, by paho: detections and events as JSON, and a retained status that the broker itself sets when we are gone.

    <topic>/status                 online or offline, retained
    <topic>/<camera>/detections    each frame, as its JSON line
    <topic>/<camera>/events        what happened at lines and zones, one message each
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.output_paths import plain_name
from retinanet_edge.runtime.redaction import redacted
from retinanet_edge.runtime.result_json import as_json, events_as_json
from retinanet_edge.runtime.sink import FrameResult, SinkError

_PASSWORD_VARIABLE = "MQTT_PASSWORD"
_KEEP_ALIVE_S, _CONNECT_S = 20, 5.0
_FIRST_WAIT_S, _LAST_WAIT_S = 5.0, 5.0
_RECONNECT_S = (1, 30)
_UNCONFIRMED = 200  # messages that may be on their way


@dataclass(frozen=True)
class _Address:
    host: str
    port: int
    topic: str
    tls: bool
    user: str | None
    password: str | None = field(repr=False)


class MqttSink:
    """Publishes to mqtt://user:password@host:1883/topic, or mqtts:// (TLS, port 8883) with the broker's certificate verified.

    The password may stand in the environment variable MQTT_PASSWORD instead, where other users of the machine do not see it. ca_file: PEM
    of the authority that signed the certificate; None: those that the machine trusts. Connects with the first result and reconnects by
    itself; while the broker is away, and when it confirms nothing, results fail. Raises UserInputError for an address or CA file that is
    none, and where paho is missing.
    """

    name = "mqtt"

    def __init__(self, url: str, *, qos: int = 0, ca_file: Path | None = None) -> None:
        self._address = _parse(url)
        self._qos = qos
        self._client: Any = self._make_client(ca_file)
        self._started = False
        self._connected, self._answered = threading.Event(), threading.Event()  # answered: in whatever way, once
        self._trouble = "no answer yet"
        self._unconfirmed: deque[Any] = deque()  # MQTTMessageInfo

    def write(self, result: FrameResult) -> None:
        """Publish one result. Raises SinkError where the broker is away or confirms nothing."""
        if not self._started:
            self._start()
            self._answered.wait(_FIRST_WAIT_S)
        if not self._connected.is_set():
            raise SinkError(f"no broker at {self._place}: {self._trouble}")
        topic = f"{self._address.topic}/{plain_name(result.frame.camera)}"
        self._publish(f"{topic}/detections", as_json(result))
        for event in events_as_json(result):
            self._publish(f"{topic}/events", event)

    def close(self) -> None:
        """Say offline, wait a little for what is on its way, and disconnect. Raises SinkError where some of it was not confirmed."""
        if not self._started:
            return
        self._started = False
        if self._connected.is_set():
            self._unconfirmed.append(self._client.publish(self._status_topic, "offline", qos=1, retain=True))
        deadline = time.monotonic() + _LAST_WAIT_S
        while self._connected.is_set() and self._count_unconfirmed() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._client.disconnect()
        if lost := self._count_unconfirmed():  # the network thread still has them: it ends with its connection
            raise SinkError(f"broker at {self._place} did not confirm the last {lost} messages")
        self._client.loop_stop()

    @property
    def _place(self) -> str:
        return f"{self._address.host}:{self._address.port}"

    @property
    def _status_topic(self) -> str:
        return f"{self._address.topic}/status"

    def _make_client(self, ca_file: Path | None) -> Any:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ModuleNotFoundError:
            raise UserInputError("--mqtt needs paho-mqtt: run pip install paho-mqtt") from None
        client = Client(CallbackAPIVersion.VERSION2)
        client.connect_timeout = _CONNECT_S
        client.max_queued_messages_set(_UNCONFIRMED)
        client.reconnect_delay_set(*_RECONNECT_S)
        client.will_set(self._status_topic, "offline", qos=1, retain=True)
        if self._address.user is not None:
            client.username_pw_set(self._address.user, self._address.password)
        if self._address.tls:
            client.tls_set_context(_tls(ca_file))
        client.on_connect, client.on_disconnect, client.on_connect_fail = self._on_connect, self._on_disconnect, self._on_connect_fail
        return client

    def _start(self) -> None:
        self._started = True
        self._client.connect_async(self._address.host, self._address.port, keepalive=_KEEP_ALIVE_S)
        self._client.loop_start()

    def _publish(self, topic: str, message: dict[str, object]) -> None:
        if self._count_unconfirmed() >= _UNCONFIRMED:
            raise SinkError(f"broker at {self._place} does not confirm messages: {_UNCONFIRMED} are on their way")
        info = self._client.publish(topic, json.dumps(message), qos=self._qos)
        if info.rc:
            raise SinkError(f"broker at {self._place} took no message: connection lost")
        self._unconfirmed.append(info)

    def _count_unconfirmed(self) -> int:
        while self._unconfirmed and _is_settled(self._unconfirmed[0]):
            self._unconfirmed.popleft()
        return len(self._unconfirmed)

    def _on_connect(self, client: Any, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._trouble = f"refused ({reason})"
        else:
            client.publish(self._status_topic, "online", qos=1, retain=True)
            self._connected.set()
        self._answered.set()

    def _on_disconnect(self, _client: object, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if self._connected.is_set():
            self._connected.clear()
            self._trouble = f"connection lost ({reason})"

    def _on_connect_fail(self, _client: object, _data: object) -> None:
        self._trouble = str(sys.exc_info()[1])  # paho calls this where it has caught the reason
        self._answered.set()


def _is_settled(info: Any) -> bool:
    try:
        return bool(info.is_published())
    except (ValueError, RuntimeError):  # lost with its connection
        return True


def _parse(url: str) -> _Address:
    wrong = UserInputError(f"--mqtt must be mqtt://HOST/TOPIC or mqtts://HOST/TOPIC, with USER:PASSWORD@ before HOST and :PORT after it if "
                           f"need be, got {redacted(url)}")  # fmt: skip
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as the socket will
    except ValueError:
        raise wrong from None
    topic = unquote(parts.path).strip("/")
    if parts.scheme not in ("mqtt", "mqtts") or not host or not topic or set("+#\0") & set(topic) or set("?#") & set(url):
        raise wrong
    tls = parts.scheme == "mqtts"
    user = None if parts.username is None else unquote(parts.username)
    password = os.environ.get(_PASSWORD_VARIABLE) if parts.password is None else unquote(parts.password)
    return _Address(host, port or (8883 if tls else 1883), topic, tls, user, password)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise UserInputError(f"--mqtt-ca must be a PEM file of certificates, got {ca_file} ({error.strerror or error})") from None
