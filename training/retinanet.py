"""RetinaNet from Python, as KerasCV 0.9 has it: made of parts that can be replaced, trained and asked for boxes directly.

A card and the commands have the network of model.py instead. The weights of the two are the same where their parts are: those of a
RetinaNet without parts of one's own fit NetworkSpec(backbone, 256, 256, 3, "none", "C5", tensorflow_padding=True) on KERAS_ANCHORS.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from retinanet_edge.runtime.errors import RetinaNetEdgeError, UserInputError
from retinanet_edge.training.anchors import KERAS_ANCHORS, AnchorGenerator
from retinanet_edge.training.backbones import Backbone, make_backbone
from retinanet_edge.training.box_formats import check_box_format
from retinanet_edge.training.checkpoint import load_timm_weights, load_weights, read_tensors
from retinanet_edge.training.decoders import PaddedDetections, PredictionDecoder
from retinanet_edge.training.heads import FeaturePyramid, PredictionHead, flatten_maps, prior_bias
from retinanet_edge.training.losses import KERAS_LOSS, Losses, LossSpec, normalize, sum_encoded_losses
from retinanet_edge.training.presets import PRESETS, PresetEntry, resolve
from retinanet_edge.training.targets import LabelEncoder

InputShape = tuple[int | None, int | None, int | None]  # height, width, channels; None leaves a side open


class Decoder(Protocol):
    """What a prediction decoder has to be; those of decoders.py are."""

    @property
    def bounding_box_format(self) -> str:
        """The format of the boxes that it returns."""

    def __call__(
        self, box_deltas: Tensor, class_logits: Tensor, anchors: Sequence[Tensor], image_shape: tuple[int, int]
    ) -> PaddedDetections:
        """Return the detections of a batch; see PredictionDecoder for the arguments."""


class RetinaNet(nn.Module):
    """images [N, H, W, 3], RGB from 0 to 255, uint8 or float, of any size -> "box" [N, A, 4] and "classification" [N, A, K].

    Classes are 0 to num_classes - 1, without a background. Boxes of labels and of predictions are in `bounding_box_format`. The backbone
    gives three maps, and states their `channels` and the mean and standard deviation of its input in `info`. A pyramid of one's own
    turns those maps into five and states their `channels`; a head turns the five into maps of anchors of a cell * K (or 4) channels.
    Raises UserInputError for an anchor generator beside a label encoder, which has one, and for formats that differ.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, bounding_box_format: str, anchor_generator: AnchorGenerator | None = None,
        label_encoder: LabelEncoder | None = None, prediction_decoder: Decoder | None = None, feature_pyramid: nn.Module | None = None,
        classification_head: nn.Module | None = None, box_head: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if anchor_generator is not None and label_encoder is not None:
            raise UserInputError("give either an anchor_generator or a label_encoder, which has its own, got both")
        if num_classes < 1:
            raise UserInputError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes, self.bounding_box_format = num_classes, check_box_format(bounding_box_format)
        self.input_shape: InputShape = (None, None, 3)
        self.label_encoder = label_encoder or LabelEncoder(anchor_generator or KERAS_ANCHORS, self.bounding_box_format)
        self.prediction_decoder = prediction_decoder or PredictionDecoder(self.bounding_box_format)
        for part in ("label_encoder", "prediction_decoder"):
            _check_same_format(part, getattr(self, part).bounding_box_format, self.bounding_box_format)
        self.backbone = backbone
        self.pyramid = feature_pyramid or FeaturePyramid(backbone.channels, p6_from="C5", tensorflow_padding=True)
        channels, per_cell = getattr(self.pyramid, "channels", 256), self.anchor_generator.per_cell
        self.class_head = classification_head or PredictionHead(per_cell * num_classes, prior_bias(), in_channels=channels)
        self.box_head = box_head or PredictionHead(per_cell * 4, 0.0, in_channels=channels)
        self.register_buffer("mean", torch.tensor(backbone.info.mean), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.info.std), persistent=False)

    @classmethod
    def from_preset(
        cls, name: str, load_weights: bool | str | Path | None = None, input_shape: InputShape | None = None, *,
        num_classes: int = 20, bounding_box_format: str = "xywh",
    ) -> RetinaNet:  # fmt: skip
        """Return the RetinaNet of a preset's name: of a backbone with fresh heads, or a whole model.

        load_weights: True, those that the name stands for, or UserInputError; None, the same, but random ones and a line on stderr where
        they cannot be had; False, random ones; or a safetensors file of the backbone or of a whole RetinaNet of this class. Where
        `input_shape` (height, width, 3) is given, other images are refused. Raises UserInputError for a name that nothing stands behind.
        """
        entry = resolve(name)
        file = Path(load_weights) if isinstance(load_weights, str | Path) else None
        start = "none" if isinstance(load_weights, str | Path) else _start(entry, load_weights)
        backbone, _ = make_backbone(entry.timm_name if entry.kind == "retinanet" else name, start)
        model = cls(backbone, num_classes, bounding_box_format)
        model.input_shape = input_shape or model.input_shape
        if file is not None:
            _load_file(model, file)
        return model

    @property
    def anchor_generator(self) -> AnchorGenerator:
        """The label encoder's."""
        return self.label_encoder.anchor_generator

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the raw outputs: "box" (dx, dy, dw, dh) over the label encoder's variance, "classification" logits."""
        self._check_images(images)
        x = (images.float() - self.get_buffer("mean")) / self.get_buffer("std")
        levels = self.pyramid(self.backbone(x.permute(0, 3, 1, 2)))
        heads = {"box": (self.box_head, 4), "classification": (self.class_head, self.num_classes)}
        return {name: self._of_head(name, head(levels), outputs) for name, (head, outputs) in heads.items()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> PaddedDetections:
        """Return decoded and suppressed detections in the model's box format and the images' pixels; training mode stays as it is."""
        with _in_evaluation_mode(self):
            outputs = self(images)
        shape = (int(images.shape[1]), int(images.shape[2]))
        anchors = [level.to(images.device) for level in self.anchor_generator.levels(*shape)]
        deltas = outputs["box"].float() * outputs["box"].new_tensor(self.label_encoder.box_variance)
        return self.prediction_decoder(deltas, outputs["classification"], anchors, shape)

    def compute_loss(self, images: Tensor, boxes: Sequence[Tensor], classes: Sequence[Tensor], loss: LossSpec = KERAS_LOSS) -> Losses:
        """Return the losses of images with boxes [n, 4] and classes [n] each; a class below 0 is padding.

        The matcher and variances of `loss` do not count: the label encoder's do. Raises UserInputError for classes that the model has not.
        """
        real = [of_image >= 0 for of_image in classes]
        boxes = [of_image[kept] for of_image, kept in zip(boxes, real, strict=True)]
        classes = [of_image[kept] for of_image, kept in zip(classes, real, strict=True)]
        largest = max((int(of_image.max()) for of_image in classes if len(of_image)), default=0)
        if largest >= self.num_classes:
            raise UserInputError(f"classes must be from 0 to {self.num_classes - 1}, got {largest}")
        shape = (int(images.shape[1]), int(images.shape[2]))
        outputs, labels = self(images), self.label_encoder(shape, boxes, classes)
        spec = dataclasses.replace(loss, variances=self.label_encoder.box_variance)
        anchors = self.anchor_generator(*shape).to(images.device)
        return normalize(sum_encoded_losses(outputs["classification"], outputs["box"], anchors, labels, spec), spec)

    def train_step(
        self, images: Tensor, boxes: Sequence[Tensor], classes: Sequence[Tensor], optimizer: torch.optim.Optimizer, *,
        clipnorm: float = 10.0, loss: LossSpec = KERAS_LOSS,
    ) -> Losses:  # fmt: skip
        """Take one step and return the losses before it; `clipnorm` bounds the norm of all gradients together.

        Raises RetinaNetEdgeError where loss or gradient is not finite, with the weights untouched.
        """
        losses = self.compute_loss(images, boxes, classes, loss)
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters(), clipnorm)
        if not bool(torch.isfinite(losses.total.detach() + norm)):
            raise RetinaNetEdgeError(f"loss and gradient must be finite, got {losses.total:g} and {norm:g}: lower the learning rate")
        optimizer.step()
        return Losses(losses.classes.detach(), losses.boxes.detach())

    def _check_images(self, images: Tensor) -> None:
        wanted = (None, *self.input_shape)
        if images.ndim != 4 or any(side not in (None, given) for side, given in zip(wanted, images.shape, strict=True)):
            shape = ", ".join("any" if side is None else str(side) for side in wanted)
            raise UserInputError(f"images must be [{shape}] (count, height, width, RGB), got {list(images.shape)}")

    def _of_head(self, name: str, maps: Sequence[Tensor], outputs: int) -> Tensor:
        channels = self.anchor_generator.per_cell * outputs
        if any(x.shape[1] != channels for x in maps):
            raise UserInputError(
                f"the {name} head must give {self.anchor_generator.per_cell} anchors x {outputs} channels, got {maps[0].shape[1]}"
            )
        return flatten_maps(maps, outputs)


