"""A camera that mends itself: it reads a source, notices when that fails, falls silent or repeats itself, and connects again.

    CONNECTING -> RUNNING -> (STALE) -> BACKOFF -> CONNECTING ...      ENDED, FAILED: no further frame

One thread supervises: it alone changes the state, and sleeps until its inbox wakes it. Each connection has a reader thread of its own
(source_reader.py). One that hangs in its driver is left behind, and what it may give later is thrown away.
"""

from __future__ import annotations

import random as random_numbers
import threading
import time
from collections.abc import Callable
from functools import partial

from retinanet_edge.runtime.backoff import Backoff
from retinanet_edge.runtime.camera import CameraState, CameraStatus, RestartLimits, Source, SourceImage
from retinanet_edge.runtime.camera_failure import CameraFailure, failure_of
from retinanet_edge.runtime.camera_log import CameraLog
from retinanet_edge.runtime.errors import CameraError, CameraFault
from retinanet_edge.runtime.frame import Frame
from retinanet_edge.runtime.frame_intake import FrameIntake
from retinanet_edge.runtime.source_reader import SourceReader
from retinanet_edge.runtime.supervisor_inbox import Stopped, SupervisorInbox

_RELEASE_S = 2.0  # how long a reader may take to end before it counts as hanging
_MOST_HANGING = 3  # readers; each holds a thread, a connection and its buffers
_OVER = (CameraState.ENDED, CameraState.FAILED)
_DEFAULT_LIMITS = RestartLimits()


