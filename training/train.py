"""Train a RetinaNet on a labelled folder: COCO JSON, Pascal VOC or YOLO.

The model folder it writes, models/<data>-<time> unless --model names another, is the next command's default input.
Fine-tuning for INT8: training/train.py --qat takes a model that build_engine.py --int8 has quantized, and writes <model>-qat beside it.
On several GPUs: torchrun --nproc_per_node=2 training/train.py --data PATH (and --nnodes on several machines).
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

try:
    from retinanet_edge.runtime.arguments import number, numbers, pair, size, whole_number
    from retinanet_edge.runtime.errors import run_command
    from retinanet_edge.runtime.model_folder import DEFAULT_MODEL, find_model_folder
    from retinanet_edge.training.launch import read_launch, silent_unless_first
    from retinanet_edge.training.profiles import PROFILES
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, or pip install -e '.[train]'", file=sys.stderr)
    sys.exit(2)

_RUN = ("data", "model", "resume", "replace")  # what is no setting of the training


def make_parser(profile: str = "default") -> argparse.ArgumentParser:
    """Return the parser with the defaults of a profile; each setting is named as its field in TrainingOptions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, help="labelled folder: COCO JSON, Pascal VOC or YOLO, told apart by what is in it")
    parser.add_argument(
        "--model", type=Path, help=f"model folder to write (with --resume or --qat the one to go on with: default {DEFAULT_MODEL})"
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run, with its settings (--data if that moved)")
    parser.add_argument(
        "--qat", action="store_true",
        help="fine-tune the quantized --model, which stays as it is, into the folder <model>-qat: 3 --epochs at a tenth of its --lr, other "
             "settings as it was trained, unless given",
    )  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="begin anew in a --model folder, or <model>-qat, that holds a model")
    parser.add_argument(
        "--profile", choices=tuple(PROFILES), default="default",
        help="whose rules and recipe to follow where no flag says otherwise: -h --profile NAME shows its defaults; keras: KerasCV 0.9's, "
             "torchvision, torchvision_v2: those of its two RetinaNets",
    )  # fmt: skip
    _add_network_flags(parser.add_argument_group("network"), "width / height" if profile == "keras" else "height / width")
    _add_training_flags(parser.add_argument_group("training"))
    _add_augmentation_flags(parser.add_argument_group("augmentation"))
    _add_rate_flags(parser.add_argument_group("learning rate"))
    _add_loss_flags(parser.add_argument_group("loss and post-processing"))
    parser.set_defaults(**PROFILES[profile].settings)
    return parser


def _add_network_flags(group: argparse._ArgumentGroup, ratio: str) -> None:
    group.add_argument(
        "--backbone", default="resnet50", help="any timm model with features at strides 8, 16, 32, or a preset of KerasCV"
    )
    group.add_argument(
        "--weights", default="auto",
        help="first weights: coco (torchvision's RetinaNet, for a resnet50), imagenet (timm's), none, auto (the first of these that can "
             "be had), or a FILE: .safetensors of this network or timm's model, or torchvision's .pth",
    )  # fmt: skip
    group.add_argument("--new-classes", action="store_true", help="with --weights FILE: keep all but the last class layer")
    group.add_argument(
        "--freeze", type=whole_number(0, 5), default=argparse.SUPPRESS,
        help="stages of the backbone that keep their weights and BatchNorm statistics: 1 the stem, 2 to 5 also those up to stride 4 to 32 "
             "(default: 0; with a torchvision profile 2 of trained ones)",
    )  # fmt: skip
    group.add_argument(
        "--freeze-norms", action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS,
        help="keep scales and statistics of all of the backbone's BatchNorms (default: no; with --profile torchvision where trained)",
    )  # fmt: skip
    group.add_argument("--input", type=size, default=(640, 640), metavar="H[xW]", help="input pixels, multiples of 32")
    group.add_argument("--fpn-channels", type=whole_number(1), default=256, help="width of the feature pyramid")
    group.add_argument("--head-channels", type=whole_number(1), default=256, help="width of the heads")
    group.add_argument("--head-depth", type=whole_number(0), default=4, help="convolutions in each head before the last")
    group.add_argument("--norm", choices=("batch", "group", "none"), default="batch",
                       help="BatchNorm in pyramid and heads, or GroupNorm in the heads")
    group.add_argument("--anchor-size", type=number(positive=True), default=4.0, help="anchor side at scale 1, in strides")
    group.add_argument("--anchor-scales", type=numbers, default=(1.0, 1.26, 1.587), help="scales in each cell, by commas")
    group.add_argument("--anchor-ratios", type=numbers, default=(0.5, 1.0, 2.0), help=f"{ratio} ratios, by commas")


