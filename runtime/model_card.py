"""The card of a model: the contract between training, export and runtime, written as `card.json` in the model folder.

Frozen dataclasses; every field is validated when a card is read, so that a truncated, hand-edited or newer card is one
clear line and never a wrong picture. What a field means stands beside it. This file knows nothing about folders or locks:
see model_folder.py.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

from retinanet_edge.runtime.card_decoding import decode
from retinanet_edge.runtime.card_versions import SCHEMA_VERSION, to_todays
from retinanet_edge.runtime.errors import ModelFolderError

# What an engine file holds. The network runs at this precision; decode and NMS are always FP32.
Precision = Literal["fp32", "fp16", "int8"]
CalibrationMethod = Literal["minmax", "percentile", "entropy", "mse"]  # by which a tensor's range was chosen (export/histograms.py)


@dataclass(frozen=True)
class InputSpec:
    """What the network takes: uint8 [N, height, width, 3]; mean and std are per channel, RGB, on the 0..255 scale."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color_order: Literal["BGR"] = "BGR"
    letterbox: Literal["top-left, bilinear, fill 114"] = "top-left, bilinear, fill 114"


@dataclass(frozen=True)
class AnchorSpec:
    """Anchors of every level, fine to coarse: sides in input pixels are size * scale, of area (size * scale)^2 at any ratio.

    The fields with defaults say by which rule (training/anchors.py has KerasCV's and torchvision's).
    """

    strides: tuple[int, ...]
    sizes: tuple[float, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    ratio_is: Literal["h/w", "w/h"] = "h/w"
    outer: Literal["ratio", "scale"] = "ratio"  # what changes slowest among the anchors of a cell
    offset: float = 0.5  # where in its cell an anchor is centred: 0.5 its middle, 0 its top left corner
    whole_sizes: bool = False  # size * scale cut to whole pixels
    whole_corners: bool = False  # corners rounded to whole pixels about the centre
    strides_of_grid: bool = False  # a level's step is the input's side over its cells, rounded down, not its stride
    clip: bool = False  # cut to the input

    @property
    def per_cell(self) -> int:
        """Anchors at each position of each level."""
        return len(self.scales) * len(self.ratios)


@dataclass(frozen=True)
class NmsSpec:
    """Post-processing, as EfficientNMS_TRT takes it; `top_k_per_level` bounds what enters it, inside the graph (None: nothing does).

    Raises ModelFolderError for what the plugin does not take, or takes with another meaning.
    """

    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 100
    top_k_per_level: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.01 <= self.score_threshold < 1:  # below 0.01 the plugin takes a path that lets boxes under the threshold through
            raise ModelFolderError(f"nms.score_threshold must be at least 0.01 and below 1, got {self.score_threshold}")
        if not 0 < self.iou_threshold <= 1:
            raise ModelFolderError(f"nms.iou_threshold must be above 0 and at most 1, got {self.iou_threshold}")
        if self.max_detections > 10_000:  # the plugin lets 5000 into suppression; more is a slip of the keyboard
            raise ModelFolderError(f"nms.max_detections must be at most 10000, got {self.max_detections}")
        if self.max_detections < 1 or (self.top_k_per_level is not None and self.top_k_per_level < 1):
            raise ModelFolderError(
                f"nms.max_detections and nms.top_k_per_level must be at least 1, got {self.max_detections} and {self.top_k_per_level}"
            )
        if self.top_k_per_level is not None and self.top_k_per_level > 3840:  # TensorRT's TopK layer takes no more
            raise ModelFolderError(f"nms.top_k_per_level must be at most 3840, which is TensorRT's limit, got {self.top_k_per_level}")


@dataclass(frozen=True)
class NetworkSpec:
    """What rebuilds the network around its weights (training/model.py).

    `norm` stands after each shared convolution of the heads; "batch" also after each output of the pyramid. `tensorflow_padding` is that
    of P6 and P7. `box_variances` scale what the box head says to (dx, dy, dw, dh); the exported graph has them folded in.
    """

    backbone: str
    fpn_channels: int
    head_channels: int
    head_depth: int
    norm: Literal["none", "batch", "group"]
    p6_from: Literal["C5", "P5"] = "P5"
    tensorflow_padding: bool = False
    box_variances: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)


