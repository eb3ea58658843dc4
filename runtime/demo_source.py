"""Generated scenes as a source, with scripted faults to try what the stream does about them.

    demo                            a recording: every frame, as fast as asked
    demo:live                       a camera: frames at its rate, whether or not anybody takes them
    demo:freeze@100+50,gone@300     a camera with faults, FAULT@FRAME[+COUNT], COUNT being 1 where it is not given

Frames count from 0 with each connection; for COUNT frames from FRAME on

    freeze  the image of before comes again
    none    no image comes, as of one that does not decode
    size    images have half the height and width
    slow    frames come at a quarter of the rate
    block   nothing comes for so many frames' time; without COUNT for ever, as from a driver that hangs
    gone    (without COUNT) the camera is lost
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.camera import DEFAULT_FPS, SourceImage, SourceImages, SourceOptions
from retinanet_edge.runtime.errors import CameraError, CameraFault

_KINDS = ("freeze", "none", "size", "slow", "block", "gone")
_SLOWNESS = 4
_FRAMES_A_SCENE = 100
_DEFAULT_SIZE = (256, 256)
_FOR_EVER_S = 3600.0


@dataclass(frozen=True)
class DemoFault:
    """A fault from frame `begin` on, for `count` frames, None: for ever."""

    kind: str
    begin: int
    count: int | None

    def covers(self, index: int) -> bool:
        """Return whether frame `index` has it."""
        return self.begin <= index and (self.count is None or index < self.begin + self.count)


def parse_script(script: str) -> tuple[DemoFault, ...]:
    """Return the faults of a script as in the module's docstring, "live" being none. Raises CameraError for anything else."""
    faults = []
    for word in filter(lambda word: word != "live", script.split(",")):
        match = re.fullmatch(rf"({'|'.join(_KINDS)})@(\d+)(?:\+(\d+))?", word)
        if match is None or (match[1] == "gone" and match[3]):
            expected = f"live or FAULT@FRAME[+COUNT] with commas between, FAULT one of {', '.join(_KINDS)}, gone without +COUNT"
            raise CameraError(f"demo: must be followed by {expected}, got {word!r}", CameraFault.UNSUPPORTED)
        default = None if match[1] in ("block", "gone") else 1
        faults.append(DemoFault(match[1], int(match[2]), int(match[3]) if match[3] else default))
    return tuple(faults)


class DemoSource:
    """Scenes without end, the same ones with each connection. script: None for a recording."""

    def __init__(self, script: str | None, options: SourceOptions) -> None:
        """Raises CameraError where the script is none."""
        self.name, self.live = "demo", script is not None
        self.fps = options.fps or DEFAULT_FPS
        self._faults = parse_script(script) if script is not None else ()
        self._size = options.size or _DEFAULT_SIZE

    def images(self) -> SourceImages:
        """Yield images. Raises CameraError, LOST, where the script says so."""
        scenes = _scenes(*self._size)
        if not self.live:
            for index, image in enumerate(scenes):
                yield SourceImage(image, index / self.fps)
        due_s, last, failed = time.monotonic(), next(scenes), 0
        for index, image in enumerate(itertools.chain([last], scenes)):
            kinds = {fault.kind for fault in self._faults if fault.covers(index)}
            due_s += (_SLOWNESS if "slow" in kinds else 1) / self.fps
            self._fail(index, kinds)
            time.sleep(max(0.0, due_s - time.monotonic()))
            if "none" in kinds:
                failed += 1
            elif "block" not in kinds:
                last = last if "freeze" in kinds else image[::2, ::2].copy() if "size" in kinds else image
                yield SourceImage(last, None, failed)
                failed = 0
        return None

    def _fail(self, index: int, kinds: set[str]) -> None:
        if "gone" in kinds:
            raise CameraError(f"the demo is gone at frame {index}, as scripted", CameraFault.LOST)
        while any(fault.kind == "block" and fault.count is None and fault.covers(index) for fault in self._faults):
            time.sleep(_FOR_EVER_S)


def _scenes(width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    from retinanet_edge.runtime.scene_video import DEMO_CAMERA_SEED, SEEDS_A_BLOCK, SceneVideo

    for scene in itertools.count(DEMO_CAMERA_SEED):
        video = SceneVideo(scene % SEEDS_A_BLOCK, height, width)
        for moment in range(_FRAMES_A_SCENE):
            yield video.frame(moment)[0]
