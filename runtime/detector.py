"""A model as one call, for one's own program and for the stream: frames in, boxes in frame pixels out. Needs no torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.engine import Engine, Inference, image_size, open_engine
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.model_folder import DEFAULT_MODEL, find_model_folder, read_card


@dataclass(frozen=True)
class TimedDetections:
    """Detections of each frame, and milliseconds of each stage for all of them together, in order."""

    detections: list[Detections]
    stage_ms: dict[str, float]


@dataclass(frozen=True)
class PreparedFrames:
    """What goes into the engine, uint8 [N, H, W, 3], and the way back to each frame's pixels."""

    images: NDArray[np.uint8]
    boxings: list[Letterbox]
    letterbox_ms: float


@dataclass(frozen=True)
class InferredFrames:
    """What came out of the engine for prepared frames."""

    inference: Inference
    prepared: PreparedFrames


class Detector:
    """Letterbox, network, post-processing and the way back to frame pixels. A context manager.

    Threads may share one on the CPU backend, where they wait for each other; a TensorRT engine belongs to the thread that first runs
    it, and any thread may close it.

    model_folder: what training and export wrote. engine: "auto", "fp32", "int8", the name of an engine file in the folder, or an
    open Engine, which the detector then owns. threshold: least score, 0..1 (below the card's own threshold nothing comes). only:
    name or names of the classes wanted, None for all. max_batch: frames that go through the network together.

    Raises ModelFolderError, UserInputError (unknown class or engine) and EngineError.
    """

    def __init__(
        self,
        model_folder: Path | str = DEFAULT_MODEL,
        engine: str | Engine = "auto",
        threshold: float = 0.5,
        *,
        only: Collection[str] | str | None = None,
        max_batch: int = 1,
    ) -> None:
        if max_batch < 1:
            raise UserInputError(f"max_batch must be at least 1, got {max_batch}")
        if not 0 <= threshold <= 1:
            raise UserInputError(f"threshold must be from 0 to 1, got {threshold}")
        folder = find_model_folder(model_folder)
        card = read_card(folder)
        self.classes = card.classes
        names = [only] if isinstance(only, str) else only
        self._threshold, self._only = threshold, None if names is None else _class_indexes(names, card.classes)
        self._engine = open_engine(folder, card, engine, max_batch=max_batch) if isinstance(engine, str) else engine
        batch = min(max_batch, self._engine.max_batch)
        self._alone = threading.Lock()  # over the input buffer, which belongs to one call at a time
        self._images = np.empty((batch, *image_size(self._engine, card), 3), np.uint8)

    @property
    def engine(self) -> Engine:
        """What runs the model."""
        return self._engine

    @property
    def max_batch(self) -> int:
        """The most frames that go through the network together."""
        return len(self._images)

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        """Return what is on `frame`, uint8 [H, W, 3] BGR of any size. Raises ValueError for anything else."""
        return self.detect([frame])[0]

    def detect(self, frames: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Return the detections of each frame; frames may differ in size. Raises ValueError as above."""
        return self.detect_timed(frames).detections

    def detect_timed(self, frames: Sequence[NDArray[np.uint8]]) -> TimedDetections:
        """Return the detections of each frame and the time that each stage took. Raises ValueError as above."""
        for frame in frames:
            _check_frame(frame)
        detections: list[Detections] = []
        stage_ms: dict[str, float] = {}
        for start in range(0, len(frames), len(self._images)):
            with self._alone:
                part = self.finish(self.infer(self.prepare(frames[start : start + len(self._images)], self._images)))
            detections += part.detections
            for stage, milliseconds in part.stage_ms.items():
                stage_ms[stage] = stage_ms.get(stage, 0.0) + milliseconds
        return TimedDetections(detections, stage_ms)

    def input_buffer(self) -> NDArray[np.uint8]:
        """Return room for the images of one batch, uint8 [max_batch, H, W, 3], for `prepare`."""
        return np.empty_like(self._images)

    def prepare(self, frames: Sequence[NDArray[np.uint8]], buffer: NDArray[np.uint8]) -> PreparedFrames:
        """Fit up to max_batch frames into the buffer. With `infer` and `finish`, `detect_timed` in three steps for three threads."""
        start = time.perf_counter()
        height, width = buffer.shape[1:3]
        boxings = [Letterbox(frame.shape[0], frame.shape[1], height, width) for frame in frames]
        if len(frames) == 1 and frames[0].shape == buffer.shape[1:]:
            images = np.asarray(frames[0])[np.newaxis]  # a single frame of just the right size is not even copied
        else:
            for boxing, frame, image in zip(boxings, frames, buffer, strict=False):
                boxing.apply(frame, out=image)
            images = buffer[: len(frames)]
        return PreparedFrames(images, boxings, (time.perf_counter() - start) * 1e3)

    def infer(self, prepared: PreparedFrames) -> InferredFrames:
        """Run the engine: in one thread at a time, with TensorRT in the same one always."""
        return InferredFrames(self._engine.infer(prepared.images), prepared)

    def finish(self, inferred: InferredFrames) -> TimedDetections:
        """Filter, and bring boxes to frame pixels."""
        start = time.perf_counter()
        found = zip(inferred.inference.detections, inferred.prepared.boxings, strict=True)
        detections = [boxing.detections_to_frame(one.filtered(self._threshold, self._only)) for one, boxing in found]
        boxes_ms = (time.perf_counter() - start) * 1e3
        return TimedDetections(
            detections, {"letterbox": inferred.prepared.letterbox_ms, **inferred.inference.stage_ms, "boxes": boxes_ms}
        )

    def close(self) -> None:
        """Release the engine; may be called twice."""
        self._engine.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _class_indexes(names: Collection[str], known: Sequence[str]) -> list[int]:
    if unknown := [name for name in names if name not in known]:
        raise UserInputError(f"the model has no class {', '.join(unknown)}: it knows {', '.join(known)}")
    return [known.index(name) for name in names]


def _check_frame(frame: object) -> None:
    if not isinstance(frame, np.ndarray):
        raise ValueError(f"a frame must be a NumPy array, got {type(frame).__name__}")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise ValueError(f"a frame must be uint8 [H, W, 3] BGR, got {frame.dtype} {list(frame.shape)}")
