"""The camera's frame as the graph's input, on ONNX Runtime, against the letterbox on the host."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from retinanet_edge.export.camera_input import LONGEST_SIDE, bake_camera
from retinanet_edge.export.level_top_k import append_level_top_k
from retinanet_edge.export.native_nms import append_native_nms
from retinanet_edge.export.nms import append_efficient_nms
from retinanet_edge.runtime.boxes import iou
from retinanet_edge.runtime.dataset import read_dataset, read_image
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.efficient_nms import efficient_nms
from retinanet_edge.runtime.errors import EngineError, UserInputError
from retinanet_edge.runtime.letterbox import Letterbox
from retinanet_edge.runtime.level_top_k import level_sizes
from retinanet_edge.runtime.model_card import NmsSpec
from retinanet_edge.runtime.model_folder import read_card
from tests.conftest import Project
from tests.export.front_graphs import SPEC, input_of, kinds, pixel_model, run

H, W = SPEC.height, SPEC.width  # 32, 48
# width, height: smaller and larger than the input, of its shape, wide, tall, its own size, and sizes that round
CAMERAS = [(96, 64), (100, 50), (50, 100), (48, 32), (48, 20), (30, 32), (24, 16), (17, 11), (97, 53), (333, 41), (1, 1), (2, 300)]


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise: no picture has steeper edges."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels_seen(model: onnx.ModelProto, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the network sees, BGR [N, H, W, 3] on the 0..255 scale."""
    logits = run(model, images=frames)[0]
    rgb = logits.reshape(len(frames), H, W, 3) * np.array(SPEC.std, np.float32) + np.array(SPEC.mean, np.float32)
    return rgb[..., ::-1]


@pytest.mark.parametrize(("width", "height"), CAMERAS)
def test_the_network_sees_what_the_letterbox_on_the_host_makes(width: int, height: int) -> None:
    frames = np.stack([picture(height, width, seed) for seed in (0, 1)])
    boxing = Letterbox(height, width, H, W)
    found = pixels_seen(bake_camera(pixel_model(), SPEC, width, height), frames)
    expected = np.stack([boxing.apply(frame) for frame in frames]).astype(np.float32)
    assert np.abs(found - expected).max() <= 1.0
    content = np.zeros((H, W), np.bool_)
    content[: boxing.content_height, : boxing.content_width] = True
    np.testing.assert_allclose(found[:, ~content], 114, atol=1e-4)  # the fill reaches not a pixel further


def test_enlarging_by_two_interpolates_between_the_middles_of_pixels() -> None:
    frame = np.zeros((16, 24, 3), np.uint8)
    frame[:, 12:] = 100
    # The middles of columns 23 and 24 lie at 11.25 and 11.75 of the frame's: 25 and 75 between 0 and 100.
    found = pixels_seen(bake_camera(pixel_model(), SPEC, 24, 16), frame[None])[0, :, 22:26]
    np.testing.assert_allclose(found, np.broadcast_to(np.array([0, 25, 75, 100])[None, :, None], found.shape), atol=1e-4)


def test_sizes_that_a_rounded_scale_would_miss_by_a_pixel_are_met() -> None:
    missed = [side for side in range(H + 1, 2000) if float(np.float32(H / side)) * side < H]
    assert len(missed) > 100  # in float32, H / side is a little too small for these
    for side in missed[:: len(missed) // 8]:
        frame = np.full((side, side, 3), 200, np.uint8)  # becomes H x H
        found = pixels_seen(bake_camera(pixel_model(), SPEC, side, side), frame[None])[0]
        np.testing.assert_allclose(found[:, :H], 200, atol=1e-3)
        np.testing.assert_allclose(found[:, H:], 114, atol=1e-3)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (48, 32, set()),
        (48, 20, {"Pad"}),
        (96, 64, {"Resize"}),  # of the input's shape
        (100, 50, {"Resize", "Pad"}),
    ],
)
def test_only_what_a_frame_needs_is_added(width: int, height: int, expected: set[str]) -> None:
    added = kinds(bake_camera(pixel_model(), SPEC, width, height))
    assert {"Resize", "Pad"} & set(added) == expected
    assert added[:2] == ["Cast", "Transpose"]  # all that TensorRT takes of uint8 is a Cast
    assert added.count("Cast") == 1


