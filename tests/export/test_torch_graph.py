import copy

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("torch")

import torch

from retinanet_edge.export.torch_graph import check_contract, to_onnx
from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, NetworkSpec
from retinanet_edge.training.model import LEVEL_STRIDES, RetinaNet, build_network

SPEC = InputSpec(64, 96, (123.0, 117.0, 104.0), (58.0, 57.0, 56.0))
ANCHORS = AnchorSpec(LEVEL_STRIDES, tuple(4.0 * s for s in LEVEL_STRIDES), (1.0, 1.5), (1.0, 2.0))


# Ours with and without norms; KerasCV's pyramid; torchvision's second version in small.
NETWORKS = {
    "batch": NetworkSpec("test_resnet", 16, 16, 1, "batch"),
    "none": NetworkSpec("test_resnet", 16, 16, 1, "none"),
    "keras": NetworkSpec("test_resnet", 16, 16, 1, "none", "C5", tensorflow_padding=True),
    "group": NetworkSpec("test_resnet", 16, 64, 1, "group", "C5", box_variances=(1.0, 1.0, 0.5, 2.0)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> RetinaNet:
    torch.manual_seed(0)
    network = build_network(NETWORKS[request.param], SPEC, ANCHORS, 3)
    network.train()(torch.randint(0, 255, (4, 64, 96, 3), dtype=torch.uint8))  # moves the norms' statistics off their start
    return network.eval()


@pytest.fixture(scope="module")
def model(network: RetinaNet) -> onnx.ModelProto:
    return to_onnx(network, SPEC)


def test_names_types_and_shapes_are_the_contracts(model: onnx.ModelProto) -> None:
    def signature(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]

    anchors = 4 * (8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1)
    assert [signature(v) for v in model.graph.input] == [("images", onnx.TensorProto.UINT8, ["N", 64, 96, 3])]
    assert [signature(v) for v in model.graph.output] == [
        ("class_logits", onnx.TensorProto.FLOAT, ["N", anchors, 3]),
        ("box_deltas", onnx.TensorProto.FLOAT, ["N", anchors, 4]),
        ("anchors", onnx.TensorProto.FLOAT, [1, anchors, 4]),
    ]


def test_the_image_goes_straight_to_a_cast(model: onnx.ModelProto) -> None:
    assert [node.op_type for node in model.graph.node if "images" in node.input] == ["Cast"]  # all that TensorRT takes of uint8


def test_only_the_batch_is_open(model: onnx.ModelProto) -> None:
    assert not {"Shape", "BatchNormalization", "Identity"} & {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_are_pytorchs(network: RetinaNet, model: onnx.ModelProto, batch: int) -> None:
    images = torch.randint(0, 255, (batch, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(batch))
    with torch.inference_mode():
        class_logits, box_deltas = network(images)
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found[0], class_logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(found[1], box_deltas.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found[2][0], network.anchors.numpy())


def test_exporting_leaves_the_network_as_it_was(network: RetinaNet) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    to_onnx(network, SPEC)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not torch.equal(network.get_buffer("box_variances"), torch.ones(4))


def test_a_graph_of_another_opset_or_names_is_refused(model: onnx.ModelProto) -> None:
    other = copy.deepcopy(model)
    other.opset_import[0].version = 16
    with pytest.raises(RetinaNetEdgeError, match="opset 17"):
        check_contract(other)
    other = copy.deepcopy(model)
    other.graph.output[0].name = other.graph.output[1].name
    with pytest.raises((RetinaNetEdgeError, onnx.checker.ValidationError)):
        check_contract(other)