def _add_training_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--epochs", type=whole_number(1), default=36, help="passes over the training images")
    group.add_argument("--batch", type=whole_number(1), default=8, help="images in a step, over all processes")
    group.add_argument("--accumulate", type=whole_number(1), default=1, help="parts of a batch run one by one, to save memory")
    group.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw", help="optimizer")
    group.add_argument("--weight-decay", type=number(), default=0.02, help="decay of weights, not biases or norms")
    group.add_argument("--clip-norm", type=number(), default=10.0, help="largest norm of the gradient of all weights together, 0 for any")
    group.add_argument("--average-decay", type=number(0, 1), default=0.998, help="decay of the running average that is kept")
    group.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="of forward and backward pass")
    group.add_argument("--sync-norm", action="store_true", help="BatchNorm statistics over all processes (GPUs only)")
    group.add_argument("--eval-every", type=whole_number(1), default=2, help="epochs between evaluations on the validation split")
    group.add_argument("--early-stopping", type=whole_number(0), default=0, help="evaluations without a better AP that end a run, or 0")
    group.add_argument("--seed", type=whole_number(0, 2**31), default=0, help="the same seed gives the same run (on a GPU: nearly)")
    group.add_argument("--workers", type=whole_number(0), default=2, help="processes that read and augment")
    group.add_argument("--device", help="cpu, cuda or cuda:N; default cuda where there is one")


def _add_augmentation_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--augment", type=number(0, 1), default=1.0,
        help="strength of changes of scale and colour, 0 to 1; 0 only fits the image (RandAugment and mosaics have flags of their own)",
    )  # fmt: skip
    group.add_argument(
        "--scale-jitter", type=pair, metavar="LOW,HIGH", default=(0.6, 1.6),
        help="range of the image's scale, in that at which it just fits; then a random crop of the input's size",
    )  # fmt: skip
    group.add_argument("--color-jitter", type=number(0, 1), default=0.4, help="largest change of brightness, contrast, saturation")
    group.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True, help="mirror half of the images")
    group.add_argument(
        "--rand-augment", type=whole_number(0), metavar="N", default=0,
        help="RandAugment without geometry: N operations on light and colour, drawn for each image",
    )  # fmt: skip
    group.add_argument("--rand-magnitude", type=number(0, 1), default=0.5, help="strength of these")
    group.add_argument("--mosaic", type=number(0, 1), default=0.0, help="share of the images that become mosaics of four")
    group.add_argument(
        "--mosaic-off-epochs", type=whole_number(0), metavar="EPOCHS", default=5, help="last of --epochs that have no mosaics"
    )


def _add_rate_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--lr", dest="learning_rate", metavar="LR", type=number(positive=True), default=argparse.SUPPRESS,
        help="peak learning rate (default: 5e-4; with --profile keras 0.005 x batch / 16, with torchvision's 0.01 x batch / 16)",
    )  # fmt: skip
    group.add_argument(
        "--warmup", dest="warmup_epochs", metavar="EPOCHS", type=number(), default=1.0, help="epochs until the peak learning rate"
    )
    group.add_argument("--schedule", choices=("cosine", "step", "plateau", "constant"), default="cosine", help="course after the peak")
    group.add_argument(
        "--drop-epochs", metavar="EPOCHS", type=numbers, default=argparse.SUPPRESS,
        help="with --schedule step: where the rate drops, by commas (default: after 2/3 and 11/12 of the epochs)",
    )  # fmt: skip
    group.add_argument("--drop-factor", type=number(0, 1, positive=True), default=0.1, help="with step or plateau: factor of a drop")
    group.add_argument("--patience", type=whole_number(1), default=3, help="with plateau: evaluations without a better AP until a drop")


