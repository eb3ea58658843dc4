"""Measure images per second of our training step against torchvision's RetinaNet: same backbone, size, batch and run.

Networks take their steps in turn, so that what else the machine does slows all of them alike. Reading data is not part of a step.
"""

import argparse
import csv
import datetime
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from result_file import result_path

    from retinanet_edge.runtime.arguments import size, whole_number
    from retinanet_edge.runtime.errors import RetinaNetEdgeError, UserInputError, run_command
    from retinanet_edge.runtime.progress import Progress
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')", file=sys.stderr)
    sys.exit(2)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retinanet_edge.training.data import Batch
    from retinanet_edge.training.model import RetinaNet as OurRetinaNet
    from retinanet_edge.training.options import TrainingOptions
    from retinanet_edge.training.profiles import ProfileName

BACKBONES = ("resnet50", "resnet18")
CLASSES, BOXES_OF_IMAGE = 20, 7
RATE = 1e-5  # small: the images are noise, and nothing is to be learnt from them
WARMUP_STEPS = 2
THEIRS, THEIRS_CHANNELS_LAST = "torchvision", "torchvision, channels last"
FORM, OURS = "ours, torchvision's form", "ours, default form"


@dataclass(frozen=True)
class Setup:
    """What all networks have in common."""

    backbone: str
    height: int
    width: int
    batch: int
    device: str
    precision: str


@dataclass(frozen=True)
class Entry:
    """A network under test: `step` takes one training step, `contents` says what is in it."""

    name: str
    contents: str
    step: Callable[[], None]


def main() -> None:
    """Parse the arguments, measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet50", help="resnet50 or resnet18 (default %(default)s)")
    parser.add_argument("--input", type=size, metavar="H[xW]", help="input pixels, multiples of 32 (default 320, on a GPU 640)")
    parser.add_argument("--batch", type=whole_number(2), help="images in a step, at least 2 (default 2, on a GPU 16)")
    parser.add_argument("--rounds", type=whole_number(1), default=25, help="rounds in which each takes its turn (default %(default)s)")
    parser.add_argument("--steps", type=whole_number(1), default=2, help="steps in a turn (default %(default)s)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default cuda where there is one)")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="of the networks (default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="CSV", help="file to write (default benchmarks/training_speed_<machine>.csv)")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as train.py does, before torch loads
    setup = make_setup(arguments)
    machine = describe_machine(setup.device)
    out = result_path("training_speed", machine, arguments.out)
    entries = make_entries(setup)
    rows = make_rows(entries, measure(entries, setup, arguments.rounds, arguments.steps))
    print(f"{machine}: {setup.backbone}, {setup.height}x{setup.width}, batch {setup.batch}, {setup.precision}")
    print_table(rows)
    write_csv(out, {**describe_run(setup, machine), "rounds": arguments.rounds, "steps": arguments.steps}, rows)
    print(f"wrote {out}")


def make_setup(arguments: argparse.Namespace) -> Setup:
    """Return the common settings. Raises UserInputError for a backbone, size or device that cannot be."""
    if arguments.backbone not in BACKBONES:
        raise UserInputError(f"--backbone must be one of {', '.join(BACKBONES)}, got {arguments.backbone}")
    from retinanet_edge.training.distributed import choose_device
    from retinanet_edge.training.model import check_input_size

    device = choose_device(arguments.device)
    usual_side, usual_batch = (320, 2) if device == "cpu" else (640, 16)
    height, width = arguments.input or (usual_side, usual_side)
    check_input_size(height, width)
    return Setup(arguments.backbone, height, width, arguments.batch or usual_batch, device, arguments.precision)


def make_batch(setup: Setup) -> "Batch":
    """Return noise with boxes of a sixteenth to half of the image's sides: the same at every call."""
    import torch

    from retinanet_edge.training.data import Batch

    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (setup.batch, setup.height, setup.width, 3), generator=random, dtype=torch.uint8)
    count = setup.batch * BOXES_OF_IMAGE
    image_size = torch.tensor([setup.width, setup.height])
    sides = (1 / 16 + torch.rand(count, 2, generator=random) * 7 / 16) * image_size
    corners = torch.rand(count, 2, generator=random) * (image_size - sides)
    classes = torch.randint(0, CLASSES, (count,), generator=random)
    return Batch(images, torch.cat([corners, corners + sides], dim=1), classes, [BOXES_OF_IMAGE] * setup.batch)


