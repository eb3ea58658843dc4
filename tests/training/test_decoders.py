import functools
import math
from typing import Any

import pytest
import torch
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet
from torchvision.ops import box_convert, box_iou

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.anchors import TORCHVISION_ANCHORS, AnchorGenerator
from retinanet_edge.training.box_formats import convert_boxes
from retinanet_edge.training.decoders import (
    MultiClassNonMaxSuppression,
    NonMaxSuppression,
    PaddedDetections,
    PredictionDecoder,
    TorchvisionDecoder,
)
from retinanet_edge.training.targets import decode

# The second box covers the first with IoU 0.9; the third stands alone.
BOXES = torch.tensor([[[0.0, 0, 100, 100], [0, 0, 100, 90], [200, 200, 300, 300]]])
LOGITS = torch.tensor([[[2.0, -9], [-9, 3], [1, -9]]])  # classes 0, 1, 0; scores 0.881, 0.953, 0.731


def test_class_agnostic_suppression_is_across_classes() -> None:
    found = NonMaxSuppression(max_detections=4)(BOXES, LOGITS)
    assert found.num_detections.tolist() == [2]
    assert found.classes.tolist() == [[1, 0, -1, -1]]
    assert found.boxes[0].tolist() == [[0, 0, 100, 90], [200, 200, 300, 300], [-1] * 4, [-1] * 4]
    assert found.confidence[0].tolist() == pytest.approx([1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1)), -1, -1])


def test_multi_class_suppression_is_within_a_class() -> None:
    found = MultiClassNonMaxSuppression(max_detections=4)(BOXES, LOGITS)
    assert found.num_detections.tolist() == [3]
    assert found.classes.tolist() == [[1, 0, 0, -1]]
    assert found.boxes[0, 3].tolist() == [-1] * 4


def test_an_anchor_may_be_of_two_classes_in_multi_class_alone() -> None:
    both = torch.tensor([[[2.0, 3.0]]])
    assert MultiClassNonMaxSuppression()(BOXES[:, :1], both).num_detections.tolist() == [2]
    assert NonMaxSuppression()(BOXES[:, :1], both).num_detections.tolist() == [1]


def test_each_class_and_the_whole_have_their_limit() -> None:
    apart = torch.arange(6.0)[None, :, None] * 100 + torch.tensor([0.0, 0, 10, 10])
    logits = torch.tensor([[[3.0, -9], [4, -9], [5, -9], [-9, 1], [-9, 2], [-9, -9]]])
    assert MultiClassNonMaxSuppression(max_detections_per_class=2)(apart, logits).classes[0, :5].tolist() == [0, 0, 1, 1, -1]
    assert MultiClassNonMaxSuppression(max_detections=3)(apart, logits).classes.tolist() == [[0, 0, 0]]


def test_nothing_found_is_all_padding() -> None:
    for suppression in (NonMaxSuppression(max_detections=2), MultiClassNonMaxSuppression(max_detections=2)):
        found = suppression(BOXES, torch.full((1, 3, 2), -5.0))
        assert found.num_detections.tolist() == [0]
        assert found.boxes.tolist() == [[[-1.0] * 4] * 2]
        assert found.classes.tolist() == [[-1, -1]]


RULE = AnchorGenerator(strides=(8, 16), sizes=(32.0, 64.0))


