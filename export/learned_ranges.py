"""What fine-tuning is told of a quantized graph, and what it has learned, as files of the model folder (runtime/quantization_plan.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

import onnx
from onnx import numpy_helper

from retinanet_edge.export.placement import Placement, find_placement, quantizable_layers
from retinanet_edge.export.quantize import insert_qdq
from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import Calibration, ModelCard, Verdict
from retinanet_edge.runtime.quantization_plan import LEARNED_RANGES_FILE, Addition, Convolution, QuantizationPlan, SharedRange, read_plan

_STEPS = 127


def plan_of(source: Path, quantized: Path, kept: Collection[str], weights_sha256: str, fp32_ap: float | None) -> QuantizationPlan:
    """Return what is INT8 in `quantized`, which was made of `source` with the convolutions `kept` in float, and its ranges."""
    graph = onnx.load(source).graph
    placement = find_placement(graph, kept)
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(quantized).graph.initializer}
    alone = {name for name in placement.tensors if not any(name in group for group in placement.groups)}
    shared = [*placement.groups, *((name,) for name in placement.tensors if name in alone)]
    ranges = tuple(SharedRange(names, _STEPS * float(scales[f"{names[0]}/scale"])) for names in shared)
    return QuantizationPlan(weights_sha256, fp32_ap, *_sites(graph, placement), ranges)


def learned_plan(folder: Path, card: ModelCard) -> QuantizationPlan | None:
    """Return what fine-tuning has learned for the model.onnx of a folder, None where it was not fine-tuned.

    Raises ModelFolderError for a broken file, and for one of other weights.
    """
    path, remedy = folder / LEARNED_RANGES_FILE, "fine-tune again with python training/train.py --qat, or calibrate with --recalibrate"
    if not path.is_file():
        return None
    plan = read_plan(path, remedy)
    if card.onnx is None or plan.weights_sha256 != card.onnx.weights_sha256:
        raise ModelFolderError(f"{path} must be of the weights in model.onnx, got one of others: {remedy}")
    return plan


def learned_calibration(card: ModelCard) -> Calibration:
    """Return what the card says of ranges that were learned: on the training images."""
    assert card.dataset is not None
    assert card.training is not None
    return Calibration("qat", card.dataset.train_images, card.dataset.sha256, card.training.seed)


def quantize_as_learned(source: Path, target: Path, plan: QuantizationPlan) -> tuple[str, ...]:
    """Write `source`, the portable FP32 graph, with Q/DQ to `target`, where `plan` has it and with its ranges.

    Returns the names of the convolutions that are kept out of INT8 though they could be in it. Names of the plan do not count, since
    another release of torch may give others. Raises ModelFolderError where the plan is of another graph.
    """
    model = onnx.load(source)
    layers = [node.name for node in model.graph.node if node.op_type == "Conv"]
    # One that is missing at the end shows in what is quantized.
    kept = {name for name, site in zip(layers, plan.convolutions, strict=False) if site.input is None}
    placement = find_placement(model.graph, kept)
    there, here = (plan.convolutions, plan.additions), _sites(model.graph, placement)
    if _form(*there) != _form(*here):
        raise ModelFolderError(
            "the learned ranges must be of the graph in model.onnx, got those of one that is quantized elsewhere: "
            "fine-tune again, or calibrate with --recalibrate"
        )
    names = {new: old for new, old in zip(_inputs(*here), _inputs(*there), strict=True) if new is not None and old is not None}
    onnx.save(insert_qdq(model, placement, {new: plan.reaches[old] for new, old in names.items()}), target)
    return tuple(name for name in quantizable_layers(model.graph) if name in kept)


def against_original(verdict: Verdict, fp32_ap: float, original_ap: float) -> Verdict:
    """Return the verdict on INT8 against the model before fine-tuning, whose FP32 had `original_ap`; `fp32_ap`: that of the one judged.

    Fine-tuned weights expect to be rounded and may be worse without: against them any INT8 would do. Interval and classes go, since the
    detections of the original are not there.
    """
    assert verdict.ap_drop is not None
    drop = verdict.ap_drop + original_ap - fp32_ap
    return dataclasses.replace(verdict, passed=drop <= verdict.max_ap_drop, ap_drop=drop, interval=None, worst_classes=())


def _inputs(convolutions: Sequence[Convolution], additions: Sequence[Addition]) -> list[str | None]:
    return [*(site.input for site in convolutions), *(site.input for site in additions)]


def _form(convolutions: Sequence[Convolution], additions: Sequence[Addition]) -> list[tuple[int, ...] | None]:
    """Return what is INT8 without names: where the additions are, and for each input the place of the first that reads the same."""
    inputs = _inputs(convolutions, additions)
    places = [(site.convolutions_before, site.additions_between, site.side) for site in additions]
    return [*places, *(None if name is None else (inputs.index(name),) for name in inputs)]


def _sites(graph: onnx.GraphProto, placement: Placement) -> tuple[tuple[Convolution, ...], tuple[Addition, ...]]:
    """Return all convolutions of a graph and its INT8 additions, in order."""
    constants = {tensor.name for tensor in graph.initializer} | {name for n in graph.node if n.op_type == "Constant" for name in n.output}
    reads, convolutions, additions, since = dict(placement.reads), list[Convolution](), list[Addition](), 0
    for index, node in enumerate(graph.node):
        side = reads.get(index)
        if node.op_type == "Conv":
            convolutions.append(Convolution(node.name, None if side is None else node.input[0]))
            since = 0
        elif node.op_type == "Add" and not constants & set(node.input):
            if side is not None:
                additions.append(Addition(len(convolutions), since, side, node.input[side]))
            since += 1
    return tuple(convolutions), tuple(additions)