def make_entries(setup: Setup) -> list[Entry]:
    """Return the networks under test. All clip the gradient, and ours keep a running average, as train.py does by default."""
    batch, ours, form = make_batch(setup), make_options(setup, "default"), make_options(setup, "torchvision")
    form = replace(form, clip_norm=ours.clip_norm, average_decay=ours.average_decay)
    common = "uint8 to float, forward, loss, backward, clip"
    return [
        Entry(THEIRS, f"{common}, SGD", their_step(setup, batch, form, channels_last=False)),
        Entry(THEIRS_CHANNELS_LAST, f"{common}, SGD", their_step(setup, batch, form, channels_last=True)),
        Entry(FORM, f"{common}, {name_of(form)}, running average of the weights", our_step(batch, form)),
        Entry(OURS, f"{common}, {name_of(ours)}, running average of the weights", our_step(batch, ours)),
    ]


def name_of(options: "TrainingOptions") -> str:
    return {"sgd": "SGD", "adamw": "AdamW"}[options.optimizer]


def make_options(setup: Setup, profile: "ProfileName") -> "TrainingOptions":
    """Return what train.py would take by default under a profile, but for the common settings."""
    from retinanet_edge.training.options import TrainingOptions
    from retinanet_edge.training.train import make_parser

    defaults = vars(make_parser(profile).parse_args([]))
    known = {field.name: defaults[field.name] for field in fields(TrainingOptions) if field.name in defaults}
    return TrainingOptions(**{
        **known, "data": "", "profile": profile, "input_height": setup.height, "input_width": setup.width, "backbone": setup.backbone,
        "batch": setup.batch, "device": setup.device, "precision": setup.precision, "learning_rate": RATE,
    })  # fmt: skip


def our_step(batch: "Batch", options: "TrainingOptions") -> Callable[[], None]:
    """Return a step of our training, as train.py takes it."""
    from retinanet_edge.training.step import OptimizerStep

    step = OptimizerStep(our_network(options), options)
    step.set_training_mode(len(batch.images))

    def take() -> None:
        check_finite(step.take([batch], options.learning_rate).finite)

    return take


def our_network(options: "TrainingOptions") -> "OurRetinaNet":
    """Return our network with random weights."""
    from retinanet_edge.runtime.model_card import InputSpec
    from retinanet_edge.training.backbones import Backbone
    from retinanet_edge.training.model import RetinaNet

    backbone = Backbone(options.backbone)
    input_spec = InputSpec(options.input_height, options.input_width, backbone.info.mean, backbone.info.std)
    return RetinaNet(backbone, options.network, input_spec, options.anchors, CLASSES)


def their_step(setup: Setup, batch: "Batch", ours: "TrainingOptions", *, channels_last: bool) -> Callable[[], None]:
    """Return a step as torchvision's reference training takes it, at our rate and with the gradient clipped as ours is.

    `channels_last`: with its weights in memory as ours are, which the reference training does not do.
    """
    import torch
    from torch import nn

    device = torch.device(setup.device)
    network = their_network(setup).to(device).train()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=ours.learning_rate, momentum=0.9, weight_decay=ours.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=setup.precision == "fp16")
    half = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[setup.precision]

    def take() -> None:
        images, targets = as_torchvision_takes(batch.to(device))
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, half, enabled=half is not None):
            loss = sum(network(images, targets).values())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), ours.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        check_finite(bool(loss.isfinite()))

    return take


