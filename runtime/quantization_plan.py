"""What is INT8 in a quantized graph and with which ranges, as a file of the model folder: training and export both know it by this alone.

    quantization.json     of the model.int8.onnx beside it; quantization-aware fine-tuning begins with it
    learned_ranges.json   what that has learned, for weights.safetensors beside it; build_engine.py --int8 takes it in place of calibrating
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from retinanet_edge.runtime.card_decoding import decode
from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_folder import write_atomically

QUANTIZATION_FILE, LEARNED_RANGES_FILE = "quantization.json", "learned_ranges.json"


@dataclass(frozen=True)
class Convolution:
    """A convolution of the graph; both what it reads, `input`, and its weights are INT8, or neither is (`input` None)."""

    name: str
    input: str | None


@dataclass(frozen=True)
class Addition:
    """An addition of two activations, of which one is INT8: `input`, its argument `side` (0 or 1).

    Where it is: behind so many convolutions of the graph, and so many such additions, INT8 or not, since the last of these.
    """

    convolutions_before: int
    additions_between: int
    side: int
    input: str


@dataclass(frozen=True)
class SharedRange:
    """INT8 reaches from -reach to reach in each of these tensors."""

    tensors: tuple[str, ...]
    reach: float


@dataclass(frozen=True)
class QuantizationPlan:
    """All that is INT8 in a graph; convolutions and additions in the order in which they run.

    weights_sha256: of weights.safetensors. fp32_ap: of the FP32 model, before any fine-tuning, on the validation split of the card's data,
    which INT8 is judged against; None where that is not known.
    """

    weights_sha256: str
    fp32_ap: float | None
    convolutions: tuple[Convolution, ...]
    additions: tuple[Addition, ...]
    ranges: tuple[SharedRange, ...]

    def __post_init__(self) -> None:
        """Raise ModelFolderError for ranges that are not those of what is INT8, each one once, and above 0."""
        read = {site.input for site in self.convolutions if site.input is not None} | {site.input for site in self.additions}
        ranged = [name for shared in self.ranges for name in shared.tensors]
        if sorted(read) != sorted(ranged):
            raise ModelFolderError(f"each INT8 tensor needs one range, got others for {sorted(read ^ set(ranged)) or 'some of them twice'}")
        if any(shared.reach <= 0 for shared in self.ranges):
            raise ModelFolderError("ranges must reach beyond 0")

    @property
    def reaches(self) -> dict[str, float]:
        """The reach of each tensor."""
        return {name: shared.reach for shared in self.ranges for name in shared.tensors}


def write_plan(path: Path, plan: QuantizationPlan) -> None:
    """Write a plan as JSON, whole or not at all."""
    write_atomically(path, (json.dumps(dataclasses.asdict(plan), indent=1) + "\n").encode())


def read_plan(path: Path, remedy: str) -> QuantizationPlan:
    """Return the plan in a file. Raises ModelFolderError, which ends in `remedy`, where it is missing or not a whole plan."""
    if not path.is_file():
        raise ModelFolderError(f"{path} does not exist: {remedy}")
    try:
        plan = decode(QuantizationPlan, json.loads(path.read_text(encoding="utf-8")), "plan")
    except (ValueError, OverflowError, RecursionError, ModelFolderError) as error:
        raise ModelFolderError(f"{path} must be a whole quantization plan ({error}): {remedy}") from None
    assert isinstance(plan, QuantizationPlan)
    return plan
