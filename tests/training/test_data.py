import multiprocessing
import os
import signal
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from retinanet_edge.runtime.dataset import Sample
from retinanet_edge.runtime.errors import DatasetError, UserInputError
from retinanet_edge.runtime.letterbox import FILL, Letterbox
from retinanet_edge.training.augment import Augmentation, AugmentationSpec
from retinanet_edge.training.data import Batch, Share, TrainingBatches
from tests.training.conftest import FORKS

AUGMENTED, FITTED = Augmentation(32, 48, AugmentationSpec()), Augmentation(32, 48, AugmentationSpec(strength=0.0))
MOSAICS = Augmentation(32, 48, AugmentationSpec(rand_augment=2, mosaic=0.5))
KINDS = pytest.mark.parametrize("augmentation", [AUGMENTED, MOSAICS], ids=["single", "mosaics"])


def make_sample(path: Path, number: int, crowd: tuple[bool, ...] = (False, False)) -> Sample:
    """Write an image of noise and return it with an object for each entry of `crowd`, whose classes are 10 * number, + 1, ..."""
    cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8))
    boxes = np.array([[2.0 + i, 3, 30 + i, 33] for i in range(len(crowd))], np.float32).reshape(-1, 4)
    classes = np.arange(len(crowd), dtype=np.int64) + 10 * number
    return Sample(path, 40, 50, boxes, classes, np.array(crowd, np.bool_), np.ones(len(crowd), np.float32))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return [make_sample(tmp_path / f"{number}.png", number) for number in range(5)]


def epoch(samples: list[Sample], number: int = 1, *, augmentation: Augmentation = AUGMENTED, seed: int = 0, batch: int = 2,
          workers: int = 0) -> list[Batch]:  # fmt: skip
    with closing(TrainingBatches(samples, augmentation, seed=seed, batch=batch, workers=workers)) as batches:
        return list(batches.epoch(number))


def children() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def equal(ours: list[Batch], theirs: list[Batch]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a.images, b.images) and torch.equal(a.boxes, b.boxes) and torch.equal(a.classes, b.classes) and a.counts == b.counts
        for a, b in zip(ours, theirs, strict=True)
    )


@FORKS
@KINDS
def test_workers_change_nothing(samples: list[Sample], augmentation: Augmentation) -> None:
    alone = TrainingBatches(samples, augmentation, seed=3, batch=2, workers=0)
    with closing(TrainingBatches(samples, augmentation, seed=3, batch=2, workers=2)) as several:
        for number in (1, 2):
            assert equal(list(alone.epoch(number)), list(several.epoch(number)))


@FORKS
def test_workers_live_from_the_first_epoch_to_the_end(samples: list[Sample]) -> None:
    before = children()
    with closing(TrainingBatches(samples, AUGMENTED, seed=0, batch=2, workers=2)) as batches:
        list(batches.epoch(1))
        workers = children() - before
        list(batches.epoch(2))
        assert len(workers) == 2
        assert children() - before == workers
    assert children() == before


@FORKS
def test_workers_leave_the_signals_of_a_terminal_to_the_main_process(samples: list[Sample]) -> None:
    before = children()
    with closing(TrainingBatches(samples, AUGMENTED, seed=0, batch=2, workers=1)) as batches:
        list(batches.epoch(1))
        (worker,) = children() - before
        assert os.getpgid(worker) != os.getpgid(0)  # Ctrl-C goes to a process group
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()  # nothing stays blocked here


@KINDS
def test_order_and_augmentation_follow_seed_and_epoch(samples: list[Sample], augmentation: Augmentation) -> None:
    first = epoch(samples, augmentation=augmentation)
    assert equal(first, epoch(samples, augmentation=augmentation))
    assert not equal(first, epoch(samples, 2, augmentation=augmentation))
    assert not equal(first, epoch(samples, seed=1, augmentation=augmentation))


@KINDS
def test_an_epoch_can_be_had_without_those_before_it(samples: list[Sample], augmentation: Augmentation) -> None:
    batches = TrainingBatches(samples, augmentation, seed=0, batch=2, workers=0)
    list(batches.epoch(1))
    assert equal(list(batches.epoch(2)), epoch(samples, 2, augmentation=augmentation))  # what resuming needs


def test_reading_leaves_the_random_numbers_of_others_alone(samples: list[Sample]) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    epoch(samples)
    assert torch.equal(torch.rand(3), expected)


