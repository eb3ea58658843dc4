"""Recordings: every frame in order, with its time; what is broken is counted, named or refused."""

import itertools
import runpy
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.camera import SourceOptions
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.recorded_source import VideoSource
from retinanet_edge.runtime.source_address import parse_source
from retinanet_edge.runtime.video_reading import hardware_decoder

bright = runpy.run_path(str(Path(__file__).with_name("bright_engine.py")))
bright_image, write_video = bright["bright_image"], bright["write_video"]


def collect(text, **options):
    """Return all images, the source and its remark."""
    source = parse_source(str(text), SourceOptions(**options)).source
    images, given = source.images(), []
    while True:
        try:
            given.append(next(images))
        except StopIteration as end:
            return given, source, end.value


def first(text, count, **options):
    images = parse_source(str(text), SourceOptions(**options)).source.images()
    given = list(itertools.islice(images, count))
    images.close()
    return given


def hardware_decodes():
    try:
        hardware_decoder()
    except CameraError:
        return False
    return True


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def write_images(folder, names):
    for value, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((4, 6, 3), value, np.uint8))


class TestVideo:
    def test_every_frame_comes_in_order(self, tmp_path):
        images, source, remark = collect(write_video(tmp_path / "a.mp4", 30))
        assert (len(images), source.fps, source.live, remark) == (30, 25, False, None)
        assert {image.failed for image in images} == {0}
        for index, image in enumerate(images):  # H.264 loses a little
            assert np.abs(image.image.astype(int) - bright_image(index)).mean() < 6

    def test_times_are_the_files_own(self, tmp_path):
        images, _, _ = collect(write_video(tmp_path / "a.mp4", 5, times_ms=[0, 40, 80, 1000, 1040]))
        assert [image.timestamp_s for image in images] == pytest.approx([0, 0.04, 0.08, 1.0, 1.04], abs=1e-3)

    def test_a_name_like_an_address_is_a_file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_video(tmp_path / "12:30.mp4", 3)
        assert len(collect("12:30.mp4")[0]) == 3

    def test_each_call_begins_anew(self, tmp_path):
        source = VideoSource(str(write_video(tmp_path / "a.mp4", 5)), SourceOptions())
        one, other = source.images(), source.images()
        assert [next(one).timestamp_s, next(one).timestamp_s, next(other).timestamp_s] == pytest.approx([0, 0.04, 0])
        one.close()
        other.close()

    def test_in_a_loop_times_grow_by_a_frame_at_the_seam(self, tmp_path):
        images = first(write_video(tmp_path / "a.mp4", 3), 7, loop=True)
        assert [image.timestamp_s for image in images] == pytest.approx([index / 25 for index in range(7)], abs=1e-3)
        assert np.abs(images[4].image.astype(int) - images[1].image).max() == 0  # 4 = 3 + 1

    def test_one_that_breaks_off_gives_what_decodes_and_then_says_so(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", 100)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
        seen = []
        with pytest.raises(CameraError, match="ends early") as caught:
            seen.extend(VideoSource(str(path), SourceOptions()).images())
        assert 10 < len(seen) < 100
        assert caught.value.fault is CameraFault.LOST
        assert f"promises 100 frames, 4.0 s, {len(seen)} decoded" in str(caught.value)  # 100 frames at 25 a second

    def test_a_broken_packet_is_skipped_and_counted(self, tmp_path):
        path = write_video(tmp_path / "a.mov", 10, codec="png")
        data = bytearray(path.read_bytes())
        starts = [at for at in range(len(data)) if data[at : at + 4] == b"\x89PNG"]
        assert len(starts) == 10
        data[starts[4] : starts[4] + 8] = b"\0" * 8
        path.write_bytes(data)
        images, _, remark = collect(path)
        assert [image.failed for image in images].count(1) == 1
        assert sum(image.failed for image in images) == 1
        assert len(images) == 9
        assert remark == f"{path}: header promised 10 frames, 9 decoded, 1 broken packets skipped"

    def test_a_sideways_recording_is_turned(self, tmp_path):
        """A quarter turn in the track header, as telephones write it; OpenCV's reader turns by itself and is the oracle."""
        path = write_video(tmp_path / "a.mp4", 3)
        data = bytearray(path.read_bytes())
        upright = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
        at = data.index(upright, data.index(b"tkhd"))
        data[at : at + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
        path.write_bytes(data)
        images, _, _ = collect(path)
        capture = cv2.VideoCapture(str(path))
        _, expected = capture.read()
        capture.release()
        assert images[0].image.shape == (64, 48, 3) == expected.shape
        assert np.abs(images[0].image.astype(int) - expected).mean() < 6

    @pytest.mark.parametrize("content", [b"this is no video\n" * 50, b"", bytes(range(256)) * 20])
    def test_what_is_no_video_is_refused(self, tmp_path, content):
        path = tmp_path / "a.mp4"
        path.write_bytes(content)
        with pytest.raises(CameraError, match=r"a\.mp4 must be a video or an image") as caught:
            collect(path)
        assert caught.value.fault is CameraFault.NOT_DECODABLE

    def test_a_video_without_a_frame_that_decodes_is_refused(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", 20)
        data = path.read_bytes()
        path.write_bytes(data[: data.index(b"mdat") + 4])
        with pytest.raises(CameraError, match=r"a\.mp4 must"):
            collect(path)

    def test_sound_alone_is_refused(self, tmp_path):
        import av

        path = tmp_path / "a.wav"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
        with pytest.raises(CameraError, match="without a video stream") as caught:
            collect(path)
        assert caught.value.fault is CameraFault.NOT_DECODABLE

    @pytest.mark.skipif(hardware_decodes(), reason="this machine decodes in hardware")
    def test_hardware_that_is_not_there_is_said(self, tmp_path):
        with pytest.raises(CameraError, match="no hardware here that decodes") as caught:
            collect(write_video(tmp_path / "a.mp4", 3), decode="hardware")
        assert caught.value.fault is CameraFault.UNSUPPORTED

    def test_the_descriptor_is_given_back_where_nobody_reads_on(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", 30)
        before = descriptors()
        for _ in range(3):
            first(path, 2)
            first(path, 2, loop=True)
        assert descriptors() == before


class TestImages:
    def test_a_folder_by_name_with_mixed_sizes(self, tmp_path):
        for name, side in [("b.png", 8), ("a.JPG", 4), ("c.bmp", 6)]:
            cv2.imwrite(str(tmp_path / name), np.full((side, side, 3), 7, np.uint8))
        (tmp_path / "notes.txt").write_text("no image")
        images, source, _ = collect(tmp_path, fps=4)
        assert [len(image.image) for image in images] == [4, 8, 6]
        assert [image.timestamp_s for image in images] == [0, 0.25, 0.5]
        assert source.fps == 4

    def test_numbers_count_by_their_value(self, tmp_path):
        write_images(tmp_path, ["f10.png", "f9.png", "f1.png", "e11.png"])  # of values 0, 1, 2, 3
        assert [int(image.image[0, 0, 0]) for image in collect(tmp_path)[0]] == [3, 2, 1, 0]

    def test_a_pattern_takes_what_it_says(self, tmp_path):
        write_images(tmp_path, ["a2.png", "a10.png", "b1.png"])
        (tmp_path / "a3.txt").touch()
        assert [int(image.image[0, 0, 0]) for image in collect(tmp_path / "a*")[0]] == [0, 1]

    def test_a_pattern_goes_into_folders(self, tmp_path):
        (tmp_path / "one").mkdir()
        write_images(tmp_path / "one", ["a.png"])
        assert len(collect(tmp_path / "**" / "*.png")[0]) == 1

    def test_in_a_loop_times_grow(self, tmp_path):
        write_images(tmp_path, ["a.png", "b.png"])
        images = first(tmp_path, 5, loop=True, fps=10)
        assert [int(image.image[0, 0, 0]) for image in images] == [0, 1, 0, 1, 0]
        assert [image.timestamp_s for image in images] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])

    def test_one_image_and_grey_ones(self, tmp_path):
        cv2.imwrite(str(tmp_path / "ä.png"), np.full((5, 6), 9, np.uint8))
        images, _, _ = collect(tmp_path / "ä.png")
        np.testing.assert_array_equal(images[0].image, np.full((5, 6, 3), 9))
        assert len(images) == 1

    @pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
    def test_a_broken_image_is_named(self, tmp_path, content):
        cv2.imwrite(str(tmp_path / "a.png"), bright_image(0))
        (tmp_path / "b.png").write_bytes(content)
        images = parse_source(str(tmp_path), SourceOptions()).source.images()
        assert next(images).timestamp_s == 0
        with pytest.raises(CameraError, match=rf"b\.png must be an image, got {len(content)} bytes") as caught:
            next(images)
        assert caught.value.fault is CameraFault.NOT_DECODABLE

    def test_one_that_went_away_meanwhile_is_named(self, tmp_path):
        write_images(tmp_path, ["a.png"])
        source = parse_source(str(tmp_path), SourceOptions()).source
        (tmp_path / "a.png").unlink()
        with pytest.raises(CameraError, match=r"a\.png does not open") as caught:
            next(source.images())
        assert caught.value.fault is CameraFault.NOT_FOUND


@pytest.mark.parametrize(("name", "count", "shape", "end_s"), [("solidWhiteRight", 221, (540, 960, 3), 8.8)])
def test_a_real_video(real_data, name, count, shape, end_s):
    images, source, remark = collect(real_data / "videos" / f"{name}.mp4")
    assert (len(images), images[0].image.shape, source.fps, remark) == (count, shape, 25, None)
    assert images[-1].timestamp_s == pytest.approx(end_s)
