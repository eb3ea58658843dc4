"""With a real broker, mosquitto, on a free port of loopback."""

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from retinanet_edge.runtime import mqtt_sink
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.mqtt_sink import MqttSink
from retinanet_edge.runtime.sink_runner import SinkRunner
from tests.runtime.certificates import make_certificate
from tests.runtime.stream_results import crossing, refused, result_of, two_found, wait_until

mqtt = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")  # Debian's place for daemons
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto: apt-get install mosquitto")


@pytest.fixture(autouse=True)
def soon_again(monkeypatch):
    monkeypatch.setattr(mqtt_sink, "_RECONNECT_S", (1, 1))
    monkeypatch.delenv("MQTT_PASSWORD", raising=False)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


class Broker:
    """mosquitto with a few lines of settings; can be killed and started again on its port."""

    def __init__(self, folder, settings=""):
        self.port = free_port()
        self._settings = folder / "mosquitto.conf"
        # It gives up root for a user who need not be able to read the folder.
        self._settings.write_text(f"listener {self.port} 127.0.0.1\n{settings or 'allow_anonymous true'}\nuser root\n")
        self._process = None

    def start(self):
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._settings)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        assert wait_until(self._answers)

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def pause(self, on):
        self._process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)

    def _answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def broker_in(folder, settings=""):
    broker = Broker(folder, settings)
    broker.start()
    try:
        yield broker
    finally:
        broker.pause(False)
        broker.kill()


class Listener:
    """A second client that keeps all that is said below a topic."""

    def __init__(self, port, topic="site/#"):
        self.heard = []
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._ready = []
        self._client.on_message = lambda *arguments: self.heard.append(arguments[2])
        self._client.on_subscribe = lambda *_: self._ready.append(1)
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(topic, qos=2)
        self._client.loop_start()
        assert wait_until(lambda: self._ready)

    def payloads(self, topic):
        return [message.payload.decode() for message in list(self.heard) if message.topic == topic]

    def frames(self):
        return [json.loads(payload)["frame"] for payload in self.payloads("site/front/detections")]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._client.disconnect()
        self._client.loop_stop()


def event_result(index=0):
    return result_of(index, found=two_found(), tracks=[7, -1], events=[crossing()])


def url_of(broker, user=""):
    return f"mqtt://{user}127.0.0.1:{broker.port}/site"


@needs_broker
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_detections_events_and_status(tmp_path, qos):
    with broker_in(tmp_path) as broker, Listener(broker.port) as listener:
        sink = MqttSink(url_of(broker), qos=qos)
        sink.write(event_result(0))
        sink.write(result_of(1, camera="rtsp://yard/+1"))
        assert wait_until(lambda: len(listener.heard) == 4)
        (line,), (event,) = (listener.payloads(f"site/front/{name}") for name in ("detections", "events"))
        assert (json.loads(line)["schema"], len(json.loads(line)["detections"])) == (2, 2)
        assert json.loads(event)["region"] == "gate"
        assert json.loads(*listener.payloads("site/rtsp_yard_1/detections"))["camera"] == "rtsp://yard/+1"
        assert {message.qos for message in listener.heard if "front" in message.topic} == {qos}
        assert listener.payloads("site/status") == ["online"]
        with Listener(broker.port) as late:
            assert wait_until(lambda: late.payloads("site/status") == ["online"])  # retained
        sink.close()
        sink.close()
        assert wait_until(lambda: listener.payloads("site/status") == ["online", "offline"])
        with Listener(broker.port) as late:
            assert wait_until(lambda: late.payloads("site/status") == ["offline"])


@needs_broker
def test_a_broker_killed_and_started_again(tmp_path):
    with broker_in(tmp_path) as broker:
        runner = SinkRunner(MqttSink(url_of(broker), qos=1), capacity=1000)
        with Listener(broker.port) as listener:
            for index in range(10):
                runner.put(result_of(index))
            assert wait_until(lambda: listener.frames() == list(range(10)))
        broker.kill()
        # The first to fail may be one that is lost with the connection, before it is known to be gone.
        assert wait_until(lambda: f"no broker at 127.0.0.1:{broker.port}: " in (put_and_see(runner).message or ""))
        broker.start()
        with Listener(broker.port) as listener:
            written = runner.status.written
            assert wait_until(lambda: put_and_see(runner).written > written + 5)
            assert wait_until(lambda: len(listener.frames()) > 5)
            assert wait_until(lambda: "online" in listener.payloads("site/status"))
        assert runner.status.message is None
        runner.close()
        assert runner.status.message is None


def put_and_see(runner):
    runner.put(result_of(99))
    wait_until(lambda: runner.status.queued == 0)
    return runner.status


