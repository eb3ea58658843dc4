"""Write docs/backbones.md: what stands behind every preset of KerasCV, its size and cost, and the licence of its weights."""

import argparse
import sys
from pathlib import Path

try:
    from retinanet_edge.runtime.errors import run_command
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')", file=sys.stderr)
    sys.exit(2)

HEAD = """# Backbones

Written by `python benchmarks/backbone_table.py` with timm {timm}. `--backbone` takes each of these names, and those of timm models with
features at strides 8, 16 and 32. Where a name is both, the preset counts: timm's own `efficientnetv2_s`, `_m` and `_l`, which have
no weights, are hidden by the presets.

Parameters (trainable) and cost are of the backbone alone, cut to its features at strides 8, 16 and 32, so that they are less than
those of the classifier; of ViTDet with its pyramid. GFLOPs are of one image of {side}x{side}, convolutions and matrix products
only, a multiplication and an addition counted as two. "from a file" means that nobody offers the weights under a name
to fetch them by: give a safetensors file with `--weights`, under its own licence. Licences are those that timm states for the weights;
the terms of the data they were trained on (ImageNet, SA-1B) are another matter.

| preset | here | parameters, M | GFLOPs | weights | licence |
|---|---|---|---|---|---|
"""
TAIL = """
A name with `_imagenet`, `_sa1b` or `_coco` asks for the weights, the plain one does not; the networks are the same.
`videoswin_*` is refused, since it takes clips of a video. `retinanet_resnet50_pascalvoc` is a whole model with the backbone `resnet50`.

Where KerasCV and the network here differ: CSPDarkNet and EfficientNet are timm's, whose details (activation, stem, channels) are not
always KerasCV's; `csp_darknet_tiny`, which timm has not, is CSPNeXt tiny; `tf_*` networks pad as TensorFlow does. YOLOv8's backbone is
our own, with KerasCV's parameter counts; its input is scaled to 0..1 and not normalised. ViTDet is Segment Anything's transformer
without its neck, and a simple feature pyramid over it (Li et al., Exploring Plain Vision Transformer Backbones for Object Detection), where
KerasCV's RetinaNet refuses it; its exported graph keeps arithmetic on shapes, the others' have none.
"""


def main() -> None:
    """Parse the arguments and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/backbones.md"), help="file to write (default docs/backbones.md)")
    parser.add_argument("--input", type=int, default=640, help="side of the image whose cost is counted (default 640)")
    arguments = parser.parse_args()
    write_table(arguments.output, arguments.input)


def write_table(output: Path, side: int) -> None:
    """Write the page. Networks are built without memory, on PyTorch's meta device."""
    import timm

    from retinanet_edge.training.presets import PRESETS

    rows = [row(name, side) for name, entry in PRESETS.items() if not entry.pretrained]
    output.write_text(HEAD.format(timm=timm.__version__, side=side) + "\n".join(rows) + "\n" + TAIL, encoding="utf-8")


def row(name: str, side: int) -> str:
    """Return a preset's line of the table."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from retinanet_edge.training.backbones import Backbone
    from retinanet_edge.training.presets import PRESETS

    entry = PRESETS[name]
    with torch.device("meta"), torch.no_grad():
        backbone = Backbone(name).eval()
        with FlopCounterMode(display=False) as counter:
            backbone(torch.zeros(1, 3, side, side))
    parameters = sum(p.numel() for p in backbone.parameters())
    here = f"`{entry.timm}`" if entry.timm else "own C2f + SPPF"
    here += " + pyramid" if entry.kind == "vitdet" else ""
    weights = f"`{entry.weights}`" if entry.weights else "from a file"
    cost = f"{parameters / 1e6:.2f} | {counter.get_total_flops() / 1e9:.1f}"
    return f"| {name} | {here} | {cost} | {weights} | {entry.licence or 'its own'} |"


if __name__ == "__main__":
    sys.exit(run_command(main))
