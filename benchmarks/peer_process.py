"""A peer for runtime/benchmark.py --peers, which starts it: another way to run a model folder, timed on request (runtime/peers.py).

Reads one JSON object a line on standard input: {"prepare": {"peer", "model", "images", "batch", "on_gpu"}}, then {"run": calls}.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from retinanet_edge.runtime.model_card import ModelCard, NmsSpec

WARMUP_CALLS = 3
MOST_CANDIDATES = 5000  # as in EfficientNMS_TRT


@dataclass(frozen=True)
class Setup:
    """What to run. model: its folder. batch: images [N, H, W, 3] of a call. on_gpu: whether ours runs on a GPU."""

    model: Path
    batch: int
    on_gpu: bool


@dataclass(frozen=True)
class Peer:
    """What is ready. contents: what it is, in words. call: from images uint8 [N, H, W, 3] to boxes, both in the host's memory."""

    contents: str
    call: Callable[[NDArray[np.uint8]], object]


class UnavailableError(Exception):
    """This peer cannot be had here; the message is the reason."""


def main() -> None:
    """Answer requests until there are no more."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: threads without work must not hold up the next one's turn
    requests, answers = sys.stdin, own_output()
    peer: Peer | None = None
    ready: list[NDArray[np.uint8]] = []
    for line in requests:
        request = json.loads(line)
        try:
            if "prepare" in request:
                wanted = request["prepare"]
                ready = list(np.load(wanted["images"]))
                peer = prepare(wanted["peer"], Setup(Path(wanted["model"]), wanted["batch"], wanted["on_gpu"]), ready)
                answer: dict[str, object] = {"ready": peer.contents}
            else:
                assert peer is not None
                answer = {"milliseconds": time_calls(peer, ready, request["run"])}
        except (UnavailableError, ImportError, RuntimeError, OSError) as error:  # RuntimeError: CUDA out of memory, a compiler that fails
            answer = {"unavailable": " ".join(str(error).split()) or type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def own_output() -> IO[str]:
    """Return standard output for the protocol alone: what libraries print goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def prepare(name: str, setup: Setup, ready: Sequence[NDArray[np.uint8]]) -> Peer:
    """Return a warm peer. Raises UnavailableError with the reason."""
    from retinanet_edge.runtime.errors import RetinaNetEdgeError

    try:
        peer = PEERS[name](setup)
    except RetinaNetEdgeError as error:
        raise UnavailableError(str(error)) from None
    time_calls(peer, ready, WARMUP_CALLS)
    return peer


def time_calls(peer: Peer, ready: Sequence[NDArray[np.uint8]], calls: int) -> list[float]:
    """Return the milliseconds of each call."""
    times = []
    for call in range(calls):
        start = time.perf_counter()
        peer.call(ready[call % len(ready)])
        times.append((time.perf_counter() - start) * 1e3)
    return times


def eager(setup: Setup) -> Peer:
    """PyTorch, our network: FP16 on a GPU, FP32 on the CPU, in either case with channels last."""
    return torch_peer(setup, compiled=False)


def compiled(setup: Setup) -> Peer:
    """The same through torch.compile, on a GPU with CUDA graphs."""
    return torch_peer(setup, compiled=True)