class SupervisedCamera:
    """A source as a Camera.

    frame_ready: set when a frame comes or the state changes; one for all cameras of a consumer, who clears it, takes from each camera until
    None, looks at the states, and waits for it only where nothing was there. random: draws the waits of the back-off, from [0, 1).
    others_run: whether another camera of the stream runs; while one does, this one is not given up, which would end nothing.
    """

    def __init__(
        self, name: str, source: Source, limits: RestartLimits = _DEFAULT_LIMITS, *, frame_ready: threading.Event,
        random: Callable[[], float] = random_numbers.random, others_run: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self.name = name
        self.remark: str | None = None
        self.last_failure: CameraError | None = None  # of the last failure, until a frame comes
        self._source, self._limits, self._frame_ready, self._others_run = source, limits, frame_ready, others_run
        self._backoff, self._log, self._intake = Backoff(limits, random), CameraLog(name), FrameIntake(name, source, limits)
        self._state = CameraState.CONNECTING
        self._reader: SourceReader | None = None
        self._hanging: list[SourceReader] = []
        self._inbox = SupervisorInbox()
        self._supervisor = threading.Thread(target=self._supervise, name=f"camera {name}", daemon=True)
        self._supervisor.start()

    @property
    def live(self) -> bool:
        """Whether it gives its newest frame; a recording gives every frame. Of an address, known for certain once connected."""
        return self._source.live

    @property
    def fps(self) -> float:
        """Nominal frames per second."""
        return self._source.fps

    @property
    def connected_once(self) -> bool:
        """Whether a frame has ever come. Where not, and nothing is wrong yet, `last_failure` is None."""
        return self._intake.captured > 0

    @property
    def error(self) -> CameraError | None:
        """Why it is FAILED."""
        return self.last_failure if self._state is CameraState.FAILED else None

    @property
    def status(self) -> CameraStatus:
        """How it is. ENDED or FAILED only once every frame has been taken: then none will come."""
        state, intake, error = self._state, self._intake, self.last_failure
        age_s = None if intake.changed_s is None else time.perf_counter() - intake.changed_s
        if state in _OVER and not intake.mailbox.empty:
            state = CameraState.RUNNING
        return CameraStatus(
            self.name, state, self.live, intake.captured, intake.mailbox.dropped, intake.failed, max(0, intake.connections - 1),
            self.fps, intake.size, age_s, None if error is None else str(error),
        )  # fmt: skip

    def take(self) -> Frame | None:
        """Return the next frame, None where none is there now. Never blocks."""
        return self._intake.mailbox.take()

    def stop(self) -> None:
        """Let it end soon; what was captured can still be taken from a recording. May be called from a signal handler."""
        self._inbox.stop()

    def close(self) -> None:
        """Release what is held, in bounded time even where a driver hangs; may be called twice."""
        self.stop()
        self._supervisor.join(2 * _RELEASE_S)  # it may be in the middle of waiting for a reader
        self._intake.mailbox.clear()

    def _supervise(self) -> None:
        over = CameraState.FAILED  # also where a mistake in here ends the thread
        try:
            over = self._run()
        except Stopped:
            over = CameraState.ENDED
        finally:
            self._intake.mailbox.close()
            self._release()
            self._end(over)

    def _run(self) -> CameraState:
        """Connect again and again. Return the state that it is left in."""
        while True:
            failure = self._connect_once()
            self._release()
            if failure is None:
                return CameraState.ENDED
            self.last_failure = failure.error
            if failure.lasting or not self.live:
                return CameraState.FAILED
            if self._intake.staleness.healthy:
                self._backoff.reset()
            wait_s = self._backoff.next_wait_s(self._others_run())
            if wait_s is None:
                self.last_failure = CameraError(f"{failure.error}; gave up after {self._limits.restarts} restarts", failure.error.fault)
                return CameraState.FAILED
            self._change(CameraState.BACKOFF, str(failure.error), f"; next try in {wait_s:.1f} s")
            self._inbox.pause(wait_s)
            self._change(CameraState.CONNECTING)

    def _end(self, over: CameraState) -> None:
        if over is CameraState.ENDED:
            self._change(over, self.remark or "")
            return
        if self.last_failure is None:
            self.last_failure = CameraError(f"camera {self.name} is no longer supervised: restart this program, and report what it said")
        self._change(over, str(self.last_failure))

    def _connect_once(self) -> CameraFailure | None:
        """Watch one connection until it is over. Return why, None for the end of a recording."""
        self._hanging = [reader for reader in self._hanging if not reader.ended]
        if len(self._hanging) >= _MOST_HANGING:
            text = f"camera {self.name} hangs: {_MOST_HANGING} connections have not come back from its driver: restart this program"
            return CameraFailure(CameraError(text, CameraFault.TIMEOUT), lasting=True)
        deliver = partial(self._deliver, self._intake.begin())
        reader = self._reader = SourceReader(f"camera {self.name} reader", self._source, deliver, self._inbox.wake)
        staleness = self._intake.staleness
        while True:
            self._inbox.sleep(staleness.patience_s(time.perf_counter()) if self.live else None)
            if staleness.began and self._state is CameraState.CONNECTING:
                self.last_failure = None
                self._change(CameraState.RUNNING)
            if reader.ended:
                return self._end_of(reader)
            if self.live and (reason := staleness.reason(time.perf_counter())):
                self._change(CameraState.STALE, reason)
                fault = CameraFault.LOST if staleness.repeats_itself else CameraFault.TIMEOUT
                return CameraFailure(CameraError(f"camera {self.name} {reason}: check it and its cable", fault))

    def _end_of(self, reader: SourceReader) -> CameraFailure | None:
        if reader.error is not None:
            return failure_of(reader.error, self.name)
        if self.live:
            return CameraFailure(CameraError(f"camera {self.name} has ended: {reader.remark or 'it gives no more'}", CameraFault.LOST))
        self.remark = reader.remark
        return None

    def _deliver(self, connection: int, given: SourceImage) -> None:
        """Take an image, on the reader's thread."""
        if self._intake.add(connection, given):
            self._inbox.wake()
        self._frame_ready.set()

    def _release(self) -> None:
        """End the connection at hand; what hangs in its driver is left behind."""
        self._intake.end()
        reader, self._reader = self._reader, None
        if reader is not None and not reader.dismiss(min(_RELEASE_S, self._limits.stale_s)):
            self._hanging.append(reader)

    def _change(self, state: CameraState, reason: str = "", detail: str = "") -> None:
        old, self._state = self._state, state
        if old is not state:
            self._log.change(old, state, reason, detail)
            self._frame_ready.set()
