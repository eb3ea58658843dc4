"""What an engine file gives, in the three forms that build_engine.py makes (--nms), as detections. Pure: asks no GPU.

plugin: num_detections, detection_boxes, detection_scores, detection_classes. rows: detections [S, 7], S of all images together
depending on the data. heads: class_logits, box_deltas, anchors, whose post-processing runs here, on the host.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import EngineRecord, ModelCard, NmsSpec
from retinanet_edge.runtime.native_rows import COLUMNS, group_rows
from retinanet_edge.runtime.tensor_lane import TensorSpec

Form = Literal["plugin", "rows", "heads"]
INPUT = "images"
_COUNT, _BOXES, _SCORES, _CLASSES = "num_detections", "detection_boxes", "detection_scores", "detection_classes"
_ROWS = "detections"
_LOGITS, _DELTAS, _ANCHORS = "class_logits", "box_deltas", "anchors"


def form_of(outputs: Collection[str]) -> Form:
    """Return the form of outputs by their names; "plugin" where it is none of the three."""
    if _ROWS in outputs:
        return "rows"
    return "heads" if _LOGITS in outputs else "plugin"


def nms_of(record: EngineRecord, card: ModelCard) -> NmsSpec:
    """Return the post-processing that an engine was built with. Raises ModelFolderError for a card that says nonsense."""
    stated = {name: record.options.get(f"nms_{name}", str(value)) for name, value in dataclasses.asdict(card.nms).items()}
    try:
        return dataclasses.replace(
            card.nms, score_threshold=float(stated["score_threshold"]), iou_threshold=float(stated["iou_threshold"]),
            max_detections=int(stated["max_detections"]),
        )  # fmt: skip
    except ValueError:
        raise ModelFolderError(f"the card's options of {record.file} must be numbers, got {stated}: build the engine again") from None


def frame_size_of(record: EngineRecord) -> tuple[int, int] | None:
    """Return height and width of the camera frames that an engine takes whole, None where it takes letterboxed images."""
    size = record.options.get("camera_size", "None")
    if size == "None":
        return None
    if not (parts := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size)):
        raise ModelFolderError(f"the card's camera_size of {record.file} must be WIDTHxHEIGHT, got {size}: build the engine again")
    return int(parts[2]), int(parts[1])


def expected_tensors(record: EngineRecord, card: ModelCard, found: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Return what the tensors of an engine must be, as `describe` gives it; the number of raw heads' anchors is that of `found`."""
    kept = nms_of(record, card).max_detections
    height, width = frame_size_of(record) or (card.input.height, card.input.width)
    outputs = {
        "plugin": {_COUNT: "int32 [-1, 1]", _BOXES: f"float32 {[-1, kept, 4]}", _SCORES: f"float32 {[-1, kept]}",
                   _CLASSES: f"int32 {[-1, kept]}"},
        "rows": {_ROWS: f"float32 {[-1, COLUMNS]}"},
    }  # fmt: skip
    if (form := form_of(found)) == "heads":
        anchors = next(iter(found[_LOGITS].shape[1:]), -1)
        sizes = {_LOGITS: len(card.classes), _DELTAS: 4, _ANCHORS: 4}
        return {INPUT: f"uint8 {[-1, height, width, 3]}", **{name: f"float32 {[-1, anchors, size]}" for name, size in sizes.items()}}
    return {INPUT: f"uint8 {[-1, height, width, 3]}", **outputs[form]}


def describe(spec: TensorSpec) -> str:
    """Return type and shape of a tensor, -1 for its first dimension: a batch of one at most is static in some versions."""
    return f"{spec.dtype} {[-1, *spec.shape[1:]]}"


def detections_of(outputs: Mapping[str, NDArray[Any]], images: int, nms: NmsSpec) -> list[Detections]:
    """Return the detections of each image, best first; nothing of `outputs` is shared, or it is the caller's own."""
    form = form_of(outputs)
    if form == "heads":
        return efficient_nms(outputs[_LOGITS], outputs[_DELTAS], outputs[_ANCHORS], nms)
    if form == "rows":
        return group_rows(outputs[_ROWS], images, nms.max_detections)
    return [_filled(outputs, image) for image in range(images)]


def _filled(outputs: Mapping[str, NDArray[Any]], image: int) -> Detections:
    """Return the filled rows of an image; the plugin writes them best first and leaves the others zero."""
    count = int(outputs[_COUNT][image, 0])
    boxes, scores, classes = (outputs[name][image, :count] for name in (_BOXES, _SCORES, _CLASSES))
    return Detections(boxes, scores, classes.astype(np.int64))
