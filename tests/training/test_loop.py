from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from retinanet_edge.runtime.dataset import read_dataset
from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.model_card import InputSpec, NetworkSpec, NmsSpec
from retinanet_edge.training.loop import EpochRecord, Evaluation, Trainer, is_finished
from retinanet_edge.training.model import build_network
from retinanet_edge.training.options import TrainingOptions
from retinanet_edge.training.schedules import Schedule
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


def test_steps_take_the_learning_rate_of_the_schedule(data: Path) -> None:
    trainer = make_trainer(data, options(epochs=3, batch=4, learning_rate=1e-3, eval_every=9))
    rates: list[float] = []
    trainer.run(after_step=lambda: rates.append(trainer.optimizer.param_groups[1]["lr"]), after_epoch=nothing)
    # 10 images in batches of 4: 3 steps an epoch, the first epoch warms up; then one step for the evaluation's 4 images.
    schedule = Schedule("cosine", 3, 3, warmup_epochs=1.0)
    assert rates[:9] == pytest.approx([1e-3 * schedule.fraction(step) for step in range(9)])
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


def test_a_plateau_lowers_the_rate_of_the_epochs_after_it(data: Path) -> None:
    # At a rate of 1e-9 the AP stays 0: the first evaluation is the best, the second the only one that is waited for.
    trainer = make_trainer(data, options(epochs=4, learning_rate=1e-9, eval_every=1, schedule="plateau", patience=1, warmup_epochs=0))
    trainer.run(after_step=nothing, after_epoch=nothing)
    assert [record.learning_rate for record in trainer.history] == pytest.approx([1e-9, 1e-9, 1e-10, 1e-11])


def test_a_run_that_gains_nothing_ends_early(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(data, options(epochs=9, learning_rate=1e-9, eval_every=1, early_stopping=2))
    trainer.run(after_step=nothing, after_epoch=nothing)
    assert len(trainer.history) == 3  # the first is the best of three equal ones
    assert "no better AP in 2 evaluations: stopped early" in capsys.readouterr().out


def test_a_run_is_finished_at_its_last_epoch_or_early() -> None:
    history = [EpochRecord(epoch, 1.0, 1.0, 0.1, 1.0, ap) for epoch, ap in ((1, None), (2, 0.5), (3, None), (4, 0.4), (5, 0.3))]
    assert [is_finished(history, options(epochs=epochs)) for epochs in (5, 6)] == [True, False]
    assert [is_finished(history, options(epochs=9, early_stopping=count)) for count in (0, 1, 2, 3)] == [False, True, True, False]
    assert not is_finished([], options(early_stopping=1))


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
    with pytest.raises(RetinaNetEdgeError, match=r"must be finite, got .*: lower --lr \(it is 1e\+30\)") as caught:
        trainer.run(after_step=lambda: seen.append(state(trainer.network)), after_epoch=nothing)
    assert seen
    steps = len(seen)  # of 3 in each epoch
    names = [f"train/{sample.path.name}" for sample in trainer._batches.members(steps // 3 + 1, steps % 3)]
    assert f"the images of batch {steps % 3 + 1} of epoch {steps // 3 + 1} ({', '.join(names)})" in str(caught.value)
    assert len(names) == 4
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
