"""Pictures are made once for all who watch, of the newest frame, and only while somebody does; the stream never waits for them."""

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime import web_live
from retinanet_edge.runtime.web_events import EventFeed
from retinanet_edge.runtime.web_frames import LatestFrames
from retinanet_edge.runtime.web_live import LiveView, encode_jpeg
from tests.runtime.fake_control import result

_PATIENCE_S = 30


@pytest.fixture
def encoder():
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def encoded(monkeypatch):
    """Frame indexes and threads of what is encoded, in order."""
    calls, encode = [], web_live.encode_jpeg

    def note(taken):
        calls.append((taken.frame.index, threading.current_thread().name))
        return encode(taken)

    monkeypatch.setattr(web_live, "encode_jpeg", note)
    return calls


def gray_of(jpeg):
    """The gray of a picture's lower right corner, where no box is drawn."""
    return float(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[-4:, -4:].mean())


async def soon(waiting):
    return await asyncio.wait_for(waiting, _PATIENCE_S)


def test_the_newest_of_each_camera_is_kept():
    frames = LatestFrames()
    assert frames.newest("yard") is None
    for index in range(3):
        frames.write(result(index))
    frames.write(result(9, "gate"))
    assert (frames.newest("yard").number, frames.newest("yard").result.frame.index) == (3, 2)
    assert (frames.newest("gate").number, frames.newest("gate").result.frame.index) == (1, 9)
    frames.close()
    frames.close()
    assert frames.newest("yard").number == 3


def test_recent_latency_is_of_the_last_256_results():
    frames = LatestFrames()
    assert all(math.isnan(value) for value in frames.recent_latency_ms())
    for latency in (9999.0, *range(1, 257)):  # the first one is pushed out
        frames.write(result(latency_ms=float(latency)))
    assert frames.recent_latency_ms() == (128.0, 244.0, 254.0)  # ranks ceil(256 * 0.5), ceil(256 * 0.95 = 243.2), ceil(253.44)


def test_a_listener_hears_what_comes_while_it_listens():
    frames, heard = LatestFrames(), []
    frames.write(result(0))
    with frames.listening(lambda one: heard.append(one.frame.index)):
        frames.write(result(1))
    frames.write(result(2))
    assert heard == [1]


def test_nothing_is_drawn_or_encoded_while_nobody_watches(encoded):
    frames, kept = LatestFrames(), [result(index) for index in range(5)]
    for one in kept:
        frames.write(one)
    assert encoded == []
    assert all(one._drawn == [] for one in kept)


def test_one_encoding_serves_all_who_wait_and_runs_on_the_encoder(encoder, encoded):
    async def watch():
        frames = LatestFrames()
        view = LiveView(frames, "yard", encoder)
        waiting = [asyncio.create_task(view.newer_than(0)) for _ in range(50)]
        await asyncio.sleep(0)
        frames.write(result(3))
        return await soon(asyncio.gather(*waiting))

    pictures = asyncio.run(watch())
    assert len({id(picture.jpeg) for picture in pictures}) == 1
    ((index, thread),) = encoded
    assert index == 3
    assert thread.startswith("ThreadPoolExecutor")


def test_who_is_late_gets_the_newest_and_no_backlog(encoder, encoded):
    async def watch():
        frames = LatestFrames()
        view = LiveView(frames, "yard", encoder)
        frames.write(result(0, gray=10))
        first = await soon(view.newer_than(0))
        for index in range(1, 20):
            frames.write(result(index, gray=10 * index))
        return first, await soon(view.newer_than(first.number))

    first, second = asyncio.run(watch())
    assert (first.number, second.number) == (1, 20)
    assert gray_of(first.jpeg) == pytest.approx(10, abs=3)
    assert gray_of(second.jpeg) == pytest.approx(190, abs=3)
    assert [index for index, _ in encoded] == [0, 19]


def test_who_comes_after_a_quiet_time_sees_no_old_picture(encoder):
    async def watch():
        frames = LatestFrames()
        view = LiveView(frames, "yard", encoder)
        frames.write(result(0))
        await soon(view.newer_than(0))
        frames.write(result(1))
        await asyncio.sleep(0.1)  # longer than 1/15 s: the next may be encoded
        return await soon(view.newer_than(0))

    assert asyncio.run(watch()).number == 2


def test_the_rate_is_limited_and_shared_among_many(encoder, encoded):
    async def watch(viewers, pictures):
        frames = LatestFrames()
        view, loop = LiveView(frames, "yard", encoder), asyncio.get_running_loop()
        seen, begin = 0, loop.time()
        for index in range(pictures):
            frames.write(result(index))
            seen = (await soon(view.newer_than(seen, viewers))).number
        return loop.time() - begin

    assert asyncio.run(watch(1, 4)) >= 3 / 15  # three intervals between four pictures
    assert asyncio.run(watch(240, 2)) >= 240 / 600
    assert len(encoded) == 6


def test_one_who_leaves_takes_nothing_from_the_others(encoder):
    async def watch():
        frames = LatestFrames()
        view = LiveView(frames, "yard", encoder)
        leaving, staying = (asyncio.create_task(view.newer_than(0)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        frames.write(result(0))
        return await soon(staying)

    assert asyncio.run(watch()).number == 1


def test_a_view_that_is_closed_stops_listening(encoder):
    async def watch():
        frames = LatestFrames()
        view = LiveView(frames, "yard", encoder)
        waiting = asyncio.create_task(view.newer_than(0))
        while not frames._listeners:
            await asyncio.sleep(0.01)
        view.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return frames._listeners

    assert asyncio.run(watch()) == []


def test_large_pictures_are_scaled_and_small_ones_are_not():
    def size(jpeg):
        return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape[:2]

    assert size(encode_jpeg(result(size=(1080, 1920)))) == (540, 960)
    assert size(encode_jpeg(result(size=(48, 64)))) == (48, 64)
    assert size(encode_jpeg(result(size=(3, 4000)))) == (1, 960)


def test_a_slow_client_of_events_loses_the_oldest_and_is_told():
    async def watch():
        frames = LatestFrames()
        feed = EventFeed(frames)
        with feed.client(None) as slow, feed.client("gate") as other:
            for index in range(70):
                frames.write(result(index))
            frames.write(result(500, "gate"))
            await asyncio.sleep(0)  # what the writer has sent arrives
            return await soon(slow.take()), await soon(other.take()), feed.dropped

    slow, other, dropped = asyncio.run(watch())
    assert slow.startswith(b"event: dropped\ndata: 7\n\n")  # 71 events, room for 64
    assert slow.count(b"\n\n") == 1 + 64
    assert b'"frame": 7,' in slow
    assert b'"frame": 6,' not in slow
    assert other.count(b"\n\n") == 1
    assert b'"frame": 500,' in other
    assert dropped == 7


def test_events_are_written_only_while_there_are_clients():
    async def watch():
        frames = LatestFrames()
        feed = EventFeed(frames)
        with feed.client(None), feed.client(None):
            listening = len(frames._listeners)
        return listening, len(frames._listeners)

    assert asyncio.run(watch()) == (1, 0)
