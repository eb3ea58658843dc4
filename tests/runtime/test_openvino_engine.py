"""The CPU backend on a tiny network built here, against ONNX Runtime and a slow NMS."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto  # noqa: E402

from retinanet_edge.runtime.errors import ModelFolderError  # noqa: E402
from retinanet_edge.runtime.model_card import InputSpec, NmsSpec  # noqa: E402
from retinanet_edge.runtime.openvino_engine import OpenVINOEngine  # noqa: E402

tiny = runpy.run_path(str(Path(__file__).with_name("tiny_model.py")))
card, tiny_network = tiny["card"], tiny["tiny_network"]
HEIGHT, WIDTH = tiny["HEIGHT"], tiny["WIDTH"]


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(tiny_network(), path)
    return path


def images_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def reference(path, images, nms):
    """ONNX Runtime, then NMS box by box: for each image a list of (score, class, box)."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits, deltas, anchors = session.run(["class_logits", "box_deltas", "anchors"], {"images": images})
    results = []
    for image_logits, image_deltas, image_anchors in zip(logits, deltas, np.broadcast_to(anchors, deltas.shape), strict=True):
        centres = image_deltas[:, :2] * image_anchors[:, 2:] + image_anchors[:, :2]
        sides = image_anchors[:, 2:] * np.exp(image_deltas[:, 2:])
        boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
        scores = 1 / (1 + np.exp(-image_logits))
        order = sorted(zip(*np.nonzero(scores >= nms.score_threshold), strict=True), key=lambda at: -scores[at])
        kept = []
        for at in order:
            if all(k != at[1] or overlap(boxes[at[0]], box) < nms.iou_threshold for _, k, box in kept):
                kept.append((scores[at], at[1], boxes[at[0]]))
        results.append(kept[: nms.max_detections])
    return results


def overlap(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, kept in zip(found, expected, strict=True):
        assert one.classes.tolist() == [k for _, k, _ in kept]
        np.testing.assert_allclose(one.scores, [score for score, _, _ in kept], rtol=1e-4)
        np.testing.assert_allclose(one.xyxy, [box for _, _, box in kept], rtol=1e-4, atol=1e-3)


def test_equals_onnx_runtime_with_slow_nms(network):
    with OpenVINOEngine(network, card(), "fp32") as engine:
        for seed in range(5):
            images = images_of(1, seed)
            inference = engine.infer(images)
            assert_same(inference.detections, reference(network, images, card().nms))
            assert len(inference.detections[0]) > 1
            assert list(inference.stage_ms) == ["network", "nms"]
            assert min(inference.stage_ms.values()) > 0


def test_takes_every_batch_up_to_its_own(network):
    with OpenVINOEngine(network, card(), "fp32", batch=3) as engine:
        assert engine.max_batch == 3
        for count in (3, 1, 2, 3):  # 1 after 3: the rows left from before must not show
            images = images_of(count, count)
            assert_same(engine.infer(images).detections, reference(network, images, card().nms))


def test_takes_a_network_with_top_k_whose_anchors_are_each_images_own(tmp_path):
    level_top_k = pytest.importorskip("retinanet_edge.export.level_top_k")
    path, bounded = tmp_path / "model.onnx", card(nms=NmsSpec(0.3, 0.9, 10, top_k_per_level=7))
    onnx.save(level_top_k.append_level_top_k(tiny_network(), (24,), 7), path)
    with OpenVINOEngine(path, bounded, "fp32", batch=3) as engine:
        for count in (3, 1, 2):
            images = images_of(count, count)
            found = engine.infer(images).detections
            assert_same(found, reference(path, images, bounded.nms))
            assert all(len(one) > 1 for one in found)
    with pytest.raises(ModelFolderError, match=r"class_logits f32 \[1,24,3\] to fit its card, got f32 \[1,7,3\]"):
        OpenVINOEngine(path, card(), "fp32")


def test_a_later_call_does_not_change_earlier_results(network):
    with OpenVINOEngine(network, card(), "fp32") as engine:
        first = engine.infer(images_of(1, 0)).detections[0]
        boxes, scores = first.xyxy.copy(), first.scores.copy()
        second = engine.infer(images_of(1, 1)).detections[0]
    assert not np.array_equal(second.scores, scores)
    np.testing.assert_array_equal(first.xyxy, boxes)
    np.testing.assert_array_equal(first.scores, scores)


def test_takes_images_that_are_not_contiguous_or_writable(network):
    images = images_of(1)
    mirrored = np.ascontiguousarray(images[:, :, ::-1])[:, :, ::-1]
    mirrored.flags.writeable = False
    with OpenVINOEngine(network, card(), "fp32") as engine:
        expected = engine.infer(images).detections[0].scores
        np.testing.assert_array_equal(engine.infer(mirrored).detections[0].scores, expected)


@pytest.mark.parametrize(
    "images",
    [np.zeros((3, HEIGHT, WIDTH, 3), np.uint8), np.zeros((0, HEIGHT, WIDTH, 3), np.uint8), np.zeros((1, WIDTH, HEIGHT, 3), np.uint8),
     np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((1, HEIGHT, WIDTH, 3), np.float32)],
    ids=["too many", "none", "turned", "no batch", "float"],
)  # fmt: skip
def test_refuses_other_images(network, images):
    with (
        OpenVINOEngine(network, card(), "fp32", batch=2) as engine,
        pytest.raises(ValueError, match=r"must be uint8 \[1\.\.2, 16, 24, 3\], got"),
    ):
        engine.infer(images)


def test_says_what_it_is(network):
    with OpenVINOEngine(network, card(), "fp32") as engine:
        assert (engine.name, engine.backend, engine.precision) == ("model.onnx on OpenVINO", "OpenVINO", "fp32")
        assert engine.file == network


def test_closes_twice_and_then_refuses(network):
    engine = OpenVINOEngine(network, card(), "fp32")
    engine.close()
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.infer(images_of(1))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (card(classes=("one", "two")), r"class_logits f32 \[1,24,2\] to fit its card, got f32 \[1,24,3\]"),
        (card(input=InputSpec(16, 32, (0.0,) * 3, (1.0,) * 3)), r"images u8 \[\?,16,32,3\] to fit its card, got u8 \[\?,16,24,3\]"),
    ],
    ids=["classes", "size"],
)
def test_refuses_the_card_of_another_model(network, other, expected):
    with pytest.raises(ModelFolderError, match=expected) as caught:
        OpenVINOEngine(network, other, "fp32")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("run python export/export_onnx.py")


