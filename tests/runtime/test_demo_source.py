"""The demo: the same scenes each time, and the faults that its script names, at the frames it names."""

import itertools
import threading
import time

import pytest

from retinanet_edge.runtime.camera import SourceOptions
from retinanet_edge.runtime.demo_source import DemoFault, DemoSource, parse_script
from retinanet_edge.runtime.errors import CameraError, CameraFault

FAST = SourceOptions(fps=500.0, size=(64, 48))


def first(script, count, options=FAST):
    images = DemoSource(script, options).images()
    given = list(itertools.islice(images, count))
    images.close()
    return given


def equal(one, other):
    return one.image.shape == other.image.shape and bool((one.image == other.image).all())


def test_a_recording_is_deterministic_has_its_own_times_and_no_end():
    options = SourceOptions(fps=10.0)
    runs = [first(None, 120, options) for _ in range(2)]
    assert all(itertools.starmap(equal, zip(*runs, strict=True)))
    assert [image.timestamp_s for image in runs[0][:3]] == [0, 0.1, 0.2]
    assert runs[0][0].image.shape == (256, 256, 3)
    assert not equal(runs[0][0], runs[0][1])
    assert not equal(runs[0][0], runs[0][100])  # another scene
    assert not DemoSource(None, options).live


def test_live_ones_show_the_same_scenes_in_the_size_asked_for_at_their_rate():
    began = time.perf_counter()
    images = first("live", 11, SourceOptions(fps=50.0, size=(64, 48)))
    assert time.perf_counter() - began >= 11 / 50  # never faster
    assert all(itertools.starmap(equal, zip(images, first(None, 11), strict=True)))
    assert images[0].image.shape == (48, 64, 3)
    assert {image.timestamp_s for image in images} == {None}
    assert DemoSource("live", FAST).live


def test_a_script_is_read():
    assert parse_script("live") == ()
    assert parse_script("freeze@100+50,none@30,live,block@7,block@7+2,gone@9") == (
        DemoFault("freeze", 100, 50), DemoFault("none", 30, 1), DemoFault("block", 7, None), DemoFault("block", 7, 2),
        DemoFault("gone", 9, None),
    )  # fmt: skip


@pytest.mark.parametrize(
    "script", ["", "freeze", "freeze@", "melt@3", "freeze@3+", "freeze@-1", "freeze@3,,", "gone@3+2", "live@3", "freeze @3"]
)
def test_what_is_no_script_is_refused(script):
    with pytest.raises(CameraError, match=r"FAULT@FRAME\[\+COUNT\]") as caught:
        DemoSource(script, FAST)
    assert caught.value.fault is CameraFault.UNSUPPORTED


class TestFaults:
    """Against the frames of a demo without faults, by their index."""

    scenes = first("live", 12)

    def test_freeze_repeats_the_image_of_before(self):
        images = first("freeze@3+2", 7)
        assert [equal(image, self.scenes[2]) for image in images] == [False, False, True, True, True, False, False]
        assert equal(images[5], self.scenes[5])

    def test_freeze_at_once_repeats_the_first(self):
        images = first("freeze@0+3", 4)
        assert [equal(image, self.scenes[0]) for image in images] == [True, True, True, False]

    def test_none_is_counted_with_the_next_image(self):
        images = first("none@2+3", 4)
        assert [image.failed for image in images] == [0, 0, 3, 0]
        assert equal(images[2], self.scenes[5])

    def test_size_halves(self):
        assert [image.image.shape[:2] for image in first("size@1+2", 4)] == [(48, 64), (24, 32), (24, 32), (48, 64)]

    def test_slow_takes_four_times_as_long(self):
        began = time.perf_counter()
        first("slow@0+10", 10, SourceOptions(fps=100.0, size=(64, 48)))
        assert time.perf_counter() - began >= 10 * 4 / 100

    def test_block_leaves_frames_out_and_takes_their_time(self):
        began = time.perf_counter()
        images = first("block@2+5", 4, SourceOptions(fps=50.0, size=(64, 48)))
        assert time.perf_counter() - began >= (4 + 5) / 50
        assert equal(images[2], self.scenes[7])
        assert [image.failed for image in images] == [0] * 4

    def test_block_without_a_count_never_comes_back(self):
        images = DemoSource("block@2", FAST).images()
        came, third = threading.Event(), threading.Event()

        def read():
            for index, _ in enumerate(images):
                (third if index == 2 else came).set()

        threading.Thread(target=read, daemon=True).start()
        assert came.wait(60)
        assert not third.wait(0.2)

    def test_gone_is_lost_and_the_next_connection_begins_anew(self):
        source = DemoSource("gone@3", FAST)
        for _ in range(2):
            given = []
            with pytest.raises(CameraError, match="gone at frame 3") as caught:
                given.extend(image for image in source.images())
            assert caught.value.fault is CameraFault.LOST
            assert [equal(image, scene) for image, scene in zip(given, self.scenes, strict=False)] == [True] * 3
