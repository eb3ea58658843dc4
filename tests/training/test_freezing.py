from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.backbones import Backbone
from retinanet_edge.training.freezing import backbone_stages, freeze_stages, keep_frozen
from retinanet_edge.training.vitdet import ViTDet
from tests.training.conftest import TrainCommand, options
from tests.training.test_loop import make_trainer, nothing, state

# One of each way in which features are cut out of a network: lists by module, by block, whole networks, our own.
BACKBONES = ["test_resnet", "test_convnext", "test_efficientnet", "mobilenetv3_small_050", "csp_darknet_tiny", "yolo_v8_xs_backbone"]


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    """Each backbone, not to be changed."""
    return {name: Backbone(name) for name in BACKBONES}


def strides(backbone: Backbone) -> list[float]:
    """Return the stride at which each stage's last map of an image comes out."""
    found: list[float] = []

    def note(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> None:
        found.append(64 / out.shape[-1])

    hooks = [stage.modules[-1].register_forward_hook(note) for stage in backbone_stages(backbone)]  # type: ignore[arg-type]
    backbone.eval()(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", BACKBONES)
def test_five_stages_are_the_whole_backbone_each_part_once(name: str, backbones: dict[str, Backbone]) -> None:
    stages = backbone_stages(backbones[name])
    parts = [id(p) for stage in stages for p in (*stage.loose, *(p for module in stage.modules for p in module.parameters()))]
    assert len(stages) == 5
    assert sorted(parts) == sorted(id(p) for p in backbones[name].parameters())
    assert all(any(True for module in stage.modules for _ in module.parameters()) for stage in stages)


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_end_at_the_strides_of_the_pyramid(name: str, backbones: dict[str, Backbone]) -> None:
    stem, *others = strides(backbones[name])
    assert stem in (2, 4)  # networks that begin with patches start at 4
    assert others == [4, 8, 16, 32]


def test_stages_of_a_resnet_are_its_layers() -> None:
    resnet = Backbone("test_resnet")
    freeze_stages(resnet, 2)
    frozen = {name.split(".")[1] for name, p in resnet.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}


def test_stages_of_a_plain_transformer_are_quarters_without_its_pyramid() -> None:
    backbone = Backbone("test_resnet")
    backbone.features = ViTDet("samvit_base_patch16", img_size=64, embed_dim=32, depth=4, num_heads=2, global_attn_indexes=(3,))
    freeze_stages(backbone, 3)
    trained = {name.removeprefix("features.") for name, p in backbone.named_parameters() if p.requires_grad}
    assert "vit.pos_embed" not in trained
    assert not any(name.startswith(("vit.patch_embed", "vit.blocks.0.", "vit.blocks.1.")) for name in trained)
    assert {name.split(".")[2] for name in trained if name.startswith("vit.blocks.")} == {"2", "3"}
    freeze_stages(backbone, 5)
    assert all(name.startswith("features.pyramid.") for name, p in backbone.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("count", [-1, 6])
def test_other_numbers_are_refused(count: int, backbones: dict[str, Backbone]) -> None:
    with pytest.raises(UserInputError, match=f"--freeze must be 0 .* to 5 .*, got {count}"):
        freeze_stages(backbones["test_resnet"], count)


def test_a_backbone_without_such_stages_is_refused() -> None:
    backbone = Backbone("test_resnet")
    backbone.features = nn.Identity()
    with pytest.raises(UserInputError, match="--freeze needs a backbone with stages"):
        freeze_stages(backbone, 1)


def test_frozen_modules_go_back_to_evaluation_mode() -> None:
    backbone = Backbone("test_resnet")
    frozen = freeze_stages(backbone, 1)
    backbone.train()
    keep_frozen(frozen)
    norms = {name: module.training for name, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {name.split(".")[1] for name, training in norms.items() if not training} == {"conv1", "bn1"}
    assert {name.split(".")[1] for name, training in norms.items() if training} == {"layer1", "layer2", "layer3", "layer4"}


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_training_moves_neither_weights_nor_statistics_of_frozen_stages(count: int, data: Path) -> None:
    trainer = make_trainer(data, options(epochs=1, freeze=count, weight_decay=0.5, learning_rate=1e-2, eval_every=9))
    before = state(trainer.network)
    trainer.run(after_step=nothing, after_epoch=nothing)
    after, averaged = state(trainer.network), state(trainer.averaged_network)
    names = ["conv1|bn1", "layer1", "layer2", "layer3", "layer4"]
    frozen = {part for stage in names[:count] for part in stage.split("|")}
    for name, value in before.items():
        if not name.startswith("backbone."):
            continue  # of the heads, what no object met may stay as well
        fixed = name.split(".")[2] in frozen
        assert torch.equal(value, after[name]) == fixed, name
        assert torch.equal(value, averaged[name]) == fixed, name
    for name, parameter in trainer.network.named_parameters():
        if name.startswith("backbone.") and name.split(".")[2] in frozen:
            assert parameter.grad is None, name


def test_the_command_refuses_numbers_out_of_range(command: TrainCommand, data: Path) -> None:
    done = command.new(data, "never", "--freeze", 6)
    assert (done.code, "at most 5" in done.err) == (2, True)
    assert not (command.folder / "never").exists()