def test_the_last_batch_is_filled_up_with_images_seen_before(samples: list[Sample]) -> None:
    found = epoch(samples, batch=2)
    assert [len(batch.images) for batch in found] == [2, 2, 2]  # of 5 images
    numbers = [int(classes[0]) // 10 for batch in found for classes in batch.classes_of_images() if len(classes)]
    assert set(numbers) == {0, 1, 2, 3, 4}
    assert numbers[5] == numbers[0]


@pytest.mark.parametrize(("count", "batch", "expected"), [(5, 1, [1] * 5), (1, 8, [1]), (5, 8, [5]), (5, 5, [5])])
def test_batches_have_the_asked_size_or_all_images(
    samples: list[Sample], count: int, batch: int, expected: list[int]
) -> None:
    batches = TrainingBatches(samples[:count], AUGMENTED, seed=0, batch=batch, workers=0)
    assert [len(b.images) for b in batches.epoch(1)] == expected
    assert (batches.size, len(batches)) == (expected[0], len(expected))


@pytest.mark.parametrize(("processes", "parts"), [(2, 1), (1, 2), (2, 2)])
@KINDS
def test_shares_together_are_the_batches_of_one_process(
    processes: int, parts: int, samples: list[Sample], augmentation: Augmentation
) -> None:
    alone = epoch(samples, batch=4, augmentation=augmentation)
    shared = [
        list(TrainingBatches(samples, augmentation, seed=0, batch=4, workers=0, share=Share(rank, processes, parts)).steps(1))
        for rank in range(processes)
    ]
    assert [len(steps) for steps in shared] == [2] * processes
    for index, whole in enumerate(alone):
        cut = [shared[rank][index][part] for part in range(parts) for rank in range(processes)]
        assert torch.equal(torch.cat([batch.images for batch in cut]), whole.images)
        assert torch.equal(torch.cat([batch.boxes for batch in cut]), whole.boxes)
        assert [count for batch in cut for count in batch.counts] == whole.counts


def test_members_are_the_samples_of_a_batch(samples: list[Sample]) -> None:
    batches = TrainingBatches(samples, FITTED, seed=0, batch=2, workers=0, share=Share(1, 2))
    members = [batches.members(2, index) for index in range(len(batches))]
    for batch, named in zip(batches.epoch(2), members, strict=True):
        assert len(named) == 2
        assert batch.classes.tolist() == named[1].classes.tolist()  # the second process's half


@pytest.mark.parametrize(("batch", "share", "expected"), [
    (8, Share(0, 2), 4), (8, Share(0, 1, 4), 4), (5, Share(), 5), (8, Share(), 5), (4, Share(0, 4), 4),
])  # fmt: skip
def test_a_batch_is_no_larger_than_the_data_and_divides_evenly(batch: int, share: Share, expected: int) -> None:
    assert share.even_batch(batch, 5) == expected


def test_a_batch_that_cannot_be_cut_names_the_nearest() -> None:
    with pytest.raises(UserInputError, match=r"2 x 3, got 8: give 6 or 12"):
        Share(0, 2, 3).even_batch(8, 100)
    with pytest.raises(UserInputError, match=r"got 2: give 3$"):
        Share(0, 1, 3).even_batch(2, 100)
    with pytest.raises(UserInputError, match=r"5 training images cannot be cut"):
        Share(0, 2, 3).even_batch(6, 5)


def test_without_augmentation_the_input_is_the_letterboxed_image(samples: list[Sample]) -> None:
    (batch,) = epoch(samples[:1], augmentation=FITTED)
    letterbox = Letterbox(40, 50, 32, 48)
    expected = letterbox.apply(cv2.imread(str(samples[0].path)))
    assert np.abs(batch.images[0].numpy().astype(int) - expected).max() <= 1
    np.testing.assert_allclose(batch.boxes, letterbox.boxes_to_input(samples[0].boxes), atol=1e-4)


def test_crowd_boxes_are_left_out(tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "crowd.png", 1, (True, False, True))
    (batch,) = epoch([sample], augmentation=FITTED)
    assert batch.classes.tolist() == [11]
    assert batch.counts == [1]
    (batch,) = epoch([sample], augmentation=Augmentation(32, 48, AugmentationSpec(mosaic=1.0)))
    assert set(batch.classes.tolist()) == {11}
    assert 1 < batch.counts[0] <= 4  # the only image, four times


def test_objects_stay_with_their_image_where_some_have_none(tmp_path: Path) -> None:
    samples = [make_sample(tmp_path / f"{i}.png", i, (False,) * count) for i, count in enumerate((2, 0, 1, 0))]
    (batch,) = epoch(samples, batch=4, augmentation=FITTED)
    assert sorted(batch.counts) == [0, 0, 1, 2]
    found = sorted(tuple(classes.tolist()) for classes in batch.classes_of_images())
    assert found == [(), (), (0, 1), (20,)]
    for boxes, classes in zip(batch.boxes_of_images(), batch.classes_of_images(), strict=True):
        assert boxes.shape == (len(classes), 4)


def test_a_data_set_of_images_without_objects_gives_empty_boxes(tmp_path: Path) -> None:
    (batch,) = epoch([make_sample(tmp_path / "bare.png", 0, ())])
    assert batch.boxes.shape == (0, 4)
    assert batch.classes.dtype == torch.int64


@FORKS
@KINDS
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_does_not_decode_is_one_line_with_its_name(
    samples: list[Sample], workers: int, augmentation: Augmentation
) -> None:
    broken = bytearray(samples[3].path.read_bytes())
    broken[len(broken) // 2 : len(broken) // 2 + 200] = bytes(200)  # the header stays: a look at the sizes passes
    samples[3].path.write_bytes(bytes(broken))
    with pytest.raises(DatasetError) as caught:
        epoch(samples, workers=workers, augmentation=augmentation)
    assert str(caught.value).startswith(f"image {samples[3].path} must decode")
    assert "\n" not in str(caught.value)


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_opened_keeps_its_error(samples: list[Sample], workers: int) -> None:
    samples[2].path.unlink()
    samples[2].path.mkdir()
    with pytest.raises(OSError, match="Is a directory") as caught:
        epoch(samples, workers=workers)
    assert caught.value.filename == str(samples[2].path)


def one_colour(folder: Path, count: int) -> list[Sample]:
    """Write images of one grey each: 10, 20, ... (never that of the border)."""
    samples = [make_sample(folder / f"{number}.png", number) for number in range(count)]
    for number, sample in enumerate(samples):
        cv2.imwrite(str(sample.path), np.full((40, 50, 3), 10 * (number + 1), np.uint8))
    return samples


def greys(image: torch.Tensor) -> set[int]:
    return set(image.unique().tolist()) - {FILL}


def mosaics_of(share: float, off_epochs: int) -> Augmentation:
    return Augmentation(32, 48, AugmentationSpec(strength=0.0, mosaic=share, mosaic_off_epochs=off_epochs))


def test_mosaics_show_four_images_until_the_last_epochs(tmp_path: Path) -> None:
    samples = one_colour(tmp_path, 8)
    batches = TrainingBatches(samples, mosaics_of(1.0, 2), seed=0, batch=4, workers=0, last_epoch=4)
    shown = {number: [greys(image) for batch in batches.epoch(number) for image in batch.images] for number in (1, 2, 3, 4)}
    for number in (1, 2):  # the 3 others are drawn among 8, some twice: 8 * (1 - (7 / 8) ** 3) = 2.6 and the first are 3.3 at most
        assert max(map(len, shown[number])) == 4
        assert np.mean([len(each) for each in shown[number]]) > 2.5
    for number in (3, 4):
        assert [len(each) for each in shown[number]] == [1] * 8
        assert set.union(*shown[number]) == {10 * (index + 1) for index in range(8)}


def test_every_image_of_a_mosaic_is_a_member_of_its_batch(tmp_path: Path) -> None:
    samples = one_colour(tmp_path, 6)
    grey_of = {sample.path: 10 * (number + 1) for number, sample in enumerate(samples)}
    batches = TrainingBatches(samples, mosaics_of(1.0, 0), seed=0, batch=1, workers=0, last_epoch=1)
    for index, batch in enumerate(batches.epoch(1)):
        members = batches.members(1, index)
        assert len(members) == 4
        assert greys(batch.images) - {grey_of[member.path] for member in members} == set()
        top_left = int(batch.images[0, 0, 0, 0])  # the image whose turn it is: each has one turn in an epoch
        assert top_left == grey_of[members[0].path]


def test_the_share_of_mosaics_is_as_asked(tmp_path: Path) -> None:
    samples = one_colour(tmp_path, 2) * 200
    batches = TrainingBatches(samples, mosaics_of(0.25, 0), seed=0, batch=1, workers=0)
    counts = [len(batches.members(7, index)) for index in range(400)]
    assert set(counts) == {1, 4}
    assert 65 < counts.count(4) < 135  # 100 of 400, four standard deviations of 8.7


def test_mosaics_that_would_end_before_the_first_epoch_are_refused(samples: list[Sample]) -> None:
    with pytest.raises(UserInputError, match="--mosaic-off-epochs must be less than --epochs 2"):
        TrainingBatches(samples, mosaics_of(0.5, 2), seed=0, batch=2, workers=0, last_epoch=2)
