import sys

import pytest

from retinanet_edge.training.launch import Launch, read_launch, silent_unless_first


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert read_launch() == Launch(0, 0, 1)


def test_a_launch_is_read_from_what_torchrun_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    assert read_launch() == Launch(5, 1, 8)


@pytest.mark.parametrize(("rank", "expected"), [("0", ("out\n", "err\n")), ("1", ("", ""))])
def test_only_the_first_process_is_heard(
    rank: str, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    with silent_unless_first():
        print("out")
        print("err", file=sys.stderr)
    assert tuple(capsys.readouterr()) == expected
    print("again")
    assert capsys.readouterr().out == "again\n"
