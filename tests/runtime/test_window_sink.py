"""OpenCV's window functions, played by hand: the tests have no screen."""

import threading

import cv2
import numpy as np
import pytest

from retinanet_edge.runtime import window_sink
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.sink_runner import SinkRunner
from retinanet_edge.runtime.window_sink import WindowSink
from tests.runtime.stream_results import image_of, refused, result_of, written


class Screen:
    """Remembers what is shown, in which windows and by which threads."""

    def __init__(self, monkeypatch, key=-1, visible=1):
        self.shown, self.opened, self.threads, self.destroyed = [], [], set(), 0
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(window_sink, "_a_window_opens", lambda: True)
        for name, result in (("resizeWindow", None), ("waitKey", key), ("getWindowProperty", visible)):
            monkeypatch.setattr(cv2, name, lambda *_, result=result: result)
        monkeypatch.setattr(cv2, "namedWindow", lambda title, _: self._note(self.opened, title))
        monkeypatch.setattr(cv2, "imshow", lambda title, image: self._note(self.shown, (title, image)))
        monkeypatch.setattr(cv2, "destroyAllWindows", self._destroy)

    def _note(self, notes, note):
        self.threads.add(threading.current_thread().name)
        notes.append(note)

    def _destroy(self):
        self.threads.add(threading.current_thread().name)
        self.destroyed += 1


def test_without_a_display_it_says_why(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(UserInputError, match="no display: neither DISPLAY nor WAYLAND_DISPLAY"):
        WindowSink(lambda: None)


def test_a_display_that_does_not_answer_is_none(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":987")  # nor has the headless OpenCV of the tests windows; with one, Qt would abort here
    with pytest.raises(UserInputError, match="no display: this OpenCV opens no window"):
        WindowSink(lambda: None)


@pytest.mark.parametrize(("key", "visible", "ended"), [(-1, 1, 0), (ord("q"), 1, 1), (27, 1, 1), (ord("x"), 1, 0), (-1, 0, 1)])
def test_q_escape_and_closing_end_it(monkeypatch, key, visible, ended):
    screen, ends = Screen(monkeypatch, key, visible), []
    written(WindowSink(lambda: ends.append(1)), [result_of()])
    np.testing.assert_array_equal(screen.shown[0][1], image_of(0))
    assert len(ends) == ended


def test_each_camera_has_a_window_all_on_the_sinks_own_thread(monkeypatch):
    screen = Screen(monkeypatch)
    runner = SinkRunner(WindowSink(lambda: None), lossless=True)
    for index, camera in enumerate(("front", "back", "front", "")):
        runner.put(result_of(index, camera=camera))
    runner.close()
    assert screen.opened == ["retinanet-edge front", "retinanet-edge back", "retinanet-edge"]
    assert [title.removeprefix("retinanet-edge").strip() for title, _ in screen.shown] == ["front", "back", "front", ""]
    assert screen.threads == {"sink window"}
    assert screen.destroyed == 1


def test_a_display_that_goes_away_is_a_failure_of_the_sink(monkeypatch):
    def broken(*_):
        cv2.cvtColor(np.zeros(0, np.uint8), cv2.COLOR_BGR2RGB)  # an error of OpenCV's own

    Screen(monkeypatch)
    sink = WindowSink(lambda: None)
    sink.write(result_of(0))
    monkeypatch.setattr(cv2, "imshow", broken)
    assert refused(sink, result_of(1)).startswith("the window cannot be drawn: ")
