import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.model_card import InputSpec, NetworkSpec, NmsSpec
from retinanet_edge.training.loop import Evaluation, Trainer, learning_rate_factor
from retinanet_edge.training.model import build_network
from retinanet_edge.training.options import TrainingOptions
from tests.training.conftest import options


def make_trainer(data: Path, settings: TrainingOptions) -> Trainer:
    dataset = read_dataset(data)
    torch.manual_seed(settings.seed)
    spec = NetworkSpec(
        settings.backbone, settings.fpn_channels, settings.head_channels, settings.head_depth, settings.norm
    )
    input_spec = InputSpec(settings.input_height, settings.input_width, (127.5,) * 3, (127.5,) * 3)
    network = build_network(spec, input_spec, settings.anchors, len(dataset.classes))
    return Trainer(network, dataset, input_spec, NmsSpec(), settings)


def nothing(_: Evaluation | None = None) -> None:
    """Do nothing after a step or an epoch."""


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def test_learning_rate_by_hand() -> None:
    factors = [learning_rate_factor(step, 4, 12) for step in range(12)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])  # (step + 1) / (4 + 1)
    # Half a cosine over the 8 steps left: 0.01 + 0.99 * (1 + cos(pi * done)) / 2, at 4 of 8 and 7 of 8.
    assert factors[8] == pytest.approx(0.01 + 0.99 / 2)
    assert factors[11] == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi * 7 / 8)) / 2)
    assert factors[4:] == sorted(factors[4:], reverse=True)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 5), (5, 5), (9, 5)])
def test_learning_rate_of_short_runs_stays_in_range(warmup: int, steps: int) -> None:
    assert all(0 < learning_rate_factor(step, warmup, steps) <= 1 for step in range(steps))


def test_steps_take_the_learning_rate_of_the_schedule(data: Path) -> None:
    trainer = make_trainer(data, options(epochs=3, batch=4, learning_rate=1e-3, eval_every=9))
    rates: list[float] = []
    trainer.run(after_step=lambda: rates.append(trainer.optimizer.param_groups[1]["lr"]), after_epoch=nothing)
    # 10 images in batches of 4: 3 steps an epoch, the first epoch warms up; then one step for the evaluation's 4 images.
    assert rates[:9] == pytest.approx([1e-3 * learning_rate_factor(step, 3, 9) for step in range(9)])
    assert [record.learning_rate for record in trainer.history] == pytest.approx([rates[2], rates[5], rates[8]])


def test_the_running_average_by_hand(data: Path) -> None:
    """Of weights and BatchNorm's statistics: the first step is taken whole, then step n moves it by 1 - min(decay, (1 + n) / (10 + n))."""
    trainer = make_trainer(data, options(epochs=1, batch=4, average_decay=0.25, learning_rate=1e-2))
    seen: list[dict[str, Tensor]] = []
    trainer.run(after_step=lambda: seen.append(state(trainer.network)), after_epoch=nothing)
    names = ["class_head.predict.weight", "pyramid.norms.0.running_mean", "pyramid.norms.4.running_var"]
    averaged = state(trainer.averaged_network)
    for name in names:
        expected = seen[0][name]
        for value, moved in ((seen[1][name], 1 - 2 / 11), (seen[2][name], 1 - 0.25)):  # (1 + 2) / (10 + 2) is the decay itself
            expected = expected + moved * (value - expected)
        torch.testing.assert_close(averaged[name], expected)
        assert not torch.equal(averaged[name], seen[2][name])
    assert averaged["pyramid.norms.0.num_batches_tracked"] == 3


def test_evaluation_is_of_the_averaged_network_and_leaves_training_as_it_is(data: Path) -> None:
    evaluations: list[Evaluation | None] = []
    trainer = make_trainer(data, options(epochs=3, eval_every=2))
    trainer.run(after_step=nothing, after_epoch=evaluations.append)
    assert [None if e is None else e.epoch for e in evaluations] == [None, 2, 3]  # each second, and the last
    assert [record.ap is None for record in trainer.history] == [True, False, False]
    rarely = make_trainer(data, options(epochs=3, eval_every=3))
    rarely.run(after_step=nothing, after_epoch=nothing)
    assert all(torch.equal(a, b) for a, b in zip(trainer.network.parameters(), rarely.network.parameters(), strict=True))


def test_a_diverging_run_ends_with_its_weights_as_they_were(data: Path) -> None:
    trainer = make_trainer(data, options(epochs=9, optimizer="sgd", learning_rate=1e30, warmup_epochs=0))
    seen = []
    with pytest.raises(RetinaNetEdgeError, match=r"must be finite, got .*: lower --lr \(it is 1e\+30\)"):
        trainer.run(after_step=lambda: seen.append(state(trainer.network)), after_epoch=nothing)
    assert seen
    assert all(torch.equal(value, seen[-1][name]) for name, value in trainer.network.state_dict().items() if name.endswith("weight"))


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_batches_of_one_image_train_with_fixed_statistics(data: Path, norm: str) -> None:
    trainer = make_trainer(data, options(epochs=2, batch=1, norm=norm, eval_every=9, augment=0.0))  # P6 and P7 have one cell at 64 x 64
    before = state(trainer.network)
    trainer.run(after_step=nothing, after_epoch=nothing)
    after = state(trainer.network)
    statistics = [name for name in before if "running" in name]
    assert len(statistics) > 10  # of the backbone even without `norm`
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert trainer.history[1].class_loss < trainer.history[0].class_loss


def test_batches_of_several_images_move_the_statistics(data: Path) -> None:
    trainer = make_trainer(data, options(epochs=1, eval_every=9))
    before = state(trainer.network)
    trainer.run(after_step=nothing, after_epoch=nothing)
    after = state(trainer.network)
    assert not any(torch.equal(before[name], after[name]) for name in before if "running_var" in name)


def test_biases_and_norms_are_not_decayed(data: Path) -> None:
    trainer = make_trainer(data, options(weight_decay=0.5))
    decayed, free = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.5, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(trainer.network.parameters()))


def test_what_comes_after_a_step_can_end_the_run(data: Path) -> None:
    trainer = make_trainer(data, options(epochs=5))
    steps = []

    def stop() -> None:
        steps.append(0)
        if len(steps) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run(after_step=stop, after_epoch=nothing)
    assert [record.epoch for record in trainer.history] == [1]  # of 3 steps; what began after it is not in the history