def test_a_camera_of_the_inputs_size_changes_no_bit() -> None:
    frame = picture(H, W)[None]
    for ours, before in zip(run(bake_camera(pixel_model(), SPEC, W, H), images=frame), run(pixel_model(), images=frame), strict=True):
        np.testing.assert_array_equal(ours, before)


def test_the_input_is_the_frame_and_the_outputs_stay() -> None:
    baked = bake_camera(pixel_model(), SPEC, 100, 50)
    assert input_of(baked) == (TensorProto.UINT8, ["N", 50, 100, 3])
    assert list(baked.graph.output) == list(pixel_model().graph.output)
    assert {entry.domain: entry.version for entry in baked.opset_import} == {"": 17}
    names = [node.name for node in baked.graph.node if node.name]
    assert len(set(names)) == len(names)


def test_the_given_model_is_not_changed() -> None:
    model = pixel_model()
    before = model.SerializeToString()
    bake_camera(model, SPEC, 100, 50)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("width", "height"), CAMERAS)
def test_anchors_are_where_the_letterbox_puts_them_in_the_frame(width: int, height: int) -> None:
    anchors = run(bake_camera(pixel_model(), SPEC, width, height), images=picture(height, width)[None])[2][0]
    boxing = Letterbox(height, width, H, W)
    y, x = np.divmod(np.arange(H * W), W)  # of each pixel one, 4 wide and 6 high
    boxes_input = np.stack([x - 1.5, y - 2.5, x + 2.5, y + 3.5], axis=-1)
    boxes_frame = np.concatenate([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], axis=-1)
    np.testing.assert_allclose(boxing.boxes_to_input(boxes_frame), boxes_input, atol=1e-3)


@pytest.mark.parametrize("append", [append_efficient_nms, append_native_nms])
def test_nms_is_appended_to_it_as_to_any_graph(append) -> None:
    outputs = {output.name for output in append(bake_camera(pixel_model(), SPEC, 96, 64), NmsSpec()).graph.output}
    assert outputs in ({"detections"}, {"num_detections", "detection_boxes", "detection_scores", "detection_classes"})


def test_anchors_that_top_k_gathers_are_scaled_with_the_rest() -> None:
    sizes = (1000, H * W - 1000)
    bounded = append_level_top_k(pixel_model(), sizes, 50)
    image = picture(H, W)
    frame = image.repeat(3, axis=0).repeat(3, axis=1)  # resized it is the image to the bit: all pixels under a sample are equal
    logits, _, anchors = run(bounded, images=image[None])
    found = run(bake_camera(bounded, SPEC, 3 * W, 3 * H), images=frame[None])
    np.testing.assert_array_equal(found[0], logits)
    np.testing.assert_array_equal(found[2], 3 * anchors)
    assert found[2].shape == (1, 100, 4)


def on_host(model: onnx.ModelProto, frames: NDArray[np.uint8], boxing: Letterbox, nms: NmsSpec) -> list[Detections]:
    found = efficient_nms(*run(model, images=np.stack([boxing.apply(frame) for frame in frames])), nms)
    return [boxing.detections_to_frame(d) for d in found]


def in_graph(model: onnx.ModelProto, frames: NDArray[np.uint8], nms: NmsSpec) -> list[Detections]:
    whole = Letterbox(*frames.shape[1:3], *frames.shape[1:3])  # clips to the frame, as the host's way back does
    return [whole.detections_to_frame(d) for d in efficient_nms(*run(model, images=frames), nms)]


