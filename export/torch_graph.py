"""From a PyTorch network to the portable ONNX graph of the contract: names, types, opset, batch, standard operators only."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from retinanet_edge.export.batch_norm import replace_batch_norm
from retinanet_edge.export.constant_folding import fold_constants
from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.model_card import InputSpec
from retinanet_edge.training.model import RetinaNet

OPSET = 17  # the newest that TensorRT 8.5 reads
OUTPUTS = ("class_logits", "box_deltas", "anchors")


class _ContractGraph(nn.Module):
    """A network with the constant third output, and the box variances folded into its last convolution."""

    def __init__(self, network: RetinaNet) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        _fold_variances(self.network)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        class_logits, box_deltas = self.network.head_outputs(images)
        return class_logits, box_deltas, self.network.anchors[None]


def to_onnx(network: RetinaNet, spec: InputSpec) -> onnx.ModelProto:
    """Return the network as the portable graph: images uint8 [N, H, W, 3] -> class_logits, box_deltas, anchors; opset 17, FP32.

    Raises RetinaNetEdgeError where the exporter did not keep the contract.
    """
    images = torch.zeros(2, spec.height, spec.width, 3, dtype=torch.uint8)
    with TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.inference_mode():
        file = Path(scratch) / "model.onnx"
        # The legacy exporter: the newer one makes opset 18 and converts down, which depends on the onnx release.
        for message in ("You are using the legacy TorchScript-based ONNX", "The feature will be removed"):
            warnings.filterwarnings("ignore", category=DeprecationWarning, message=message)
        warnings.filterwarnings("ignore", category=torch.jit._trace.TracerWarning)
        warnings.filterwarnings("ignore", message="Constant folding - Only steps=1")  # of pads: fold_constants does it
        torch.onnx.export(
            _ContractGraph(network.cpu()), (images,), file, input_names=["images"], output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "N"} for name in ("images", "class_logits", "box_deltas")},
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
        model = onnx.load(file)
    _inline_constant_aliases(model.graph)
    _state_shapes_of_reshapes(model)
    fold_constants(model)
    replace_batch_norm(model.graph)
    _state_output_shapes(model.graph, anchors=len(network.anchors), classes=network.classes)
    model.producer_name, model.producer_version, model.doc_string = "retinanet-edge", "", ""
    check_contract(model)
    return model


def check_contract(model: onnx.ModelProto) -> None:
    """Raise RetinaNetEdgeError where a graph does not keep the contract of the portable model.onnx."""
    onnx.checker.check_model(model, full_check=True)
    found = {entry.domain: entry.version for entry in model.opset_import}
    operators = {node.op_type for node in model.graph.node}
    complaints = []
    if found != {"": OPSET}:
        complaints.append(f"opset {OPSET} of standard operators, got {found}")
    if tuple(output.name for output in model.graph.output) != OUTPUTS:
        complaints.append(f"outputs {OUTPUTS}, got {[output.name for output in model.graph.output]}")
    if model.functions or "BatchNormalization" in operators:
        complaints.append("no functions and BatchNorm folded")
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        complaints.append("a dynamic batch")
    if complaints:
        raise RetinaNetEdgeError(
            f"the exported graph must have {'; '.join(complaints)}: try the torch and onnx versions of pyproject.toml"
        )


def _state_output_shapes(graph: onnx.GraphProto, *, anchors: int, classes: int) -> None:
    """Write out [N, A, K] and [N, A, 4], where the exporter gives up on inferring them."""
    for output, last in zip(graph.output[:2], (classes, 4), strict=True):
        shape = [onnx.TensorShapeProto.Dimension(dim_param="N")]
        shape += [onnx.TensorShapeProto.Dimension(dim_value=value) for value in (anchors, last)]
        output.type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto(dim=shape))


def _state_shapes_of_reshapes(model: onnx.ModelProto) -> None:
    """Put a constant where a Reshape takes the shape of a tensor of which only the batch is open: a group norm ends in one."""
    graph = model.graph
    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    sides = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in known}  # 0 where open
    taken = {node.output[0]: sides.get(node.input[0], []) for node in graph.node if node.op_type == "Shape"}
    for node in graph.node:
        shape = taken.get(node.input[1], []) if node.op_type == "Reshape" else []
        if shape and all(shape[1:]):
            graph.initializer.append(numpy_helper.from_array(np.array([-1, *shape[1:]]), f"{node.name}/shape"))
            node.input[1] = f"{node.name}/shape"
    read = {name for node in graph.node for name in node.input}
    for node in [node for node in graph.node if node.op_type == "Shape" and node.output[0] not in read]:
        graph.node.remove(node)


def _inline_constant_aliases(graph: onnx.GraphProto) -> None:
    """Let readers of Identity(constant), which the exporter makes of equal tensors, read the constant: quantizers look for it there."""
    constants = {tensor.name for tensor in graph.initializer}
    aliases = {n.output[0]: n for n in graph.node if n.op_type == "Identity" and n.input[0] in constants}
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in aliases:
                node.input[index] = aliases[name].input[0]
    for name, node in aliases.items():
        if name not in outputs:
            graph.node.remove(node)


def _fold_variances(network: RetinaNet) -> None:
    last, variances = network.box_head.predict, network.get_buffer("box_variances")
    each_channel = variances.repeat(last.out_channels // len(variances))
    assert last.bias is not None
    last.weight.data *= each_channel[:, None, None, None]
    last.bias.data *= each_channel
