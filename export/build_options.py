"""How an engine is to be built: what the flags of build_engine.py ask for, and which of them contradict each other.

Knows nothing of the model, of TensorRT or of the machine; build_plan.py brings these together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import NmsSpec, Precision
from retinanet_edge.runtime.tensorrt_library import Machine

NmsPath = Literal["efficient", "native", "none"]
InputForm = Literal["uint8-nhwc", "fp32-nchw"]
_NOT_RECORDED = ("timing_cache", "verbose", "nms_overrides")  # what does not shape the engine; the last stands in the whole NmsSpec


@dataclass(frozen=True)
class NmsOverrides:
    """What an engine takes instead of its card's NmsSpec; None for the card's."""

    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None
    top_k_per_level: int | None = None

    def given(self) -> dict[str, Any]:
        """Return those that are not None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def applied_to(self, nms: NmsSpec) -> NmsSpec:
        """Return the card's NmsSpec with these in place. Raises ModelFolderError for values that the plugin does not take."""
        return dataclasses.replace(nms, **self.given())


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built. Raises UserInputError for values out of range, or that contradict each other.

    min_batch, typical_batch, max_batch: images of one call: the fewest, what it is tuned for (None for max_batch), the most.
    workspace_mib: most scratch memory of a layer, MiB, None for half of what is free. dla_core: of a Jetson, None for the GPU.
    optimization_level: 0..5, None for TensorRT's own; from TensorRT 8.6 on. external_tactics: let TensorRT 8 and 9 also choose kernels of
    cuBLAS and cuDNN, for hundreds of MB of memory; later ones never do. nms: the plugin, ONNX's NonMaxSuppression, or the raw heads.
    camera_size: width and height of frames in pixels, to be letterboxed in the engine, None for images of the card's size.
    timing_cache: file that remembers measured kernels, None for the model folder's. verbose: show TensorRT's messages.
    """

    precision: Precision
    min_batch: int = 1
    typical_batch: int | None = None
    max_batch: int = 1
    workspace_mib: int | None = None
    dla_core: int | None = None
    optimization_level: int | None = None
    external_tactics: bool = False
    nms: NmsPath = "efficient"
    nms_overrides: NmsOverrides = field(default_factory=NmsOverrides)
    camera_size: tuple[int, int] | None = None
    input: InputForm = "uint8-nhwc"
    version_compatible: bool = False
    hardware_compatible: bool = False
    timing_cache: Path | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        """Refuse what TensorRT would refuse later, in words of its own."""
        low, tuned, high = self.batch
        if not 1 <= low <= tuned <= high:
            raise UserInputError(f"--batch must be MIN OPT MAX with 1 <= MIN <= OPT <= MAX, got {low} {tuned} {high}")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UserInputError(f"--workspace must be at least 1 MiB, got {self.workspace_mib}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UserInputError(f"--optimization-level must be 0 to 5, got {self.optimization_level}")
        if self.input == "fp32-nchw" and self.camera_size is not None:
            raise UserInputError("--input fp32-nchw starts after resizing, --camera-size resizes in the engine: leave one of them out")
        if self.nms == "none" and (unused := self.nms_overrides.given().keys() - {"top_k_per_level"}):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unused))
            raise UserInputError(f"--nms none leaves the raw heads, which have no use for {flags}: leave one or the other out")
        if self.dla_core is not None:
            self._check_dla()

    def _check_dla(self) -> None:
        if self.precision == "int8":
            raise UserInputError("--dla with --int8: DLA takes no explicit Q/DQ, which is what our INT8 is: use --dla with --fp16")
        if self.precision == "fp32":
            raise UserInputError("--dla with --fp32: DLA computes in FP16 or INT8 only: use --dla with --fp16")
        if len(set(self.batch)) != 1:
            low, tuned, high = self.batch
            raise UserInputError(f"--dla needs a fixed batch, got {low} {tuned} {high}: give --batch one number three times, as 1 1 1")
        if self.nms == "native":
            raise UserInputError("--dla needs fixed shapes, and the outputs of --nms native are as long as what is found: leave one out")
        if self.hardware_compatible:
            raise UserInputError("--dla makes an engine for the Jetson at hand, --hardware-compatible one for many GPUs: leave one out")

    @property
    def batch(self) -> tuple[int, int, int]:
        """Fewest images of a call, those that kernels are chosen for, and most."""
        return self.min_batch, self.max_batch if self.typical_batch is None else self.typical_batch, self.max_batch

    def recorded(self) -> dict[str, str]:
        """Return what shapes the engine, as text for the card; what was left to TensorRT, or does not apply, is not there."""
        values = {name: value for name, value in vars(self).items() if name not in _NOT_RECORDED}
        values["typical_batch"] = self.batch[1]
        if self.camera_size is not None:
            values["camera_size"] = size_text(self.camera_size)
        return {name: str(value) for name, value in values.items() if value is not None}


def size_text(size: tuple[int, int]) -> str:
    """Return width and height as WxH."""
    return f"{size[0]}x{size[1]}"


def name_of_gpu(gpu: str) -> str:
    """Return a GPU's name as file names have it: small letters, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def engine_file_name(precision: Precision, machine: Machine, recorded: dict[str, str]) -> str:
    """Return model.<precision>.<gpu>-trt<version>-<hash of the build options>.engine."""
    digest = hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()
    return f"model.{precision}.{name_of_gpu(machine.gpu)}-trt{machine.tensorrt}-{digest[:8]}.engine"


def timing_cache_name(machine: Machine) -> str:
    """Return timing.<gpu>-trt<version>.cache: TensorRT refuses what was measured on another GPU or by another version."""
    return f"timing.{name_of_gpu(machine.gpu)}-trt{machine.tensorrt}.cache"
