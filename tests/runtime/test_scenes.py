import itertools
import json

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime import scene_dataset
from retinanet_edge.runtime.dataset import read_dataset, read_image
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.scene_dataset import MAX_IMAGES, SceneDatasetOptions, scene_seeds, write_scenes
from retinanet_edge.runtime.scene_objects import CLASSES, Placed, fill
from retinanet_edge.runtime.scene_video import DEMO_CAMERA_SEED, SEEDS_A_BLOCK, SceneVideo, label_things

PALETTE = ((255, 255, 255),) * 5
TINY = SceneDatasetOptions(train=6, val=3, seed=0, height=64, width=96)


def some_frames(count=60):
    return [SceneVideo(seed, 128, 128).frame(seed * 31) for seed in range(count)]


class TestFill:
    def test_coordinates_count_from_the_edge_of_the_first_pixel(self):
        image = np.zeros((8, 10), np.uint8)
        fill(image, np.array([[2.5, 3.5], [5.5, 3.5], [5.5, 4.5], [2.5, 4.5]]), 1, cv2.LINE_8)
        # Centres of columns 2..5 are 2.5..5.5, of rows 3..4 are 3.5..4.5; OpenCV fills up to and with the border.
        rows, columns = np.nonzero(image)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 4, 2, 5)


@pytest.mark.parametrize("class_index", range(len(CLASSES)))
class TestPlaced:
    def placed(self, class_index, degrees=0.0, facing=1):
        turn = np.radians(degrees)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        return Placed(class_index, np.column_stack([40 * rotation * np.array([facing, 1]), [64, 60]]), PALETTE)

    def test_the_longer_side_spans_minus_one_to_one(self, class_index):
        left, top, right, bottom = self.placed(class_index).extent
        # Scale 40: the longer side is 80 pixels and half a pixel at both ends, from the centre (64, 60) at most 40.5 to every side.
        assert max(right - left, bottom - top) == pytest.approx(81)
        np.testing.assert_array_less([-left, -top, right, bottom], np.array([-23.5, -19.5, 104.5, 100.5]) + 1e-9)

    @pytest.mark.parametrize(("degrees", "facing"), [(0, 1), (20, 1), (-25, -1)])
    def test_the_box_is_that_of_the_pixels_drawn(self, class_index, degrees, facing):
        placed, image = self.placed(class_index, degrees, facing), np.zeros((128, 128, 3), np.uint8)
        placed.draw(image)
        rows, columns = np.nonzero(image[:, :, 0] > 127)
        drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # A pixel of smooth edge on either side.
        np.testing.assert_allclose(placed.extent, drawn, atol=1.6)

    def test_the_area_is_that_of_the_pixels_enclosed(self, class_index):
        placed, owners = self.placed(class_index, 10, -1), np.zeros((128, 128), np.uint8)
        placed.stamp(owners, 3)
        assert set(np.unique(owners)) == {0, 3}
        assert (owners == 3).sum() == pytest.approx(placed.area, rel=0.1)


class TestSceneVideo:
    def test_any_frame_can_be_asked_for_at_any_time(self):
        forward, backward = SceneVideo(7, 96, 128), SceneVideo(7, 96, 128)
        indices = [0, 1, 2, 50, 4000]
        seen = {index: forward.frame(index) for index in indices}
        for index in reversed(indices):
            for one, other in zip(seen[index], backward.frame(index), strict=True):
                np.testing.assert_array_equal(one, other)

    def test_scenes_and_frames_differ(self):
        first, later, other = SceneVideo(1).frame(0)[0], SceneVideo(1).frame(1)[0], SceneVideo(2).frame(0)[0]
        assert (first != later).any()
        # Two frames of a scene are far more alike than two scenes.
        def distance(one, two):
            return np.abs(one.astype(int) - two).mean()

        assert 3 * distance(first, later) < distance(first, other)

    def test_shapes_types_and_boxes_inside(self):
        image, boxes, classes = SceneVideo(3, 90, 140).frame(20)
        assert (image.shape, image.dtype) == ((90, 140, 3), np.uint8)
        assert (boxes.dtype, classes.dtype) == (np.float32, np.int64)
        assert boxes.shape == (len(classes), 4)
        for _, boxes, _ in some_frames():
            assert (boxes >= 0).all()
            assert (boxes <= 128).all()
            # 5% of 128 pixels are 6.4: nothing thinner has a box.
            assert (boxes[:, 2:] - boxes[:, :2] >= 6.4).all()

    def test_every_class_occurs_about_equally_often(self):
        counts = np.bincount(np.concatenate([classes for _, _, classes in some_frames()]), minlength=len(CLASSES))
        assert counts.sum() > 2 * 60
        assert counts.min() > counts.sum() / len(CLASSES) / 2

    def test_the_light_changes(self):
        video = SceneVideo(DEMO_CAMERA_SEED)
        means = [video.frame(index)[0].mean() for index in range(0, 400, 40)]
        assert max(means) - min(means) > 5

    def test_what_is_hidden_has_no_box(self):
        below = Placed(0, np.array([[20.0, 0, 90], [0, 20.0, 90]]), PALETTE)
        above = Placed(2, np.array([[60.0, 0, 90], [0, 60.0, 90]]), PALETTE)
        for things, expected in ([below], [0]), ([below, above], [2]), ([above, below], [2, 0]):
            owners = np.zeros((256, 256), np.uint8)
            for number, thing in enumerate(things):
                thing.stamp(owners, number + 1)
            boxes, classes = label_things(things, owners)
            np.testing.assert_allclose(boxes, [thing.extent for thing in things if thing.class_index in expected], rtol=1e-6)
            assert classes.tolist() == expected

    def test_at_the_border_only_the_part_inside_has_a_box(self):
        for x, expected in ((5.0, 1), (-18.0, 0)):
            balloon, owners = Placed(0, np.array([[20.0, 0, x], [0, 20.0, 60]]), PALETTE), np.zeros((128, 128), np.uint8)
            balloon.stamp(owners, 1)
            boxes, _ = label_things([balloon], owners)
            assert len(boxes) == expected
            if expected:  # it spans 5 - 0.72 * 20 to 5 + 0.72 * 20 pixels, 40 to 80, and half a pixel more
                np.testing.assert_allclose(boxes[0], [0, 39.5, 19.9, 80.5], atol=0.02)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder, steps = tmp_path_factory.mktemp("data") / "new" / "scenes", []
    assert write_scenes(folder, TINY, lambda: steps.append(1))
    assert len(steps) == 9
    return folder


