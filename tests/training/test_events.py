import math
import sys
from pathlib import Path

import pytest

from retinanet_edge.training.events import Events
from retinanet_edge.training.loop import EpochRecord
from tests.training.conftest import AfterEpoch, TrainCommand


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the (step, value) of every curve that TensorBoard shows of a folder."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_a_run_leaves_curves_of_losses_rate_and_every_figure_of_its_evaluations(trained_model: Path) -> None:
    found = curves(trained_model / "events")
    assert [step for step, _ in found["loss/classes"]] == [1, 2]
    assert found["loss/boxes"][0][1] > 0
    assert len(found["learning rate"]) == 2
    assert [step for step, _ in found["validation/ap"]] == [2]
    evaluated = {tag for tag in found if tag.startswith("validation/")}
    assert {"validation/ap50", "validation/ap75", "validation/ap_small", "validation/ar100"} <= evaluated
    assert len(evaluated) == 12


def test_a_resumed_run_goes_on_in_the_same_curves(command: TrainCommand, data: Path, after_epoch: AfterEpoch) -> None:
    def end_here(_: Path) -> None:
        raise KeyboardInterrupt

    after_epoch(1, end_here)
    assert command.new(data, "model", "--epochs", 3).code == 130
    assert command("--resume", "--model", "model").code == 0
    assert [step for step, _ in curves(command.folder / "model" / "events")["loss/classes"]] == [1, 2, 3]


def test_epochs_that_are_repeated_replace_those_before(tmp_path: Path) -> None:
    for before, epochs, loss in ((0, (1, 2, 3), 5.0), (1, (2,), 4.0)):
        events = Events(tmp_path, before)
        for epoch in epochs:
            events.add(EpochRecord(epoch, loss, loss, 0.1, 1.0), None)
        events.close()
    assert curves(tmp_path / "events")["loss/classes"] == [(1, 5.0), (2, 4.0)]


def test_a_replaced_model_takes_its_curves_along(command: TrainCommand, data: Path, trained: Path) -> None:
    former = {path.name for path in (trained / "events").iterdir()}
    assert command.new(data, trained, "--epochs", 1, "--replace").code == 0
    assert len(former & {path.name for path in (trained / "events").iterdir()}) == 0
    assert [step for step, _ in curves(trained / "events")["loss/classes"]] == [1]


def test_without_tensorboard_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # what importing it then raises is a missing module's error
    events = Events(tmp_path, 0)
    events.add(EpochRecord(1, math.pi, 1.0, 0.1, 1.0), None)
    events.close()
    assert capsys.readouterr().out.count("pip install tensorboard") == 1
    assert not (tmp_path / "events").exists()
