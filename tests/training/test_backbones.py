from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from retinanet_edge.runtime.errors import ModelFolderError, UserInputError
from retinanet_edge.training.backbones import Backbone, make_backbone
from retinanet_edge.training.checkpoint import load_timm_weights, read_tensors


# One of each way that timm cuts networks to their features; dla34 counts its features from another index than the others, and a tag
# names weights that are not fetched here.
@pytest.mark.parametrize("name", ["test_resnet", "resnet10t.c3_in1k", "mobilenetv3_small_050", "lcnet_035", "convnext_atto", "dla46_c"])
def test_maps_have_strides_8_16_32_and_the_stated_channels(name: str) -> None:
    backbone = Backbone(name).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 160))
    assert [tuple(x.shape) for x in maps] == [
        (1, channels, 64 // stride, 160 // stride) for channels, stride in zip(backbone.channels, (8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(("name", "reason"), [
    ("resnet-18", "did you mean resnet18"),
    ("resnet18x.a1_in1k", "did you mean resnet18"),
    ("resnet18.no_such_weights", "Invalid pretrained tag"),
    ("", "timm.list_models"),
    ("hf-hub:timm/resnet18", "must be the name of a timm model"),
    ("x" * 3000, "timm.list_models"),
    ("vit_tiny_patch16_224", "no features of images of any size"),
    ("swin_tiny_patch4_window7_224", "no features of images of any size"),
    ("test_vit", "features [N, C, H, W] at strides (8, 16, 32)"),  # one stride
    ("mambaout_femto", "features [N, C, H, W] at strides (8, 16, 32)"),  # has them as [N, H, W, C]
    ("efficientvit_m0", "features [N, C, H, W] at strides (8, 16, 32)"),  # begins at stride 16
    ("inception_v3", "features [N, C, H, W] at strides (8, 16, 32)"),  # drops borders, so that no map is an exact fraction
])  # fmt: skip
def test_names_that_cannot_be_used_are_refused_in_a_line(name: str, reason: str) -> None:
    with pytest.raises(UserInputError) as caught:
        Backbone(name)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_normalisation_is_that_of_the_weights() -> None:
    assert Backbone("test_resnet").info.mean == pytest.approx((0.5 * 255,) * 3)
    assert Backbone("resnet10t").info.std == pytest.approx((0.229 * 255, 0.224 * 255, 0.225 * 255))


def test_without_network_auto_goes_on_and_imagenet_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing answers
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    _, start = make_backbone("test_resnet", "auto")
    assert start == "none"
    assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(UserInputError, match="--weights FILE"):
        make_backbone("test_resnet", "imagenet")


def test_no_weights_are_asked_for_without_need(capsys: pytest.CaptureFixture[str]) -> None:
    _, start = make_backbone("test_resnet", "none")
    assert start == "none"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "lcnet_035"])
def test_the_file_of_a_timm_model_fills_its_backbone(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = timm.create_model(name).eval()
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    torch.manual_seed(2)
    backbone = Backbone(name).eval()
    load_timm_weights(backbone.features, read_tensors(tmp_path / "model.safetensors"), "model.safetensors")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = whole.forward_intermediates(images, intermediates_only=True)
        last = backbone(images)[-1]
    assert any(x.shape == last.shape and torch.equal(x, last) for x in expected)


def test_the_file_of_another_timm_model_is_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ModelFolderError, match="does not fit this network"):
        load_timm_weights(Backbone("lcnet_035").features, read_tensors(tmp_path / "model.safetensors"), "model.safetensors")
