"""Train a RetinaNet on a labelled folder: COCO JSON, Pascal VOC or YOLO.

The model folder it writes, models/<data>-<time> unless --model names another, is the next command's default input.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retinanet_edge.training.options import TrainingOptions

try:
    from retinanet_edge.runtime.arguments import number, numbers, size, whole_number
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL, find_model_folder
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, or pip install -e '.[train]'", file=sys.stderr)
    sys.exit(2)


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, help="labelled folder: COCO JSON, Pascal VOC or YOLO, told apart by what is in it")
    parser.add_argument("--model", type=Path, help=f"model folder to write (with --resume: default {DEFAULT_MODEL})")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run, with its settings (--data if that moved)")
    parser.add_argument("--replace", action="store_true", help="begin anew in a --model folder that holds a model")
    network = parser.add_argument_group("network")
    network.add_argument("--backbone", default="resnet50", help="any timm model with features at strides 8, 16, 32")
    network.add_argument(
        "--weights", default="auto",
        help="first weights: imagenet, none, a .safetensors FILE of this network or of timm's model, or auto (imagenet if it can be had)",
    )  # fmt: skip
    network.add_argument("--new-classes", action="store_true", help="with --weights FILE: keep all but the last class layer")
    network.add_argument("--input", type=size, default=(640, 640), metavar="H[xW]", help="input pixels, multiples of 32")
    network.add_argument("--fpn-channels", type=whole_number(1), default=256, help="width of the feature pyramid")
    network.add_argument("--head-channels", type=whole_number(1), default=256, help="width of the heads")
    network.add_argument("--head-depth", type=whole_number(0), default=4, help="convolutions in each head before the last")
    network.add_argument("--norm", choices=("batch", "none"), default="batch", help="BatchNorm in pyramid and heads")
    network.add_argument("--anchor-size", type=number(positive=True), default=4.0, help="anchor side at scale 1, in strides")
    network.add_argument("--anchor-scales", type=numbers, default=(1.0, 1.26, 1.587), help="scales in each cell, by commas")
    network.add_argument("--anchor-ratios", type=numbers, default=(0.5, 1.0, 2.0), help="height / width ratios, by commas")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=whole_number(1), default=36, help="passes over the training images")
    training.add_argument("--batch", type=whole_number(1), default=8, help="images in a step")
    training.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw", help="optimizer")
    training.add_argument("--lr", type=number(positive=True), default=5e-4, help="peak learning rate")
    training.add_argument("--weight-decay", type=number(), default=0.02, help="decay of weights, not biases or norms")
    training.add_argument("--warmup", type=number(), default=1.0, help="epochs until the peak learning rate")
    training.add_argument("--average-decay", type=number(0, 1), default=0.998, help="decay of the running average that is kept")
    training.add_argument("--augment", type=number(0, 1), default=1.0, help="strength of augmentation, 0 to 1")
    training.add_argument("--no-flip", action="store_true", help="do not mirror images")
    training.add_argument("--eval-every", type=whole_number(1), default=2, help="epochs between evaluations on the validation split")
    training.add_argument("--seed", type=whole_number(0, 2**31), default=0, help="the same seed gives the same run (on a GPU: nearly)")
    training.add_argument("--workers", type=whole_number(0), default=2, help="processes that read and augment")
    training.add_argument("--device", help="cpu, cuda or cuda:N; default cuda where there is one")
    arguments = parser.parse_args()
    if not arguments.resume and arguments.data is None:
        parser.error("--data PATH is needed: a labelled folder (or --resume to go on with an interrupted run)")
    return arguments


def main() -> None:
    """Train as the command line says."""
    arguments = parse_arguments()
    # Before torch loads: its threads would wait by spinning, which takes the cores from the processes that read images.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments.resume:
        find_model_folder(arguments.model or DEFAULT_MODEL)  # answered before torch takes its seconds to load
    from retinanet_edge.training.run import choose_device, resume, train

    if arguments.resume:
        folder = resume(arguments.model or DEFAULT_MODEL, data=arguments.data, device=arguments.device)
    else:
        folder = train(_options(arguments, choose_device(arguments.device)), arguments.model, replace=arguments.replace)
    print(f"wrote {folder}: run python export/export_onnx.py --model {folder} next")


def _options(arguments: argparse.Namespace, device: str) -> "TrainingOptions":
    from retinanet_edge.training.options import TrainingOptions

    return TrainingOptions(
        data=str(arguments.data), backbone=arguments.backbone, weights=arguments.weights, new_classes=arguments.new_classes,
        input_height=arguments.input[0], input_width=arguments.input[1], fpn_channels=arguments.fpn_channels,
        head_channels=arguments.head_channels, head_depth=arguments.head_depth, norm=arguments.norm,
        anchor_scales=arguments.anchor_scales, anchor_ratios=arguments.anchor_ratios, anchor_size=arguments.anchor_size,
        epochs=arguments.epochs, batch=arguments.batch, optimizer=arguments.optimizer, learning_rate=arguments.lr,
        weight_decay=arguments.weight_decay, warmup_epochs=arguments.warmup, average_decay=arguments.average_decay,
        augment=arguments.augment, flip=not arguments.no_flip, eval_every=arguments.eval_every, seed=arguments.seed,
        workers=arguments.workers, device=device,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