@dataclass(frozen=True)
class DatasetRecord:
    """What the model was trained on. `path` is relative to the model folder; `split` says how the division was made."""

    format: Literal["coco", "voc", "yolo"]
    path: str
    sha256: str
    split: str
    train_images: int
    val_images: int
    test_images: int


@dataclass(frozen=True)
class TrainingRecord:
    """How the weights came to be. `best_epoch` (from 1) is the one whose weights the folder holds.

    `profile`: whose rules were followed. An anchor was an object from `foreground_iou` on, background below `background_iou`.
    """

    weights_sha256: str
    start: str
    epochs: int
    best_epoch: int
    seed: int
    torch: str
    profile: str = "default"
    foreground_iou: float = 0.5
    background_iou: float = 0.4


@dataclass(frozen=True)
class OnnxRecord:
    """The portable `model.onnx`. `max_difference` is against PyTorch on real images, over logits and deltas."""

    sha256: str
    weights_sha256: str
    opset: int
    max_difference: float


@dataclass(frozen=True)
class Calibration:
    """What the INT8 scales were measured on, or, by "qat", learned on: quantization-aware fine-tuning (training/qat.py)."""

    method: Literal["minmax", "percentile", "entropy", "mse", "qat"]
    images: int
    data_sha256: str
    seed: int


@dataclass(frozen=True)
class Int8Record:
    """The quantized `model.int8.onnx`. kept: convolutions that stay out of INT8. equalized: channels were (export/equalization.py)."""

    sha256: str
    source_sha256: str
    calibration: Calibration
    kept: tuple[str, ...] = ()
    equalized: bool = False


@dataclass(frozen=True)
class DropInterval:
    """The 95 % interval of the loss of AP, 0..1: both models on `resamples` redraws of the split's images (bootstrap.py)."""

    low: float
    high: float
    resamples: int
    images: int


@dataclass(frozen=True)
class ClassDrop:
    """AP of FP32 - AP of INT8 of one class, 0..1."""

    name: str
    ap_drop: float


@dataclass(frozen=True)
class Verdict:
    """Whether INT8 holds the accuracy: `ap_drop` = AP of FP32 - AP of INT8 on the same images, both on the 0..1 scale.

    ap_drop: None where nothing could be measured, which only force accepts. worst_classes: the at most three that lost most.
    """

    passed: bool
    ap_drop: float | None
    max_ap_drop: float
    onnx_sha256: str
    forced: bool
    interval: DropInterval | None = None
    worst_classes: tuple[ClassDrop, ...] = ()


@dataclass(frozen=True)
class Accuracy:
    """COCO AP at one precision, by one backend, on one split."""

    precision: Precision
    backend: str
    split: str
    images: int
    ap: float
    ap50: float
    ap75: float
    file_sha256: str


@dataclass(frozen=True)
class EngineRecord:
    """A compiled TensorRT engine: valid only for this TensorRT version and this GPU."""

    file: str
    sha256: str
    precision: Precision
    onnx_sha256: str
    tensorrt: str
    gpu: str
    compute_capability: str
    plugin_version: str
    max_batch: int
    built: str
    options: dict[str, str]