def their_network(setup: Setup) -> "nn.Module":
    """Return torchvision's RetinaNet as retinanet_resnet50_fpn builds it without weights, on either backbone; its resize keeps the size."""
    from torch import nn
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    backbone = resnet_fpn_backbone(
        backbone_name=setup.backbone, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5, returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )  # fmt: skip
    network: nn.Module = RetinaNet(
        backbone, CLASSES, min_size=min(setup.height, setup.width), max_size=max(setup.height, setup.width)
    )
    return network


def as_torchvision_takes(batch: "Batch") -> tuple[list["Tensor"], list[dict[str, "Tensor"]]]:
    """Return float RGB images [3, H, W] from 0 to 1, and targets."""
    images = batch.images.flip(3).permute(0, 3, 1, 2).contiguous().float() / 255
    labels = zip(batch.boxes_of_images(), batch.classes_of_images(), strict=True)
    return list(images), [{"boxes": boxes, "labels": classes} for boxes, classes in labels]


def check_finite(finite: bool) -> None:
    """Raise RetinaNetEdgeError where a step was not a whole one."""
    if not finite:
        raise RetinaNetEdgeError("losses and gradients must be finite, or the steps do not compare, got others: give another --precision")


def measure(entries: Sequence[Entry], setup: Setup, rounds: int, steps: int) -> list[list[float]]:
    """Return images per second of each entry in each round [rounds, entries]: all take `steps` steps in turn, once all are warm."""
    import torch

    with Progress("training", len(entries) * (WARMUP_STEPS + rounds * steps), "step") as progress:

        def take(entry: Entry, count: int) -> float:
            start = time.perf_counter()
            for _ in range(count):
                entry.step()
                progress.advance()
            synchronize(setup.device)
            return count * setup.batch / (time.perf_counter() - start)

        try:
            for entry in entries:
                take(entry, WARMUP_STEPS)
            return [[take(entry, steps) for entry in entries] for _ in range(rounds)]
        except torch.cuda.OutOfMemoryError:
            raise RetinaNetEdgeError("the GPU has too little memory for these networks: give a smaller --batch or --input") from None


def synchronize(device: str) -> None:
    """Wait for the GPU, if it is one."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def make_rows(entries: Sequence[Entry], rounds: list[list[float]]) -> list[dict[str, str]]:
    """Return for each entry median, least and most of its images per second, and of their ratio to torchvision's of the same round."""
    theirs = [speeds[0] for speeds in rounds]
    rows = []
    for entry, speeds in zip(entries, zip(*rounds, strict=True), strict=True):
        ratios = [speed / of_torchvision for speed, of_torchvision in zip(speeds, theirs, strict=True)]
        row = {"network": entry.name, "step": entry.contents}
        for name, values in (("images_per_second", speeds), ("of_torchvision", ratios)):
            row |= {name: f"{statistics.median(values):.3f}", f"{name}_min": f"{min(values):.3f}", f"{name}_max": f"{max(values):.3f}"}
        rows.append(row)
    return rows


def print_table(rows: list[dict[str, str]]) -> None:
    print(f"{'':<28}{'images/s':>10}{'min - max':>20}{'of torchvision':>18}{'min - max':>16}")
    for row in rows:
        speed, ratio = (f"{row[f'{name}_min']} - {row[f'{name}_max']}" for name in ("images_per_second", "of_torchvision"))
        print(f"{row['network']:<28}{row['images_per_second']:>10}{speed:>20}{row['of_torchvision']:>18}{ratio:>16}")


def write_csv(path: Path, run: dict[str, object], rows: list[dict[str, str]]) -> None:
    """Write one line for each network, each with what describes the run."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*run, *rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**run, **row} for row in rows)


def describe_machine(device: str) -> str:
    """Return the GPU that is measured, or the processor and its cores."""
    import torch

    from retinanet_edge.runtime.speed import machine

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else machine("torch")


def describe_run(setup: Setup, machine: str) -> dict[str, object]:
    """Return what the result holds for."""
    import torch
    import torchvision

    return {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(), "machine": machine, "torch": torch.__version__,
        "torchvision": torchvision.__version__, "threads": torch.get_num_threads(), **asdict(setup), "classes": CLASSES,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