@pytest.mark.parametrize("missing", ["class_logits", "box_deltas", "anchors"])
def test_refuses_a_network_without_one_of_the_outputs(tmp_path, missing):
    names = {"class_logits": "class_logits", "box_deltas": "box_deltas", "anchors": "anchors"} | {missing: "other"}
    path = tmp_path / "model.int8.onnx"
    onnx.save(tiny_network(names=names), path)
    with pytest.raises(ModelFolderError, match=f"must have {missing} f32 .*got none: run python export/build_engine.py --int8"):
        OpenVINOEngine(path, card(), "int8")


def test_refuses_a_network_that_takes_floats(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(tiny_network(image_type=TensorProto.FLOAT), path)
    with pytest.raises(ModelFolderError, match=r"got f32 \[\?,16,24,3\]"):
        OpenVINOEngine(path, card(), "fp32")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_refuses_a_truncated_file_in_one_line_and_without_noise(network, part, capfd):
    whole = network.read_bytes()
    network.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ModelFolderError, match=r"must be an ONNX network.*run python export/export_onnx.py") as caught:
        OpenVINOEngine(network, card(), "fp32")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"hello, this is text", b'{"json": 1}', bytes(2000), b"<xml/>" * 50])
def test_refuses_a_file_that_is_not_onnx_without_noise(network, content, capfd):
    network.write_bytes(content)
    with pytest.raises(ModelFolderError, match="must be an ONNX network"):
        OpenVINOEngine(network, card(), "fp32")
    assert capfd.readouterr() == ("", "")


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(ModelFolderError, match=r"does not exist: run python export/export_onnx\.py"):
        OpenVINOEngine(tmp_path / "model.onnx", card(), "fp32")


def test_sends_no_telemetry_and_writes_no_files_at_home(tmp_path):
    # OpenVINO reports its import to its makers, and keeps an identity under $HOME, unless openvino_telemetry is missing.
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import sys, socket\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from retinanet_edge.runtime.openvino_engine import import_openvino\n"
        "import_openvino().Core()\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment | {"HOME": str(home)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert list(home.iterdir()) == []
