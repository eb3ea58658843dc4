import re

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.rotation import Keep
from retinanet_edge.runtime.sink import SinkError
from retinanet_edge.runtime.snapshot_sink import SnapshotSink
from tests.runtime.small_disk import small_disk
from tests.runtime.stream_results import UNIX_S, crossing, refused, result_of, two_found, written


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def tracked(index, *tracks, camera="front", events=()):
    return result_of(index, found=two_found(), tracks=tracks, camera=camera, unix_s=UNIX_S + index, events=events)


def test_a_new_track_has_its_picture_and_its_crop(tmp_path):
    """The second frame's tracks are known; the third has a new one beside an old one; 7 of another camera is another thing."""
    written(SnapshotSink(tmp_path), [tracked(0, 7, -1), tracked(1, 7, -1), tracked(2, 7, 8), tracked(3, 7, -1, camera="back")])
    assert names(tmp_path) == [
        "20261121T140102.123Z-front-dog-7.jpg", "20261121T140102.123Z-front.jpg",
        "20261121T140104.123Z-front-cat-8.jpg", "20261121T140104.123Z-front.jpg",
        "20261121T140105.123Z-back-dog-7.jpg", "20261121T140105.123Z-back.jpg",
    ]  # fmt: skip


def test_the_crop_is_the_plain_picture_and_the_frame_is_drawn(tmp_path):
    """Box 10..30 x 10..20 of a grey picture, with a tenth of its sides around it: 8..32 x 9..21."""
    image = np.full((48, 64, 3), 100, np.uint8)
    image[9:21, 8:32] = 200
    found = Detections(np.array([[10, 10, 30, 20]], np.float32), np.array([0.9], np.float32), np.array([0]))
    written(SnapshotSink(tmp_path), [result_of(image=image, found=found, tracks=[3])])
    crop = cv2.imread(str(tmp_path / "20261121T140102.123Z-front-cat-3.jpg"))
    frame = cv2.imread(str(tmp_path / "20261121T140102.123Z-front.jpg"))
    assert crop.shape == (12, 24, 3)
    assert crop.min() > 190
    assert frame.shape == image.shape
    assert np.abs(frame.astype(int) - image).max() > 50


def test_boxes_at_and_beyond_the_border(tmp_path):
    boxes = np.array([[-5, -5, 10, 10], [70, 50, 80, 60], [20, 20, 20, 20]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 0, 0]))
    written(SnapshotSink(tmp_path), [result_of(found=found, tracks=[0, 1, 2])])
    assert names(tmp_path) == ["20261121T140102.123Z-front-cat-0.jpg", "20261121T140102.123Z-front.jpg"]
    assert cv2.imread(str(tmp_path / "20261121T140102.123Z-front-cat-0.jpg")).shape == (12, 12, 3)  # to 10 + 1.5, rounded up


def test_events_have_their_actors(tmp_path):
    frames = [tracked(0, 7, 8), tracked(1, 7, 8, events=[crossing(8)]), tracked(2, 7, 8, events=[crossing(99)])]
    written(SnapshotSink(tmp_path, "events"), frames)
    assert names(tmp_path) == [
        "20261121T140103.123Z-front-cat-8.jpg", "20261121T140103.123Z-front.jpg", "20261121T140104.123Z-front.jpg",
    ]  # fmt: skip


def test_every_few_seconds_while_something_is_detected(tmp_path):
    """Each second a frame, a picture every 2 s: at 0, 2 and, as 4 and 5 show nothing, 6; then the time begins again."""
    times = [*range(8), 0]
    frames = [result_of(index, found=None if index in (4, 5) else two_found(), timestamp_s=float(time_s), unix_s=UNIX_S + index)
              for index, time_s in enumerate(times)]  # fmt: skip
    written(SnapshotSink(tmp_path, "detections", every_s=2), frames)
    assert [name for name in names(tmp_path) if name.endswith("front.jpg")] == [
        f"20261121T1401{second:02}.123Z-front.jpg" for second in (2, 4, 8, 10)
    ]
    assert "20261121T140102.123Z-front-dog-0.jpg" in names(tmp_path)


def test_a_minute_has_its_limit_and_who_came_too_late_is_pictured_later(tmp_path):
    sink = SnapshotSink(tmp_path, per_minute=2)
    for index in range(5):
        sink.write(tracked(index, index, -1))
    frames = [name for name in names(tmp_path) if name.endswith("front.jpg")]
    assert len(frames) == 2
    sink._taken_at[0] -= 60  # a minute later
    sink.write(tracked(9, 4, -1))
    assert "20261121T140111.123Z-front-dog-4.jpg" in names(tmp_path)


@pytest.mark.parametrize("keep", [Keep(files=4), Keep(size=4000)])
def test_the_newest_are_kept_and_others_left_alone(tmp_path, keep):
    (tmp_path / "mine.jpg").write_bytes(b"x" * 5000)
    written(SnapshotSink(tmp_path, keep=keep), [tracked(index, index, -1) for index in range(10)])
    kept = [name for name in names(tmp_path) if name != "mine.jpg"]
    assert len(kept) == len(names(tmp_path)) - 1
    assert 2 <= len(kept) <= 10
    assert keep.files is None or len(kept) == 4
    assert keep.size is None or sum((tmp_path / name).stat().st_size for name in kept) <= 4000
    assert all(int(re.search(r"T1401(\d\d)", name)[1]) >= 12 - len(kept) for name in kept)


def test_untracked_and_nothing_found_take_none(tmp_path):
    folder = tmp_path / "a"
    written(SnapshotSink(folder), [result_of(found=two_found()), result_of(tracks=[])])
    written(SnapshotSink(folder, "detections"), [result_of()])
    assert not folder.exists()
    with pytest.raises(ValueError, match="on must be one of"):
        SnapshotSink(folder, "always")


def test_a_full_disk_leaves_no_part_and_is_tried_again(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)  # some 300 KB as JPEG
    with small_disk(tmp_path, megabytes=1) as disk:
        sink = SnapshotSink(disk)
        (disk / "filler").write_bytes(b"x" * 1_000_000)
        result = result_of(image=noise, found=two_found(), tracks=[7, -1])
        assert "No space left on device" in refused(sink, result)
        assert not [name for name in names(disk) if name.startswith(".")]
        (disk / "filler").unlink()
        sink.write(result)
        assert cv2.imread(str(disk / "20261121T140102.123Z-front.jpg")).shape == (480, 640, 3)
    with pytest.raises(SinkError, match="cannot write"):
        SnapshotSink(tmp_path / "none" / "none").write(result)
