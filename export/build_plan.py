"""What is decided before TensorRT is asked: of the model, the options and the machine, the figures that an engine is built with.

The build follows it and --dry-run prints it (dry_run.py), so that the two cannot differ.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import onnx

from retinanet_edge.export.build_machine import BuildMachine, default_workspace_mib
from retinanet_edge.export.build_options import BuildOptions, engine_file_name, timing_cache_name
from retinanet_edge.export.candidate_bound import LARGEST_K, SHARE_OF_FREE_MEMORY, fitting_top_k, kept_anchors
from retinanet_edge.export.nms import plugin_workspace_bytes
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.level_top_k import level_sizes
from retinanet_edge.runtime.model_card import ModelCard, NmsSpec

_AMPERE = 8  # major compute capability


@dataclass(frozen=True)
class BuildPlan:
    """The decisions. `options` are as asked for.

    nms: the engine's own. added_top_k: K to add to the graph, None for none; top_k_words: why. anchors: those that enter NMS, or leave the
    engine without it. plugin_bytes: about what the plugin takes at the largest batch. workspace_mib, timing_cache: None where they
    depend on a GPU that is not here.
    """

    options: BuildOptions
    here: BuildMachine
    nms: NmsSpec
    added_top_k: int | None
    top_k_words: str
    anchors: int
    plugin_bytes: int
    workspace_mib: int | None
    timing_cache: Path | None

    def recorded(self) -> dict[str, str]:
        """Return what shapes the engine, as text for the card; the engine's name has a hash of it."""
        nms = {f"nms_{name}": str(value) for name, value in dataclasses.asdict(self.nms).items() if value is not None}
        return self.options.recorded() | nms

    def engine_file(self) -> str | None:
        """Return the name of the engine's file, None where no engine can be built."""
        return engine_file_name(self.options.precision, self.here.machine, self.recorded()) if self.here.machine else None

    def settled_options(self) -> BuildOptions:
        """Return the options with what was left open filled in."""
        return dataclasses.replace(self.options, workspace_mib=self.workspace_mib, timing_cache=self.timing_cache)


def make_plan(folder: Path, card: ModelCard, model: onnx.ModelProto, options: BuildOptions, here: BuildMachine) -> BuildPlan:
    """Decide for the portable graph `model` of a folder. Raises UserInputError where options do not fit the model or the machine."""
    nms = options.nms_overrides.applied_to(card.nms)
    _check_machine(options, here)
    added, words = _top_k(card, options, here)
    nms = dataclasses.replace(nms, top_k_per_level=added or nms.top_k_per_level)
    in_graph = next(port for port in model.graph.output if port.name == "class_logits").type.tensor_type.shape.dim[1].dim_value
    anchors = in_graph if added is None else kept_anchors(level_sizes(card.anchors, card.input), added)
    workspace = options.workspace_mib
    if workspace is None and here.free_bytes is not None:
        workspace = default_workspace_mib(here.free_bytes)
    return BuildPlan(
        options, here, nms, added, words, anchors, plugin_workspace_bytes(anchors, len(card.classes), options.max_batch), workspace,
        _timing_cache(folder, options, here),
    )  # fmt: skip


def _check_machine(options: BuildOptions, here: BuildMachine) -> None:
    if here.total_bytes is not None and (options.workspace_mib or 0) << 20 > here.total_bytes:
        raise UserInputError(f"--workspace must fit the GPU's {here.total_bytes >> 20} MiB, got {options.workspace_mib}: leave it out")
    if options.hardware_compatible and here.machine is not None and int(here.machine.compute_capability.split(".")[0]) < _AMPERE:
        raise UserInputError(f"--hardware-compatible needs compute capability 8.0 (Ampere) or newer, here is {here.machine}: leave it out")


def _top_k(card: ModelCard, options: BuildOptions, here: BuildMachine) -> tuple[int | None, str]:
    """Return K to add, None for none, and why. Raises UserInputError where the graph has one already that is not the one asked for."""
    asked, exported = options.nms_overrides.top_k_per_level, card.nms.top_k_per_level
    if exported is not None:
        if asked not in (None, exported):
            raise UserInputError(
                f"--top-k must be {exported}, the K that model.onnx was exported with, got {asked}: leave it out, or change "
                "nms.top_k_per_level in card.json and run python export/export_onnx.py"
            )
        return None, f"the best {exported} of each level, as model.onnx has it"
    if asked is not None:
        return asked, f"the best {asked} of each level, as --top-k says"
    if options.nms != "efficient":
        return None, "none: all anchors"
    if here.free_bytes is None:
        return None, f"decided where the GPU is: none while the plugin fits {SHARE_OF_FREE_MEMORY:.0%} of its free memory"
    sizes = level_sizes(card.anchors, card.input)
    k = fitting_top_k(sizes, len(card.classes), options.max_batch, here.free_bytes)
    if k is None:
        return None, f"none: the plugin fits {SHARE_OF_FREE_MEMORY:.0%} of the {here.free_bytes >> 20} MiB that are free"
    whole = plugin_workspace_bytes(sum(sizes), len(card.classes), options.max_batch)
    return k, (
        f"the best {k} of each level: with all anchors the plugin takes {whole >> 20} MiB, more than {SHARE_OF_FREE_MEMORY:.0%} of the "
        f"{here.free_bytes >> 20} MiB that are free; this is the largest K up to {LARGEST_K} that fits"
    )


def _timing_cache(folder: Path, options: BuildOptions, here: BuildMachine) -> Path | None:
    path = options.timing_cache
    if path is None:
        return folder / timing_cache_name(here.machine) if here.machine else None
    if path.is_dir() or not path.parent.is_dir():  # said before the build, and not when it is written after it
        raise UserInputError(f"--timing-cache must be a file in a folder that exists, got {path}")
    return path