class TestWriteScenes:
    def test_the_seeds_of_train_val_and_cameras_are_disjoint(self):
        largest = [SceneDatasetOptions(MAX_IMAGES, MAX_IMAGES, seed, 64, 64) for seed in (0, 1)]
        ranges = [scene_seeds(split, options) for options in largest for split in ("train", "val")]
        assert 0 <= DEMO_CAMERA_SEED < SEEDS_A_BLOCK == min(ranges[0])
        for one, following in itertools.pairwise(ranges):
            assert max(one) < min(following)

    def test_the_project_reads_what_it_writes(self, written):
        data = read_dataset(written)
        assert (data.format, data.classes, len(data.train), len(data.val), len(data.test)) == ("coco", CLASSES, 6, 3, 0)
        assert data.cleaned == {}
        for split in ("train", "val"):
            for sample, seed in zip(data.split(split), scene_seeds(split, TINY), strict=True):
                index = int(np.random.default_rng((seed, 1)).integers(3000))
                image, boxes, classes = SceneVideo(seed, 64, 96).frame(index)
                np.testing.assert_allclose(sample.boxes, boxes, atol=0.011)  # written to 0.01 pixel
                np.testing.assert_array_equal(sample.classes, classes)
                assert np.abs(read_image(sample).astype(int) - image).mean() < 8  # JPEG

    def test_pycocotools_reads_it(self, written, capsys):
        coco = pytest.importorskip("pycocotools.coco").COCO(str(written / "annotations" / "instances_train.json"))
        capsys.readouterr()
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        found = [coco.anns[i] for i in coco.getAnnIds(imgIds=[1])]
        assert all(a["area"] == pytest.approx(a["bbox"][2] * a["bbox"][3], abs=2) for a in found)

    def test_the_same_scenes_are_reused_others_refused(self, written):
        before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
        assert not write_scenes(written, TINY, lambda: None)
        with pytest.raises(UserInputError, match="must be empty, new or hold these same scenes"):
            write_scenes(written, SceneDatasetOptions(6, 3, 1, 64, 96), lambda: None)
        assert before == {path: path.stat().st_mtime_ns for path in written.rglob("*")}

    def test_an_empty_folder_is_filled_and_two_runs_agree(self, written, tmp_path):
        assert write_scenes(tmp_path, TINY, lambda: None)
        for path in sorted(written.rglob("*.*")):
            assert path.read_bytes() == (tmp_path / path.relative_to(written)).read_bytes()

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
    def test_an_end_halfway_leaves_nothing(self, tmp_path, error):
        steps = []

        def advance():
            steps.append(1)
            if len(steps) == 4:
                raise error

        with pytest.raises(type(error)):
            write_scenes(tmp_path / "scenes", TINY, advance)
        assert list(tmp_path.iterdir()) == []

    def test_foreign_files_are_left_alone(self, tmp_path):
        (tmp_path / "annotations").mkdir()
        mine = tmp_path / "annotations" / "instances_train.json"
        mine.write_text("[]")
        with pytest.raises(UserInputError, match="got other files"):
            write_scenes(tmp_path, TINY, lambda: None)
        with pytest.raises(UserInputError, match="must name a folder, got the file"):
            write_scenes(mine, TINY, lambda: None)
        assert mine.read_text() == "[]"


class TestCommand:
    def test_it_writes_then_reuses(self, run):
        arguments = ("--output", "a/b", "--train", 3, "--val", 2, "--size", 48)
        first, second = run("runtime/scenes.py", *arguments), run("runtime/scenes.py", *arguments)
        assert (first.code, second.code, first.err) == (0, 0, "")
        assert first.out.startswith("wrote a/b: 3 training and 2 validation images; train on them with python training/train.py")
        assert second.out.startswith("reused a/b: ")
        info = json.loads((run.folder / "a/b/annotations/instances_val.json").read_text())["info"]
        assert info["options"] == {"train": 3, "val": 2, "seed": 0, "height": 48, "width": 48}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [(("--train", "0"), "at least 1 and at most 50000, got 0"), (("--size", "31"), "at least 32"), (("--seed", "-1"), "at least 0")],
    )
    def test_impossible_figures_are_refused(self, run, arguments, message):
        done = run("runtime/scenes.py", *arguments)
        assert done.code == 2
        assert message in done.err
        assert list(run.folder.iterdir()) == []

    def test_an_unwritable_place_is_one_line(self, run):
        done = run("runtime/scenes.py", "--output", "/proc/scenes", "--train", 1, "--val", 1)
        assert done.code == 2
        assert done.err.startswith("error: /proc")
        assert done.err.count("\n") == 1

    def test_the_limit_of_the_command_is_the_limit_of_the_seeds(self):
        assert scene_dataset.MAX_IMAGES == 50_000
