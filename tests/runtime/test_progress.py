import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from retinanet_edge.runtime import progress
from retinanet_edge.runtime.progress import Progress, track


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_elsewhere_than_on_a_terminal_a_line_every_15_seconds(clock, capsys):
    with Progress("training", 100, "step") as shown:
        for second in range(40):
            clock[0] = float(second)
            shown.advance(loss=2.0 - second / 100)
    assert capsys.readouterr() == (
        "",
        "training: 16 of 100 steps, loss 1.850\n"  # second 15, 16 steps done
        "training: 31 of 100 steps, loss 1.700\n",
    )


def test_short_work_says_nothing(clock, capsys):
    with Progress("evaluating", 2) as shown:
        shown.advance(2)
    assert clock == [0.0]
    assert capsys.readouterr() == ("", "")


def test_lines_go_to_stderr(capsys):
    with Progress("x", 1) as shown:
        shown.say("epoch 1: AP 0.5")
    assert capsys.readouterr() == ("", "epoch 1: AP 0.5\n")


def test_track_gives_every_item_and_counts_it(clock, capsys):
    taken = []
    for item in track("abc", "reading"):
        taken.append(item)
        clock[0] += 20
    assert taken == ["a", "b", "c"]
    assert capsys.readouterr().err == "reading: 1 of 3 images\nreading: 2 of 3 images\nreading: 3 of 3 images\n"


def read_to_end(terminal):
    text = b""
    while True:
        try:
            text += os.read(terminal, 10_000)
        except OSError:  # all read, and nobody left at the other end
            return text.decode()


def test_on_a_terminal_a_bar():
    pytest.importorskip("tqdm")
    program = (
        "from retinanet_edge.runtime.progress import Progress\n"
        "with Progress('training', 4, 'step') as shown:\n"
        "    shown.advance(2, loss=0.25)\n"
        "    shown.say('a line')\n"
        "    shown.advance(2)\n"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run([sys.executable, "-c", program], stderr=theirs, stdout=subprocess.PIPE, check=False)
    os.close(theirs)
    text = read_to_end(ours)
    os.close(ours)
    assert (done.returncode, done.stdout) == (0, b"")
    assert "training:" in text
    assert "0/4" in text
    assert "a line\r\n" in text
