import os
import runpy
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.detector import Detector
from retinanet_edge.runtime.engine import Inference
from retinanet_edge.runtime.errors import ModelFolderError, UserInputError

bright = runpy.run_path(str(Path(__file__).with_name("bright_engine.py")))
BrightEngine, write_model = bright["BrightEngine"], bright["write_model"]


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


def frame_with(box, height=96, width=128):
    frame = np.full((height, width, 3), 30, np.uint8)
    left, top, right, bottom = box
    frame[top:bottom, left:right] = 255
    return frame


def test_boxes_come_back_in_frame_pixels(model):
    # 96x128 in 48x64: scale 0.5. The square 40..80 x 20..60 is 20..40 x 10..30 for the engine.
    with Detector(model, BrightEngine()) as detector:
        found = detector(frame_with((40, 20, 80, 60)))
    np.testing.assert_allclose(found.xyxy, [[40, 20, 80, 60]])
    assert found.classes.tolist() == [1]
    assert detector.classes == ("small", "large")


def test_the_letterbox_is_undone_in_a_tall_frame(model):
    # 96x32 in 48x64: scale 0.5, content 48x16, the rest grey. 8..24 x 40..80 is 4..12 x 20..40 for the engine.
    with Detector(model, BrightEngine()) as detector:
        found = detector(frame_with((8, 40, 24, 80), height=96, width=32))
    np.testing.assert_allclose(found.xyxy, [[8, 40, 24, 80]])


def test_boxes_wholly_in_the_fill_are_left_out_and_others_are_clipped(model):
    class Filled(BrightEngine):
        def infer(self, _):
            boxes = np.array([[40, 0, 60, 40], [8, 8, 60, 40]], np.float32)  # the content is 48x16: the first lies beside it
            return Inference([Detections(boxes, np.array([0.9, 0.8], np.float32), np.array([0, 1]))], {})

    with Detector(model, Filled()) as detector:
        found = detector(frame_with((0, 0, 0, 0), height=96, width=32))
    np.testing.assert_allclose(found.xyxy, [[16, 16, 32, 80]])
    assert found.classes.tolist() == [1]


def test_a_batch_is_cut_to_what_the_engine_takes_and_keeps_its_order(model):
    boxes = [(8 * index, 16, 8 * index + 8, 32) for index in range(5)]
    engine = BrightEngine(max_batch=2)
    with Detector(model, engine, max_batch=8) as detector:
        together = detector.detect([frame_with(box) for box in boxes])
        alone = [detector(frame_with(box)) for box in boxes]
    assert engine.calls == [2, 2, 1] + [1] * 5
    np.testing.assert_allclose(np.concatenate([found.xyxy for found in together]), boxes)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.xyxy, other.xyxy)


def test_a_batch_may_mix_sizes_and_may_be_empty(model):
    with Detector(model, BrightEngine(), max_batch=2) as detector:
        found = detector.detect([frame_with((0, 0, 40, 40)), frame_with((8, 40, 24, 80), 96, 32)])
        assert detector.detect([]) == []
    np.testing.assert_allclose(np.concatenate([one.xyxy for one in found]), [[0, 0, 40, 40], [8, 40, 24, 80]])


def test_one_frame_leaves_nothing_behind_for_the_next(model):
    with Detector(model, BrightEngine()) as detector:
        detector(frame_with((0, 0, 128, 96)))
        assert len(detector(frame_with((0, 0, 0, 0), height=20, width=20))) == 0


def test_threshold_and_classes_filter(model):
    frame = frame_with((40, 20, 80, 60))  # large: 20 x 20 of 48 x 64 pixels, score 0.5 + 400 / 6144 = 0.565
    frame[80:88, 100:108] = 255  # small: 4 x 4 pixels, score 0.5 + 16 / 6144 = 0.503
    for options, expected in [
        ({}, [1, 0]),
        ({"threshold": 0.55}, [1]),
        ({"threshold": 0.57}, []),
        ({"only": ["small"]}, [0]),
        ({"only": ["small", "large"]}, [1, 0]),
        ({"only": "small"}, [0]),
        ({"only": []}, []),
    ]:
        with Detector(model, BrightEngine(), **options) as detector:
            assert detector(frame).classes.tolist() == expected, options


class OneAtATime(BrightEngine):
    """An engine that notices a second call during the first."""

    busy = False

    def infer(self, images):
        assert not self.busy
        self.busy = True
        time.sleep(0.001)
        found = super().infer(images)
        self.busy = False
        return found