def torch_peer(setup: Setup, *, compiled: bool) -> Peer:
    """Return our network with its post-processing on the device, as the plugin defines it."""
    import torch

    from retinanet_edge.runtime.model_folder import read_card
    from retinanet_edge.training.checkpoint import load_network

    device = choose_device(setup)
    card = read_card(setup.model)
    network: nn.Module = load_network(setup.model, card).to(device)
    anchors = network.get_buffer("anchors").clone()
    if setup.on_gpu:
        to_half(network)
    network = network.to(memory_format=torch.channels_last)
    mode = "reduce-overhead" if setup.on_gpu else "default"
    forward = torch.compile(network, mode=mode) if compiled else network

    def call(images: NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            logits, deltas = forward(torch.from_numpy(images).to(device))
            return [[part.cpu() for part in detect(*heads, anchors, card.nms)] for heads in zip(logits, deltas, strict=True)]

    return Peer(f"PyTorch {torch.__version__} {f'torch.compile {mode}' if compiled else 'eager'}, {describe(setup)}, channels last", call)


def to_half(network: "nn.Module") -> None:
    """Make all of our network but its normalisation FP16."""
    normalise = network.get_submodule("normalise")
    network.half()
    normalise.float()
    normalise.register_forward_hook(lambda *of_call: of_call[-1].half())


def detect(logits: "Tensor", deltas: "Tensor", anchors: "Tensor", nms: "NmsSpec") -> "tuple[Tensor, Tensor, Tensor]":
    """Return boxes [M, 4], scores [M] and classes [M] of an image's logits [A, K] and deltas [A, 4] on anchors [A, 4]."""
    from torchvision.ops import batched_nms

    from retinanet_edge.training.targets import decode

    scores = logits.float().sigmoid().flatten()
    passing = (scores >= nms.score_threshold).nonzero()[:, 0]
    best, order = scores[passing].topk(min(len(passing), MOST_CANDIDATES))
    rows, classes = passing[order] // logits.shape[1], passing[order] % logits.shape[1]
    boxes = decode(deltas[rows].float(), anchors[rows])
    kept = batched_nms(boxes, best, classes, nms.iou_threshold)[: nms.max_detections]
    return boxes[kept], best[kept], classes[kept]


def torchvision_retinanet(setup: Setup) -> Peer:
    """torchvision's RetinaNet of the same input and as many classes, with random weights and its own post-processing."""
    import torch
    import torchvision
    from torchvision.models.detection import retinanet_resnet50_fpn

    from retinanet_edge.runtime.model_folder import read_card

    device = choose_device(setup)
    card: ModelCard = read_card(setup.model)
    sides = (card.input.height, card.input.width)
    network = retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=len(card.classes), min_size=min(sides), max_size=max(sides)
    )  # fmt: skip
    network = network.eval().to(device)

    def call(images: NDArray[np.uint8]) -> object:
        half = torch.autocast(device.type, torch.float16, enabled=setup.on_gpu)
        with torch.no_grad(), half:
            floats = torch.from_numpy(images).to(device).flip(3).permute(0, 3, 1, 2).float() / 255
            return [{name: part.cpu() for name, part in found.items()} for found in network(list(floats))]

    size = f"{sides[0]}x{sides[1]}, {len(card.classes)} classes"
    return Peer(f"torchvision {torchvision.__version__} retinanet_resnet50_fpn {size}, random weights, eager, {describe(setup)}", call)


def onnx_runtime(setup: Setup) -> Peer:
    """ONNX Runtime on model.onnx, with the twin of the plugin after it; CUDA where ours runs on a GPU and its package has it."""
    import onnxruntime

    from retinanet_edge.runtime.efficient_nms import efficient_nms
    from retinanet_edge.runtime.model_folder import ONNX_FILE, read_card, vouched_file

    card = read_card(setup.model)
    path = vouched_file(setup.model, ONNX_FILE, card.onnx.sha256 if card.onnx else None)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"] if setup.on_gpu else ["CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=providers)
    outputs = ["class_logits", "box_deltas", "anchors"]

    def call(images: NDArray[np.uint8]) -> object:
        return efficient_nms(*session.run(outputs, {"images": images}), card.nms)

    provider = session.get_providers()[0].removesuffix("ExecutionProvider")
    return Peer(f"ONNX Runtime {onnxruntime.__version__} {provider}, model.onnx FP32, {cores()} threads", call)


PEERS: dict[str, Callable[[Setup], Peer]] = {
    "PyTorch eager": eager, "torch.compile": compiled, "torchvision": torchvision_retinanet, "ONNX Runtime": onnx_runtime,
}  # fmt: skip


def choose_device(setup: Setup) -> "torch.device":
    """Return where torch runs: where ours does. Raises UnavailableError where it cannot."""
    import torch

    if not setup.on_gpu:
        torch.set_num_threads(cores())
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UnavailableError(f"PyTorch {torch.__version__} of {sys.executable} sees no GPU")
    return torch.device("cuda", 0)


def describe(setup: Setup) -> str:
    return "FP16" if setup.on_gpu else f"FP32, {cores()} threads"


def cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