def _add_loss_flags(group: argparse._ArgumentGroup) -> None:
    iou = number(0, 1, positive=True)
    group.add_argument("--foreground-iou", type=iou, default=0.5, help="IoU with a box from which an anchor is an object")
    group.add_argument("--background-iou", type=iou, default=0.4, help="IoU below which it is background; between, it is ignored")
    group.add_argument("--focal-alpha", type=number(0, 1), default=0.25, help="weight of objects in the focal loss")
    group.add_argument("--focal-gamma", type=number(), default=2.0, help="focus of the focal loss on hard anchors")
    group.add_argument("--label-smoothing", type=number(0, 0.99), default=0.0, help="class targets L/2 and 1 - L/2")
    group.add_argument("--box-loss", choices=("smooth_l1", "huber", "l1", "giou"), default="smooth_l1", help="loss of boxes")
    group.add_argument("--score-threshold", type=number(0.01, 0.99), default=0.05, help="least score of a detection")
    group.add_argument("--max-detections", type=whole_number(1, 10_000), default=100, help="most detections of an image")
    group.add_argument("--nms-iou", type=iou, default=0.5, help="IoU above which the box with the lower score goes")
    group.add_argument("--top-k", type=whole_number(1, 3840), metavar="K", default=argparse.SUPPRESS,
                       help="keep the K best anchors of each pyramid level before that, in the exported graph too (default: all)")


def parse_arguments() -> argparse.Namespace:
    """Return the command line. Ends the process with code 2 and one line where it is wrong."""
    parser = make_parser(_profile())
    arguments = parser.parse_args()
    if not arguments.resume and not arguments.qat and arguments.data is None:
        parser.error("--data PATH is needed: a labelled folder (or --resume to go on with an interrupted run)")
    return arguments


def _profile() -> str:
    """Return the profile that the command line names, whose defaults the other flags have."""
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--profile", default="default", help="read before the others, which take their defaults from it")
    named: str = early.parse_known_args()[0].profile
    return named if named in PROFILES else "default"


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return those settings that were typed, not left to their defaults."""
    absent = object()  # no default replaces what is there before
    typed = vars(make_parser().parse_args(namespace=argparse.Namespace(**dict.fromkeys(vars(arguments), absent))))
    return _settings({name: value for name, value in typed.items() if value is not absent})


def _settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return fields of TrainingOptions and their values."""
    values = {name: value for name, value in arguments.items() if name not in _RUN}
    if "input" in values:
        values["input_height"], values["input_width"] = values.pop("input")
    return values


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return fields of TrainingOptions for a new run."""
    profile = PROFILES[arguments.profile]
    return {"data": str(arguments.data), "learning_rate": profile.learning_rate_of(arguments.batch), **_settings(vars(arguments))}


def main() -> None:
    """Train as the command line says."""
    with silent_unless_first():
        arguments = parse_arguments()
    # Before torch loads: its threads would wait by spinning, which takes the cores from the processes that read images.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if (arguments.resume or arguments.qat) and read_launch().processes == 1:
        find_model_folder(arguments.model or DEFAULT_MODEL)  # answered before torch takes its seconds to load
    from retinanet_edge.training.distributed import ProcessGroup

    with ProcessGroup(), silent_unless_first():
        from retinanet_edge.training.options import TrainingOptions
        from retinanet_edge.training.run import fine_tune, resume, train

        former, given = arguments.model or DEFAULT_MODEL, _given(arguments)
        if arguments.resume:
            folder = resume(former, data=arguments.data, given=given)
        elif arguments.qat:
            folder = fine_tune(former, data=arguments.data, given=given, replace=arguments.replace)
        else:
            folder = train(TrainingOptions(**_options(arguments)), arguments.model, replace=arguments.replace)
        print(f"wrote {folder}: run python export/export_onnx.py --model {folder} next")


if __name__ == "__main__":
    sys.exit(run_command(main))