@needs_broker
def test_a_broker_that_confirms_nothing_is_bounded_and_closing_is_too(tmp_path, monkeypatch):
    monkeypatch.setattr(mqtt_sink, "_UNCONFIRMED", 20)
    monkeypatch.setattr(mqtt_sink, "_LAST_WAIT_S", 0.2)
    with broker_in(tmp_path) as broker:
        sinks = [MqttSink(url_of(broker), qos=1), MqttSink(url_of(broker), qos=1)]
        for sink in sinks:
            sink.write(result_of(0))
            assert wait_until(lambda sink=sink: sink._count_unconfirmed() == 0)
        broker.pause(True)
        for sink in sinks:
            messages = [refused(sink, result_of(index)) for index in range(1, 100)]
            assert messages[:20] == [None] * 20
            assert messages[20:] == [
                f"broker at 127.0.0.1:{broker.port} does not confirm messages: 20 are on their way"
            ] * 79  # fmt: skip
        with pytest.raises(mqtt_sink.SinkError, match="did not confirm the last 2"):
            sinks[0].close()
        broker.pause(False)
        assert wait_until(lambda: refused(sinks[1], result_of(100)) is None)
        sinks[1].close()


@needs_broker
def test_the_broker_says_offline_for_a_process_that_was_killed(tmp_path):
    with broker_in(tmp_path) as broker, Listener(broker.port) as listener:
        program = (
            "import time\n"
            "from retinanet_edge.runtime.mqtt_sink import MqttSink\n"
            "from tests.runtime.stream_results import result_of\n"
            f"MqttSink({url_of(broker)!r}).write(result_of())\n"
            "time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2]) as process:
            assert wait_until(lambda: listener.payloads("site/status") == ["online"])
            process.kill()
        assert wait_until(lambda: listener.payloads("site/status") == ["online", "offline"])


@needs_broker
def test_a_wrong_password_is_said_and_is_nowhere(tmp_path, monkeypatch, caplog):
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "cam", "right p@ss"], check=True, capture_output=True)
    with broker_in(tmp_path, f"allow_anonymous false\npassword_file {passwords}") as broker:
        wrong = MqttSink(url_of(broker, "cam:geheim@"))
        message = refused(wrong, result_of())
        assert message.startswith(f"no broker at 127.0.0.1:{broker.port}: refused (")
        wrong.close()
        monkeypatch.setenv("MQTT_PASSWORD", "right p@ss")
        for user in ("cam:right%20p%40ss@", "cam@"):
            sink = MqttSink(url_of(broker, user))
            assert refused(sink, result_of()) is None
            sink.close()
    for text in (message, repr(wrong), str(vars(wrong)), caplog.text):
        assert "geheim" not in text


@needs_broker
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_is_verified(tmp_path):
    authority, (certificate, key) = make_certificate(tmp_path)
    with broker_in(tmp_path, f"allow_anonymous true\ncertfile {certificate}\nkeyfile {key}") as broker:
        url = f"mqtts://localhost:{broker.port}/site"
        for address, ca_file in ((url, None), (url.replace("localhost", "127.0.0.1"), authority)):
            sink = MqttSink(address, ca_file=ca_file)
            assert "certificate verify failed" in refused(sink, result_of())
            sink.close()
            gc.collect()  # paho leaves a socket whose handshake failed to the garbage collector
        sink = MqttSink(url, qos=1, ca_file=authority)
        assert refused(sink, result_of()) is None
        sink.close()


def test_nobody_there():
    port = free_port()
    sink = MqttSink(f"mqtt://127.0.0.1:{port}/site")
    sink.close()  # was never opened
    assert "Connection refused" in refused(sink, result_of())
    sink.close()


def test_an_address_and_a_ca_file_that_are_none(tmp_path):
    wrong = ("http://host/a", "mqtt://host", "mqtt:///a", "mqtt://host:port/a", "mqtt://u:geheim@host/a/#", "mqtt://u:geheim@/a",
             "mqtt://host/a/%23", "mqtt://a..b/a", "mqtt://[::1/a")  # fmt: skip
    for url in wrong:
        with pytest.raises(UserInputError, match="--mqtt must be") as caught:
            MqttSink(url)
        assert "geheim" not in str(caught.value)
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(UserInputError, match=rf"--mqtt-ca must be a PEM file of certificates, got .*{name}"):
            MqttSink("mqtts://host/a", ca_file=tmp_path / name)


def test_without_paho_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(UserInputError, match=r"--mqtt needs paho-mqtt: run pip install paho-mqtt"):
        MqttSink("mqtt://host/a")
