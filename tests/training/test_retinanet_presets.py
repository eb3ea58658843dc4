"""What RetinaNet.from_preset answers to each name."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from retinanet_edge.runtime.errors import ModelFolderError, UserInputError
from retinanet_edge.training.checkpoint import save_weights
from retinanet_edge.training.retinanet import RetinaNet

# Names with weights behind them, as KerasCV's documentation lists them.
PRESETS = [
    "resnet50_imagenet", "resnet50_v2_imagenet", "mobilenet_v3_large_imagenet", "mobilenet_v3_small_imagenet",
    "csp_darknet_tiny_imagenet", "csp_darknet_l_imagenet", "efficientnetv2_s_imagenet", "efficientnetv2_b0_imagenet",
    "efficientnetv2_b1_imagenet", "efficientnetv2_b2_imagenet", "densenet121_imagenet", "densenet169_imagenet",
    "densenet201_imagenet", "vitdet_base_sa1b", "vitdet_large_sa1b", "vitdet_huge_sa1b", "yolo_v8_xs_backbone_coco",
    "yolo_v8_s_backbone_coco", "yolo_v8_m_backbone_coco", "yolo_v8_l_backbone_coco", "yolo_v8_xl_backbone_coco",
    "retinanet_resnet50_pascalvoc",
]  # fmt: skip
VIDEO = [
    "videoswin_tiny_kinetics400", "videoswin_small_kinetics400", "videoswin_base_kinetics400",
    "videoswin_base_kinetics400_imagenet22k", "videoswin_base_kinetics600_imagenet22k", "videoswin_base_something_something_v2",
]  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_answered(name: str) -> None:
    with torch.device("meta"):  # the largest has 650 million parameters
        model = RetinaNet.from_preset(name, load_weights=False)
    assert (model.num_classes, model.bounding_box_format) == (20, "xywh")
    with torch.device("meta"):
        levels = model.pyramid([torch.zeros(1, c, 8 // s, 8 // s) for c, s in zip(model.backbone.channels, (1, 2, 4), strict=True)])
        outputs = [head(levels)[0].shape for head in (model.class_head, model.box_head)]
    assert outputs == [(1, 180, 8, 8), (1, 36, 8, 8)]


@pytest.mark.parametrize("name", VIDEO)
def test_networks_for_video_are_refused(name: str) -> None:
    with pytest.raises(UserInputError, match="takes clips of a video, not single images"):
        RetinaNet.from_preset(name)


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserInputError, match="did you mean resnet50_imagenet"):
        RetinaNet.from_preset("resnet50_imagnet")


def test_the_whole_model_has_the_parameters_of_keras_s() -> None:
    with torch.device("meta"):
        model = RetinaNet.from_preset("retinanet_resnet50_pascalvoc", load_weights=False)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    statistics = sum(buffer.numel() for name, buffer in model.named_buffers() if "running" in name)
    assert trainable == 35_543_832
    assert trainable + statistics == 35_596_952  # as Keras counts


def test_weights_that_nobody_offers(capsys: pytest.CaptureFixture[str]) -> None:
    said = "weights of retinanet_resnet50_pascalvoc are offered nowhere as safetensors"
    with pytest.raises(UserInputError, match=f"{said}: give load_weights=FILE or False"):
        RetinaNet.from_preset("retinanet_resnet50_pascalvoc", load_weights=True)
    with torch.device("meta"):
        RetinaNet.from_preset("retinanet_resnet50_pascalvoc")
    assert capsys.readouterr().err == f"{said}: starting from random weights\n"


@pytest.mark.parametrize(("name", "hint"), [("resnet50", "use resnet50_imagenet"), ("resnet18", "give load_weights=FILE or False")])
def test_an_architecture_s_name_stands_for_no_weights(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserInputError, match=f"{name} is the name of an architecture, without weights: {hint}"):
        RetinaNet.from_preset(name, load_weights=True)
    with torch.device("meta"):
        RetinaNet.from_preset(name)
    assert capsys.readouterr().err == ""


def test_without_network_weights_are_an_error_or_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserInputError, match="weights of mobilenet_v3_small_imagenet cannot be had"):
        RetinaNet.from_preset("mobilenet_v3_small_imagenet", load_weights=True)
    RetinaNet.from_preset("mobilenet_v3_small_imagenet")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("starting from random weights")


def test_weights_come_from_a_file_of_the_whole_or_of_the_backbone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = RetinaNet.from_preset("mobilenet_v3_small", False, num_classes=2)
    save_weights(tmp_path / "whole.safetensors", model)
    whole = RetinaNet.from_preset("mobilenet_v3_small_imagenet", tmp_path / "whole.safetensors", num_classes=2)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in whole.state_dict().items())
    save_weights(tmp_path / "backbone.safetensors", model.backbone.published)
    other = RetinaNet.from_preset("mobilenet_v3_small", str(tmp_path / "backbone.safetensors"), num_classes=5)
    assert all(torch.equal(value, model.backbone.state_dict()[key]) for key, value in other.backbone.state_dict().items())
    with pytest.raises(ModelFolderError, match=r"other shapes \(class_head\.predict\.bias \(18,\) for \(45,\)"):
        RetinaNet.from_preset("mobilenet_v3_small", tmp_path / "whole.safetensors", num_classes=5)


def test_an_input_shape_is_kept_to() -> None:
    model = RetinaNet.from_preset("mobilenet_v3_small", False, (64, 96, 3)).eval()
    assert model(torch.zeros(2, 64, 96, 3))["box"].shape[0] == 2
    with pytest.raises(UserInputError, match=r"images must be \[any, 64, 96, 3\] .*, got \[1, 96, 64, 3\]"):
        model(torch.zeros(1, 96, 64, 3))
