"""One step: cut into parts, clipped, in half precision."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.loop import Trainer
from retinanet_edge.training.losses import compute_losses
from retinanet_edge.training.step import StepResult, check_precision
from tests.training.conftest import options
from tests.training.test_loop import make_trainer, state

RATE = 1e-2


def step_of(data: Path, **changes: Any) -> tuple[Trainer, StepResult]:
    """Take the first step of a run with fixed statistics, which make the images of a batch independent of each other."""
    trainer = make_trainer(data, options(**{"optimizer": "sgd", "norm": "none", "clip_norm": 0.0, **changes}))
    trainer._step.set_training_mode(1)
    return trainer, trainer._step.take(next(trainer._batches.steps(1)), RATE)


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.grad for name, p in trainer.network.named_parameters() if p.grad is not None}


def norm_of(tensors: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors.values()))


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_give_losses_and_gradients_of_the_whole_batch(parts: int, data: Path) -> None:
    whole, expected = step_of(data, batch=8)
    cut, found = step_of(data, batch=8, accumulate=parts)
    torch.testing.assert_close(found.losses, expected.losses)
    assert gradients(cut).keys() == gradients(whole).keys()
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(cut)[name], gradient, rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_the_options(data: Path) -> None:
    settings = {"focal_gamma": 0.0, "focal_alpha": 0.5, "label_smoothing": 0.1, "box_loss": "giou", "foreground_iou": 0.3,
                "background_iou": 0.1}  # fmt: skip
    trainer = make_trainer(data, options(norm="none", **settings))
    trainer._step.set_training_mode(1)
    (batch,) = next(trainer._batches.steps(1))
    loss = options(**settings).loss
    assert (loss.gamma, loss.alpha, loss.label_smoothing, loss.box_loss) == (0.0, 0.5, 0.1, "giou")
    assert (loss.matcher.foreground_iou, loss.matcher.background_iou) == (0.3, 0.1)
    boxes, classes = batch.boxes_of_images(), batch.classes_of_images()
    expected = compute_losses(*trainer.network(batch.images), trainer.network.anchors, boxes, classes, loss)
    found = trainer._step.take([batch], RATE).losses
    torch.testing.assert_close(found, torch.stack([expected.classes, expected.boxes]).detach())
    _, usual = step_of(data)
    assert not torch.allclose(found, usual.losses)


def test_the_gradient_is_clipped_by_the_norm_of_all_weights_together(data: Path) -> None:
    free, found = step_of(data)
    assert found.gradient == pytest.approx(norm_of(gradients(free)), rel=1e-5)
    assert found.gradient > 1.0
    clipped, same = step_of(data, clip_norm=0.5)
    assert same.gradient == pytest.approx(found.gradient, rel=1e-5)  # as it was before
    assert norm_of(gradients(clipped)) == pytest.approx(0.5, rel=1e-4)
    for name, gradient in gradients(free).items():
        torch.testing.assert_close(gradients(clipped)[name], gradient * 0.5 / found.gradient, rtol=1e-3, atol=1e-7)
    loose, _ = step_of(data, clip_norm=1e9)
    torch.testing.assert_close(norm_of(gradients(loose)), found.gradient, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_gives_nearly_the_same_losses_and_weights_in_float32(precision: str, tolerance: float, data: Path) -> None:
    size = {"input_height": 128, "input_width": 128}
    _, expected = step_of(data, **size)
    trainer = make_trainer(data, options(precision=precision, optimizer="sgd", norm="none", clip_norm=0.0, **size))
    if precision == "fp16":
        trainer._step.load_state({**trainer._step.state(), "scale": 1024.0})  # where the search for it would end
    trainer._step.set_training_mode(1)
    found = trainer._step.take(next(trainer._batches.steps(1)), RATE)
    assert found.losses.dtype == torch.float32
    torch.testing.assert_close(found.losses, expected.losses, rtol=tolerance, atol=0)
    assert not torch.equal(found.losses, expected.losses)
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}
    assert found.gradient == pytest.approx(expected.gradient, rel=0.1)  # unscaled


def test_a_gradient_that_fp16_cannot_hold_leaves_the_step_out_and_lowers_the_scale(data: Path) -> None:
    trainer = make_trainer(data, options(precision="fp16", optimizer="sgd", norm="none"))
    trainer._step.load_state({**trainer._step.state(), "scale": 2.0**100})
    trainer._step.set_training_mode(1)
    before = state(trainer.network)
    result = trainer._step.take(next(trainer._batches.steps(1)), RATE)
    assert result.finite  # the losses are: the run goes on
    assert not math.isfinite(result.gradient)
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.state_dict().items())
    assert trainer._step.state()["scale"] == 2.0**99


def test_a_loss_that_is_not_finite_changes_nothing(data: Path) -> None:
    for precision in ("fp32", "fp16"):
        trainer = make_trainer(data, options(precision=precision, norm="none"))
        with torch.no_grad():
            trainer.network.class_head.predict.bias[0] = math.nan
        trainer._step.set_training_mode(1)
        before, averaged = state(trainer.network), state(trainer.averaged_network)
        assert not trainer._step.take(next(trainer._batches.steps(1)), RATE).finite
        for name, value in before.items():
            torch.testing.assert_close(trainer.network.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)
        for name, value in averaged.items():
            torch.testing.assert_close(trainer.averaged_network.state_dict()[name], value, rtol=0, atol=0)


def test_bf16_is_refused_where_its_gradients_are_not_to_be_trusted() -> None:
    with pytest.raises(UserInputError, match="wider than 64, got 64: give fp32"):
        check_precision(options(precision="bf16"))
    check_precision(options(precision="bf16", input_width=128))
    check_precision(options(precision="fp16"))