@functools.cache
def predictions(height: int, width: int, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(height)
    levels = RULE.levels(height, width)
    count = sum(map(len, levels))
    return torch.randn(2, count, 4, generator=generator) * 0.2, torch.randn(2, count, classes, generator=generator) * 2, levels


def test_kept_boxes_are_decoded_ones_that_do_not_overlap() -> None:
    deltas, logits, levels = predictions(64, 96)
    found = PredictionDecoder(suppression=NonMaxSuppression())(deltas, logits, levels, (64, 96))
    decoded = decode(deltas, torch.cat(levels))
    for image, count in enumerate(found.num_detections.tolist()):
        kept = found.boxes[image, :count]
        assert count > 5
        assert (kept[:, None] == decoded[image]).all(dim=2).any(dim=1).all()
        assert box_iou(kept, kept).fill_diagonal_(0).max() <= 0.5
        assert (found.confidence[image, : count - 1] >= found.confidence[image, 1:count]).all()
        assert found.confidence[image, :count].min() > 0.5


@pytest.mark.parametrize("decoder", [PredictionDecoder, TorchvisionDecoder])
def test_the_asked_format_is_given_and_padding_stays(decoder: Any) -> None:
    deltas, logits, levels = predictions(64, 96)
    logits = logits - 4
    xyxy = decoder()(deltas, logits, levels, (64, 96))
    written = decoder(bounding_box_format="REL_yxyx")(deltas, logits, levels, (64, 96))
    count = int(xyxy.num_detections[0])
    assert 0 < count < xyxy.boxes.shape[1]
    assert torch.allclose(written.boxes[0, :count], convert_boxes(xyxy.boxes[0, :count], "xyxy", "rel_yxyx", (64, 96)))
    assert (written.boxes[0, count:] == -1).all()


def test_any_function_can_suppress() -> None:
    def first(boxes: torch.Tensor, logits: torch.Tensor) -> PaddedDetections:
        count = torch.ones(len(boxes), dtype=torch.int64)
        return PaddedDetections(boxes[:, :1], logits[:, :1, 0].sigmoid(), torch.zeros(len(boxes), 1, dtype=torch.int64), count)

    deltas, logits, levels = predictions(64, 96)
    found = PredictionDecoder(suppression=first)(deltas, logits, levels, (64, 96))
    assert torch.equal(found.boxes, decode(deltas, torch.cat(levels))[:, :1])


@pytest.mark.parametrize(
    ("spread", "shift", "top_k", "kept", "score"),
    [(0.2, -2.0, 1000, 300, 0.05), (30.0, -2.0, 1000, 300, 0.05), (0.2, -9.0, 1000, 300, 0.05), (0.3, 0.0, 20, 30, 0.3)],
)
def test_torchvision_decoder_is_torchvisions(spread: float, shift: float, top_k: int, kept: int, score: float) -> None:
    height, width = 192, 256
    levels = TORCHVISION_ANCHORS.levels(height, width)
    counts = [len(level) for level in levels]
    generator = torch.Generator().manual_seed(11)
    deltas = torch.randn(2, sum(counts), 4, generator=generator) * spread  # 30: sides beyond the bound
    logits = torch.randn(2, sum(counts), 3, generator=generator) * 1.5 + shift
    found = TorchvisionDecoder(score_threshold=score, max_detections=kept, top_k_per_level=top_k)(deltas, logits, levels, (height, width))

    theirs = TorchvisionRetinaNet(
        _Backbone(), 3, score_thresh=score, detections_per_img=kept, topk_candidates=top_k, head=torch.nn.Identity()
    )
    outputs = {"cls_logits": list(logits.split(counts, dim=1)), "bbox_regression": list(deltas.split(counts, dim=1))}
    corners = [box_convert(level, "cxcywh", "xyxy") for level in levels]
    expected = theirs.postprocess_detections(outputs, [corners] * 2, [(height, width)] * 2)
    for image, of_image in enumerate(expected):
        count = int(found.num_detections[image])
        assert count == len(of_image["scores"])
        assert torch.equal(found.classes[image, :count], of_image["labels"])
        assert torch.allclose(found.confidence[image, :count], of_image["scores"], atol=1e-6)
        assert torch.allclose(found.boxes[image, :count], of_image["boxes"], atol=1e-3)
    assert (found.num_detections > 0).all() == (shift > -9)


class _Backbone(torch.nn.Module):
    out_channels = 8


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NonMaxSuppression(iou_threshold=1.5), "IoU 1.5"),
        (lambda: MultiClassNonMaxSuppression(max_detections_per_class=0), "at least 1"),
        (lambda: TorchvisionDecoder(score_threshold=-0.1), "score -0.1"),
        (lambda: TorchvisionDecoder(top_k_per_level=0), "at least 1"),
        (lambda: PredictionDecoder("corners"), "must be one of xyxy"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, said: str) -> None:
    with pytest.raises(UserInputError, match=said):
        make()