def test_threads_that_share_a_detector_get_their_own_boxes(model):
    boxes = [(8 * index, 16, 8 * index + 8, 32) for index in range(12)]
    with Detector(model, OneAtATime()) as detector, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda box: detector(frame_with(box)), boxes))
    np.testing.assert_allclose(np.concatenate([one.xyxy for one in found]), boxes)


class WholeFrames(BrightEngine):
    """An engine with the camera's size baked in: frames of 96x128, boxes in their pixels."""

    frame_size = (96, 128)

    def infer(self, images):
        assert images.shape[1:] == (96, 128, 3)
        self.given = images
        return Inference([self._regions(image) for image in images], {})


def test_an_engine_for_whole_frames_is_given_them_as_they_are(model):
    frame, engine = frame_with((40, 20, 80, 60)), WholeFrames()
    with Detector(model, engine, max_batch=2) as detector:
        np.testing.assert_allclose(detector(frame).xyxy, [[40, 20, 80, 60]])
        assert engine.given.base is frame, "not even a copy is made"
        found = detector.detect([frame, frame_with((8, 40, 24, 80))])
    np.testing.assert_allclose(np.concatenate([one.xyxy for one in found]), [[40, 20, 80, 60], [8, 40, 24, 80]])


def test_a_frame_of_another_size_is_letterboxed_into_the_cameras(model):
    with Detector(model, WholeFrames()) as detector:
        found = detector(frame_with((80, 40, 160, 120), height=192, width=256))  # scale 0.5 into 96x128
    np.testing.assert_allclose(found.xyxy, [[80, 40, 160, 120]])


def test_a_batch_of_nothing_is_refused(model):
    with pytest.raises(UserInputError, match="max_batch must be at least 1, got 0"):
        Detector(model, BrightEngine(), max_batch=0)


def test_stages_are_timed_in_order(model):
    with Detector(model, BrightEngine(max_batch=1)) as detector:
        timed = detector.detect_timed([frame_with((0, 0, 40, 40))] * 3)
    assert list(timed.stage_ms) == ["letterbox", "network", "nms", "boxes"]
    assert timed.stage_ms["network"] == 6.0  # three calls of the engine, which says 2.0 for each
    assert timed.stage_ms["letterbox"] > 0


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"got uint8 \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"got uint8 \[4, 4, 4\]"),
        (np.zeros((4, 4, 3), np.float32), r"got float32 \[4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \[0, 4, 3\]"),
        ([[1, 2, 3]], "must be a NumPy array, got list"),
        (None, "must be a NumPy array, got NoneType"),
    ],
)
def test_a_wrong_frame_is_refused(model, frame, message):
    with Detector(model, BrightEngine()) as detector, pytest.raises(ValueError, match=message):
        detector(frame)


def test_a_view_that_is_not_contiguous_is_a_frame(model):
    turned = np.rot90(frame_with((40, 20, 80, 60)), 2)
    with Detector(model, BrightEngine()) as detector:
        np.testing.assert_allclose(detector(turned).xyxy, [[48, 36, 88, 76]])  # 128 - 80, 96 - 60, 128 - 40, 96 - 20


def test_unknown_class_threshold_and_folder_are_refused(model, tmp_path):
    with pytest.raises(UserInputError, match="no class zebra: it knows small, large"):
        Detector(model, BrightEngine(), only=["small", "zebra"])
    with pytest.raises(UserInputError, match=r"from 0 to 1, got 1\.5"):
        Detector(model, BrightEngine(), 1.5)
    with pytest.raises(ModelFolderError, match=r"run python training/train\.py"):
        Detector(tmp_path / "none", BrightEngine())
    with pytest.raises(UserInputError, match="--engine must be"):
        Detector(model, "nothing.engine")


def test_the_engine_is_closed_with_the_detector(model):
    engine = BrightEngine()
    with Detector(model, engine) as detector:
        assert detector.engine is engine
    assert engine.closed


def test_it_works_where_there_is_no_torch(model):
    """In a process in which torch, torchvision and timm do not import."""
    program = (
        "import sys, runpy\n"
        "sys.modules.update(torch=None, torchvision=None, timm=None)\n"
        "from retinanet_edge.runtime.detector import Detector\n"
        f"bright = runpy.run_path({str(Path(__file__).with_name('bright_engine.py'))!r})\n"
        f"with Detector({str(model)!r}, bright['BrightEngine']()) as detector:\n"
        "    print(detector(bright['bright_image'](0)).xyxy.tolist())\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=False)
    assert (run.stdout.strip(), run.returncode) == ("[[4.0, 8.0, 16.0, 20.0]]", 0), run.stderr