def _start(entry: PresetEntry, load_weights: bool | None) -> str:
    """Return what make_backbone is to do about weights. Raises UserInputError where weights are demanded that nobody offers."""
    named = entry.pretrained or (entry.name not in PRESETS and entry.weights is not None)
    if load_weights is False or (load_weights is None and not named):
        return "none"
    if not named:
        other = f"{entry.name}_imagenet"
        hint = f"use {other}" if other in PRESETS else "give load_weights=FILE or False"
        raise UserInputError(f"{entry.name} is the name of an architecture, without weights: {hint}")
    if entry.weights is not None:
        return "imagenet" if load_weights else "auto"
    said = f"weights of {entry.name} are offered nowhere as safetensors"
    if load_weights:
        raise UserInputError(f"{said}: give load_weights=FILE or False")
    print(f"{said}: starting from random weights", file=sys.stderr)
    return "none"


def _load_file(model: RetinaNet, file: Path) -> None:
    tensors = read_tensors(file)
    if any(key.startswith("backbone.") for key in tensors):
        load_weights(model, tensors, str(file))
    else:
        load_timm_weights(model.backbone.published, tensors, str(file))


def _check_same_format(part: str, given: str, of_model: str) -> None:
    if check_box_format(given) != of_model:
        raise UserInputError(f"the {part.replace('_', ' ')}'s box format must be the model's, {of_model}, got {given}")


@contextmanager
def _in_evaluation_mode(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