@pytest.mark.parametrize("top_k", [None, 8])
@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_a_trained_model_finds_the_same_in_the_cameras_frames(finished_project: Project, file: str, top_k: int | None) -> None:
    card, model = read_card(finished_project.model), onnx.load(finished_project.model / file)
    if top_k is not None:
        model = append_level_top_k(model, level_sizes(card.anchors, card.input), top_k)
    images = [read_image(sample) for sample in read_dataset(finished_project.folder / "data" / "squares").val[:3]]
    frames = np.stack([cv2.resize(image, (203, 155), interpolation=cv2.INTER_LINEAR) for image in images])
    boxing = Letterbox(155, 203, card.input.height, card.input.width)
    expected = on_host(model, frames, boxing, card.nms)
    found = in_graph(bake_camera(model, card.input, 203, 155), frames, card.nms)
    clear = [d.filtered(0.4) for d in expected]
    assert sum(map(len, clear)) >= 4  # squares are found
    for ours, theirs in zip(found, clear, strict=True):
        alike = (ours.classes[:, None] == theirs.classes) & (abs(ours.scores[:, None] - theirs.scores) < 0.05)
        alike &= abs(ours.xyxy[:, None] - theirs.xyxy).max(axis=2) < 1.5  # pixels of a frame three times as large as the input
        assert (alike & (iou(ours.xyxy, theirs.xyxy) > 0.95)).any(axis=0).all()


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_frames_that_are_resized_without_rounding_give_the_same_to_the_last_digits(finished_project: Project, file: str) -> None:
    card, model = read_card(finished_project.model), onnx.load(finished_project.model / file)
    images = np.stack([picture(card.input.height, card.input.width, seed) for seed in (0, 1)])
    frames = images.repeat(3, axis=1).repeat(3, axis=2)
    baked = bake_camera(model, card.input, 3 * card.input.width, 3 * card.input.height)
    for name, ours, theirs in zip(("logits", "deltas", "anchors"), run(baked, images=frames), run(model, images=images), strict=True):
        np.testing.assert_allclose(ours, theirs * (3 if name == "anchors" else 1), atol=1e-5)
    quantizers = {"QuantizeLinear", "DequantizeLinear", "Conv"}
    assert [kind for kind in kinds(baked) if kind in quantizers] == [kind for kind in kinds(model) if kind in quantizers]


@pytest.mark.parametrize(("width", "height"), [(0, 480), (640, 0), (-1, 480), (LONGEST_SIDE + 1, 480), (640, LONGEST_SIDE + 1)])
def test_a_camera_without_pixels_or_larger_than_any_is_refused(width: int, height: int) -> None:
    with pytest.raises(UserInputError, match=rf"--camera-size must be 1x1 to 16384x16384 pixels, got {width}x{height}$"):
        bake_camera(pixel_model(), SPEC, width, height)


@pytest.mark.parametrize(
    "made",
    [
        {"order": [0, 1, 2]},  # BGR stays BGR
        {"mean": [0, 0, 0]},
        {"std": [58, 57, 56.1]},
        {"kind": "Div"},
        {"axis": 2},
        {"perm": [0, 3, 2, 1]},
    ],
)
def test_a_graph_that_prepares_its_images_otherwise_is_refused(made: dict[str, object]) -> None:
    with pytest.raises(EngineError, match=r"of its card's mean and std, got uint8 .*run python export/export_onnx\.py") as caught:
        bake_camera(pixel_model(made=made), SPEC, 100, 50)
    assert "\n" not in str(caught.value)


def test_a_graph_that_reads_its_images_twice_is_refused() -> None:
    model = pixel_model()
    model.graph.node.insert(0, helper.make_node("Cast", ["images"], ["again"], to=TensorProto.FLOAT))
    with pytest.raises(EngineError, match=r"got uint8 \[N, 32, 48, 3\] and : run python"):
        bake_camera(model, SPEC, 100, 50)


def test_graphs_that_are_past_it_are_refused() -> None:
    with pytest.raises(EngineError, match=r"begin with images uint8 \[N, 32, 48, 3\].*got uint8 \[N, 50, 100, 3\] and Cast, Transpose"):
        bake_camera(bake_camera(pixel_model(), SPEC, 100, 50), SPEC, 100, 50)
    with pytest.raises(EngineError, match="num_detections"):
        bake_camera(append_efficient_nms(pixel_model(), NmsSpec()), SPEC, 100, 50)


def test_a_graph_that_computes_its_anchors_is_refused() -> None:
    model = pixel_model()
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "anchors")
    model.graph.input.append(helper.make_tensor_value_info("table", TensorProto.FLOAT, list(table.dims)))
    model.graph.initializer.remove(table)
    model.graph.node.append(helper.make_node("Abs", ["table"], ["anchors"]))
    with pytest.raises(EngineError, match="got other inputs and Cast"):
        bake_camera(model, SPEC, 100, 50)
    del model.graph.input[1]
    model.graph.node[-1].input[0] = "box_deltas"
    with pytest.raises(EngineError, match=r"anchors from a constant \[1, A, 4\]"):
        bake_camera(model, SPEC, 100, 50)
