import math

import pytest

from retinanet_edge.training.schedules import Schedule, scores_since_best, times_stalled


def test_cosine_by_hand() -> None:
    schedule = Schedule("cosine", epochs=3, steps_per_epoch=4, warmup_epochs=1)
    fractions = [schedule.fraction(step) for step in range(12)]
    assert fractions[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])  # (step + 1) / (4 + 1)
    # Half a cosine over the 8 steps left: 0.01 + 0.99 * (1 + cos(pi * done)) / 2, at 4 of 8 and 7 of 8.
    assert fractions[8] == pytest.approx(0.01 + 0.99 / 2)
    assert fractions[11] == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi * 7 / 8)) / 2)
    assert fractions[4:] == sorted(fractions[4:], reverse=True)


@pytest.mark.parametrize("kind", ["cosine", "step", "plateau", "constant"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 5), (5, 5), (9, 5)])
def test_short_runs_stay_in_range(kind: str, warmup: int, steps: int) -> None:
    schedule = Schedule(kind, epochs=1, steps_per_epoch=steps, warmup_epochs=warmup / steps)  # type: ignore[arg-type]
    assert all(0 < schedule.fraction(step) <= 1 for step in range(steps))


def test_steps_drop_after_the_epochs_that_are_given() -> None:
    schedule = Schedule("step", epochs=4, steps_per_epoch=2, drop_epochs=(1, 2.5), drop_factor=0.5)
    assert [schedule.fraction(step) for step in range(8)] == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]  # before steps 2 * 1 and 2 * 2.5


def test_steps_drop_by_default_after_8_and_11_of_12_epochs() -> None:
    schedule = Schedule("step", epochs=12, steps_per_epoch=1)
    assert [schedule.fraction(step) for step in range(12)] == pytest.approx([1.0] * 8 + [0.1] * 3 + [0.01])


def test_a_plateau_lowers_the_rate_after_as_many_scores_without_gain() -> None:
    schedule = Schedule("plateau", epochs=9, steps_per_epoch=1, drop_factor=0.5, patience=2)
    scores = [0.1, 0.2, 0.2, 0.1, 0.3, 0.3, 0.3, 0.2, 0.1]
    # 0.2 0.1 are two after the best of 0.2; then 0.3 0.3 and 0.2 0.1 after that of 0.3.
    assert [schedule.fraction(5, scores[:n]) for n in range(10)] == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert times_stalled(scores, 2) == 3


def test_a_plateau_warms_up_and_constant_stays() -> None:
    assert Schedule("plateau", epochs=2, steps_per_epoch=4, warmup_epochs=0.5).fraction(0) == pytest.approx(1 / 3)
    assert [Schedule("constant", epochs=2, steps_per_epoch=2).fraction(step, [0.5] * 9) for step in range(4)] == [1, 1, 1, 1]


def test_scores_since_the_best_count_from_the_first_of_equals() -> None:
    assert [scores_since_best(scores) for scores in ([], [0.1], [0.1, 0.3, 0.3, 0.2], [0.1, 0.2, 0.3])] == [0, 0, 2, 0]