@dataclass(frozen=True)
class ModelCard:
    """Everything the next command must know about a model. Raises ModelFolderError where fields contradict each other."""

    classes: tuple[str, ...]
    input: InputSpec
    anchors: AnchorSpec
    network: NetworkSpec
    nms: NmsSpec = field(default_factory=NmsSpec)
    box_coding: Literal["center-size, variances folded"] = "center-size, variances folded"
    dataset: DatasetRecord | None = None
    training: TrainingRecord | None = None
    onnx: OnnxRecord | None = None
    int8: Int8Record | None = None
    verdict: Verdict | None = None
    accuracy: tuple[Accuracy, ...] = ()
    engines: tuple[EngineRecord, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ModelFolderError(f"a card needs classes with distinct names, got {list(self.classes)}")
        if len(self.anchors.strides) != len(self.anchors.sizes):
            raise ModelFolderError("a card needs one anchor size per stride, got "
                                   f"{len(self.anchors.sizes)} sizes and {len(self.anchors.strides)} strides")  # fmt: skip
        if min(self.anchors.strides + self.anchors.sizes + self.anchors.scales + self.anchors.ratios, default=0) <= 0:
            raise ModelFolderError(f"a card needs anchors with positive strides, sizes, scales and ratios, got {self.anchors}")
        if not self.anchors.per_cell:
            raise ModelFolderError("a card needs at least one anchor scale and ratio")
        if len(self.network.box_variances) != 4 or min(self.network.box_variances) <= 0:
            raise ModelFolderError(f"a card needs four positive box variances, got {self.network.box_variances}")
        if min(self.input.height, self.input.width) < 1:
            raise ModelFolderError(f"a card needs a positive input size, got {self.input.height}x{self.input.width}")
        if len(self.input.mean) != 3 or len(self.input.std) != 3 or min(self.input.std) <= 0:
            raise ModelFolderError("a card needs three means and three positive standard deviations")

    def with_training(self, record: TrainingRecord) -> ModelCard:
        """Return the card with new weights, without what was made from the former ones."""
        return dataclasses.replace(self, training=record, onnx=None, int8=None, verdict=None, accuracy=(), engines=())

    def with_onnx(self, record: OnnxRecord) -> ModelCard:
        """Return the card with a new model.onnx; what was made from the former one goes, unless the file is the same."""
        if self.onnx is not None and self.onnx.sha256 == record.sha256:
            return dataclasses.replace(self, onnx=record)
        return dataclasses.replace(self, onnx=record, int8=None, verdict=None, accuracy=(), engines=())

    def with_accuracy(self, measured: Accuracy) -> ModelCard:
        """Return the card with `measured` in place of the earlier figure of the same precision, backend and split."""
        key = (measured.precision, measured.backend, measured.split)
        kept = tuple(a for a in self.accuracy if (a.precision, a.backend, a.split) != key)
        return dataclasses.replace(self, accuracy=(*kept, measured))

    def with_engine(self, record: EngineRecord) -> ModelCard:
        """Return the card with `record` last, in place of an earlier engine of the same file name."""
        kept = tuple(e for e in self.engines if e.file != record.file)
        return dataclasses.replace(self, engines=(*kept, record))

    def to_json(self) -> str:
        """Return the text of card.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"


def card_from_json(text: str, source: str) -> ModelCard:
    """Return the card in `text`; `source` names the file in messages.

    A card of an earlier version comes back as one of today's. Raises ModelFolderError for text that is not JSON, a newer schema, and
    fields that are missing, unknown or of the wrong type.
    """
    remedy = "train again, or take card.json from a backup"
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, lists within lists within lists
        raise ModelFolderError(f"{source} is not JSON ({error}), it may be truncated: {remedy}") from None
    if not isinstance(data, dict):
        raise ModelFolderError(f"{source} must hold a JSON object, got {type(data).__name__}: {remedy}")
    data = to_todays(data)
    if (version := data.get("schema_version")) != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        advice = "update retinanet-edge" if newer else remedy
        raise ModelFolderError(f"{source} must have schema version {SCHEMA_VERSION}, got {version!r}: {advice}")
    try:
        card = decode(ModelCard, data, "")
    except (ValueError, OverflowError, ModelFolderError) as error:
        raise ModelFolderError(f"{source}: {error}: {remedy}") from None
    assert isinstance(card, ModelCard)
    return card
