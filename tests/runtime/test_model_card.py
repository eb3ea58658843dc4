import copy
import dataclasses
import json

import pytest

from retinanet_edge.runtime.errors import ModelFolderError
from retinanet_edge.runtime.model_card import (
    Accuracy,
    AnchorSpec,
    Calibration,
    ClassDrop,
    DatasetRecord,
    DropInterval,
    EngineRecord,
    InputSpec,
    Int8Record,
    ModelCard,
    NetworkSpec,
    NmsSpec,
    OnnxRecord,
    TrainingRecord,
    Verdict,
    card_from_json,
)

SHA = "0123456789abcdef" * 4
SMALL = ModelCard(
    classes=("cat", "dog"),
    input=InputSpec(480, 640, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
    anchors=AnchorSpec((8, 16), (32.0, 64.0), (1.0, 1.26), (0.5, 1.0, 2.0)),
    network=NetworkSpec("resnet18", 64, 64, 2, "batch"),
)
TORCHVISION = dataclasses.replace(
    SMALL,
    anchors=AnchorSpec((8,), (32.0,), (1.0,), (1.0,), "w/h", "scale", 0.0, True, True, True, True),
    network=NetworkSpec("resnet50", 256, 256, 4, "group", "C5", True, (1.0, 1.0, 1.0, 1.0)),
)
# A card as version 1 wrote it: networks and anchors were of one kind then, and nothing said which.
VERSION_1 = """{
  "classes": ["cat", "dog"],
  "input": {
    "height": 480, "width": 640, "mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4],
    "color_order": "BGR", "letterbox": "top-left, bilinear, fill 114"
  },
  "anchors": {"strides": [8, 16], "sizes": [32.0, 64.0], "scales": [1.0, 1.26], "ratios": [0.5, 1.0, 2.0]},
  "network": {"backbone": "resnet18", "fpn_channels": 64, "head_channels": 64, "head_depth": 2, "norm": "batch"},
  "nms": {"score_threshold": 0.05, "iou_threshold": 0.5, "max_detections": 100, "top_k_per_level": null},
  "box_coding": "center-size, variances folded",
  "dataset": null, "training": null, "onnx": null, "int8": null, "verdict": null, "accuracy": [], "engines": [], "schema_version": 1
}"""
ENGINE = EngineRecord("model.int8.engine", SHA, "int8", SHA, "10.3.0", "Orin", "8.7", "1", 4, "2024-01-01", {"int8": "true"})
FULL = dataclasses.replace(
    SMALL,
    nms=NmsSpec(0.1, 0.6, 50, 1000),
    dataset=DatasetRecord("voc", "../../data/ö", SHA, "80/20 by hash of the file name", 8, 2, 0),
    training=TrainingRecord(SHA, "imagenet", 12, 10, 7, "2.4.0"),
    onnx=OnnxRecord(SHA, SHA, 17, 1e-5),
    int8=Int8Record(SHA, SHA, Calibration("percentile", 100, SHA, 0)),
    verdict=Verdict(True, 0.001, 0.005, SHA, False, DropInterval(-0.002, 0.004, 1000, 2), (ClassDrop("dog", 0.003),)),
    accuracy=(Accuracy("fp32", "PyTorch", "val", 2, 0.5, 0.8, 0.55, SHA),),
    engines=(ENGINE,),
)


def changed(path, value, card=FULL):
    """The card as JSON text with the field at `path`, as "input.mean.0", set; a value of ... removes it."""
    data = json.loads(card.to_json())
    *parents, last = path.split(".")
    at = data
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at[part]
    if value is ...:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = copy.deepcopy(value)
    return json.dumps(data)


@pytest.mark.parametrize("card", [SMALL, FULL, TORCHVISION], ids=["small", "full", "torchvision"])
def test_comes_back_from_json_as_it_was(card):
    text = card.to_json()
    assert card_from_json(text, "card.json") == card
    assert text.endswith("}\n")
    assert json.loads(text)["schema_version"] == 5


def test_a_card_of_version_1_is_read_as_what_it_meant_then():
    card = card_from_json(VERSION_1, "card.json")
    assert card == SMALL
    assert card.network == NetworkSpec("resnet18", 64, 64, 2, "batch", "P5", False, (0.1, 0.1, 0.2, 0.2))
    assert card.anchors == AnchorSpec((8, 16), (32.0, 64.0), (1.0, 1.26), (0.5, 1.0, 2.0), "h/w", "ratio", 0.5, False, False, False, False)
    assert card_from_json(card.to_json(), "card.json") == card


def test_a_card_of_version_1_is_read_as_strictly():
    with pytest.raises(ModelFolderError, match=r"network lacks \['norm'\] and has unknown \['colour'\]"):
        card_from_json(VERSION_1.replace('"norm"', '"colour"'), "card.json")
    with pytest.raises(ModelFolderError, match="network must be an object, got 3"):
        card_from_json(json.dumps({**json.loads(VERSION_1), "network": 3}), "card.json")


def test_today_s_card_must_state_what_version_1_did_not():
    with pytest.raises(ModelFolderError, match=r"anchors lacks \['offset'\]"):
        card_from_json(changed("anchors.offset", ...), "card.json")


def test_a_card_of_version_2_followed_our_own_rules():
    written = json.loads(FULL.to_json())
    written["schema_version"] = 2
    for name in ("profile", "foreground_iou", "background_iou"):
        del written["training"][name]
    assert card_from_json(json.dumps(written), "card.json") == FULL
    assert FULL.training == TrainingRecord(SHA, "imagenet", 12, 10, 7, "2.4.0", "default", 0.5, 0.4)
    written["training"] = None
    assert card_from_json(json.dumps(written), "card.json").training is None


def test_a_card_of_version_3_has_no_interval():
    written = json.loads(FULL.to_json())
    written["schema_version"] = 3
    for name in ("interval", "worst_classes"):
        del written["verdict"][name]
    found = card_from_json(json.dumps(written), "card.json")
    assert found.verdict == Verdict(True, 0.001, 0.005, SHA, False, None, ())
    written["verdict"] = None
    assert card_from_json(json.dumps(written), "card.json").verdict is None


def test_a_card_of_version_4_keeps_no_layers_out_of_int8():
    written = json.loads(FULL.to_json())
    assert (written["int8"]["kept"], written["int8"]["equalized"]) == ([], False)
    written["schema_version"] = 4
    del written["int8"]["kept"], written["int8"]["equalized"]
    assert card_from_json(json.dumps(written), "card.json") == FULL
    written["int8"] = None
    assert card_from_json(json.dumps(written), "card.json").int8 is None


def test_whole_numbers_pass_as_floats_and_become_them():
    card = card_from_json(changed("nms.iou_threshold", 1), "card.json")
    assert card.nms.iou_threshold == 1.0
    assert isinstance(card.nms.iou_threshold, float)


def test_any_part_of_a_card_is_refused():
    text = FULL.to_json().rstrip()
    for end in range(0, len(text), 7):
        with pytest.raises(ModelFolderError, match=r"here/card\.json is not JSON .* it may be truncated"):
            card_from_json(text[:end], "here/card.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"schema_version": ' + "9" * 5000 + "}", "is not JSON"),
        ("[]", "must hold a JSON object, got list"),
        ("null", "must hold a JSON object, got NoneType"),
        ("{}", "must have schema version 5, got None: train again"),
        ('{"schema_version": 6}', "must have schema version 5, got 6: update retinanet-edge"),
        ('{"schema_version": 0}', "must have schema version 5, got 0: train again"),
        ('{"schema_version": "1"}', "must have schema version 5, got '1': train again"),
        ('{"schema_version": 5}', r"card lacks \['accuracy', 'anchors', .* and has unknown \[\]"),
    ],
    ids=["nothing", "deep", "long number", "list", "null", "no version", "newer", "older", "text", "empty"],
)
def test_what_is_no_card_of_this_schema(text, said):
    with pytest.raises(ModelFolderError, match=said) as caught:
        card_from_json(text, "card.json")
    assert str(caught.value).startswith("card.json ") or str(caught.value).startswith("card.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("classes", ..., r"card lacks \['classes'\] and has unknown \[\]"),
        ("colour", "red", r"card lacks \[\] and has unknown \['colour'\]"),
        ("input.height", ..., r"input lacks \['height'\]"),
        ("engines.0.gpu", ..., r"engines\[0\] lacks \['gpu'\]"),
        ("int8.calibration.extra", 1, r"int8\.calibration lacks \[\] and has unknown \['extra'\]"),
        ("classes", "cat", "classes must be a list, got 'cat'"),
        ("classes", [1], r"classes\[0\] must be str, got 1"),
        ("input", None, "input must be an object, got None"),
        ("input", [], r"input must be an object, got \[\]"),
        ("input.height", 480.5, r"input\.height must be int, got 480\.5"),
        ("input.height", "480", r"input\.height must be int, got '480'"),
        ("input.height", True, r"input\.height must be int, got True"),
        ("input.mean.1", "x", r"input\.mean\[1\] must be float, got 'x'"),
        ("input.mean.2", False, r"input\.mean\[2\] must be float, got False"),
        ("input.mean.2", float("nan"), r"input\.mean\[2\] must be finite, got nan"),
        ("input.std.0", float("inf"), r"input\.std\[0\] must be finite, got inf"),
        ("input.std.0", 10**400, "too large"),
        ("input.color_order", "RGB", r"input\.color_order must be one of \['BGR'\], got 'RGB'"),
        ("verdict.passed", 1, r"verdict\.passed must be bool, got 1"),
        ("nms.top_k_per_level", 1.5, r"nms\.top_k_per_level must be int, got 1\.5"),
        ("int8.calibration.method", "guess", r"calibration\.method must be one of \['minmax', 'percentile', 'entropy', 'mse', 'qat'\]"),
        ("accuracy.0.ap", None, r"accuracy\[0\]\.ap must be float, got None"),
        ("engines.0.options", [], r"engines\[0\]\.options must be an object"),
        ("engines.0.options", {"int8": True}, r"engines\[0\]\.options\.int8 must be str, got True"),
        ("classes", [], "needs classes with distinct names"),
        ("classes", ["a", "a"], "needs classes with distinct names"),
        ("anchors.sizes", [32.0], "one anchor size per stride, got 1 sizes and 2 strides"),
        ("anchors.strides", [8, 0], "anchors with positive strides"),
        ("anchors.scales", [-1.0], "anchors with positive strides, sizes, scales"),
        ("anchors.outer", "size", r"anchors\.outer must be one of \['ratio', 'scale'\], got 'size'"),
        ("network.norm", "layer", r"network\.norm must be one of \['none', 'batch', 'group'\], got 'layer'"),
        ("network.p6_from", "P4", r"network\.p6_from must be one of \['C5', 'P5'\], got 'P4'"),
        ("network.box_variances", [0.1, 0.1, 0.2], "four positive box variances"),
        ("network.box_variances", [0.1, 0.1, 0.2, 0], "four positive box variances"),
        ("anchors.ratios", [], "at least one anchor scale and ratio"),
        ("input.width", 0, "positive input size, got 480x0"),
        ("input.mean", [1.0], "three means"),
        ("input.std", [1.0, 0.0, 1.0], "three positive standard deviations"),
        ("nms.score_threshold", 0.001, r"nms\.score_threshold must be at least 0\.01 and below 1, got 0\.001"),
        ("nms.iou_threshold", 0, r"nms\.iou_threshold must be above 0 and at most 1, got 0\.0"),
        ("nms.max_detections", 0, r"nms\.max_detections and nms\.top_k_per_level must be at least 1, got 0 and 1000"),
        ("nms.top_k_per_level", -1, "must be at least 1, got 50 and -1"),
        ("nms.top_k_per_level", 3841, r"nms\.top_k_per_level must be at most 3840, which is TensorRT's limit, got 3841"),
    ],
)
def test_a_broken_field_is_named_with_its_place(path, value, said):
    with pytest.raises(ModelFolderError, match=said) as caught:
        card_from_json(changed(path, value), "models/x/card.json")
    message = str(caught.value)
    assert message.startswith("models/x/card.json: ")
    assert message.endswith(": train again, or take card.json from a backup")
    assert "\n" not in message


def test_a_figure_that_json_does_not_have_is_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(FULL, onnx=OnnxRecord(SHA, SHA, 17, float("nan"))).to_json()


def test_anchors_of_a_cell():
    assert SMALL.anchors.per_cell == 6  # 2 scales x 3 ratios


def test_a_new_accuracy_takes_the_place_of_the_same_measurement():
    def ap(precision, split, value):
        return Accuracy(precision, "OpenVINO", split, 2, value, value, value, SHA)

    card = SMALL.with_accuracy(ap("fp32", "val", 0.5)).with_accuracy(ap("int8", "val", 0.4)).with_accuracy(ap("fp32", "test", 0.3))
    card = card.with_accuracy(ap("fp32", "val", 0.6))
    assert [(a.precision, a.split, a.ap) for a in card.accuracy] == [("int8", "val", 0.4), ("fp32", "test", 0.3), ("fp32", "val", 0.6)]


def test_a_new_engine_takes_the_place_of_its_file_and_is_last():
    other = dataclasses.replace(ENGINE, file="model.fp16.engine", precision="fp16")
    newer = dataclasses.replace(ENGINE, built="2025-01-01")
    card = SMALL.with_engine(ENGINE).with_engine(other).with_engine(newer)
    assert card.engines == (other, newer)
