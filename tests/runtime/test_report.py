import csv
import dataclasses
import json
import runpy
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from retinanet_edge.runtime.errors import ModelFolderError, UserInputError
from retinanet_edge.runtime.model_card import (
    Accuracy,
    Calibration,
    ClassDrop,
    DatasetRecord,
    DropInterval,
    EngineRecord,
    Int8Record,
    NmsSpec,
    OnnxRecord,
    TrainingRecord,
    Verdict,
)
from retinanet_edge.runtime.model_folder import write_card
from retinanet_edge.runtime.report_html import histogram
from retinanet_edge.runtime.report_page import ReportOptions, write_report
from retinanet_edge.runtime.speed import Speed, StageTime
from retinanet_edge.runtime.stream_summary import read_stream

card = runpy.run_path(str(Path(__file__).with_name("tiny_model.py")))["card"]
SHA = "0123456789abcdef" * 4
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Reads a page; fails where elements are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.links, self.elements = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def full_card(**changes):
    def ap(precision, value, split="val"):
        return Accuracy(precision, "OpenVINO", split, 87, value, value + 0.3, value + 0.1, SHA)

    record = EngineRecord(
        "model.int8.orin-trt8.engine", SHA, "int8", SHA, "8.6.2.3", "Orin", "8.7", "1", 4, "2025-01-02", {"workspace": "1"}
    )
    return card(
        dataset=DatasetRecord("voc", "../../data/bccd", SHA, "the data's own", 205, 87, 72),
        training=TrainingRecord(SHA, "imagenet", 36, 31, 17, "2.9.0"), onnx=OnnxRecord(SHA, SHA, 17, 3.1e-6),
        int8=Int8Record(SHA, SHA, Calibration("percentile", 128, SHA, 5)), verdict=Verdict(True, 0.0031, 0.005, SHA, False),
        accuracy=(ap("int8", 0.6089), ap("fp32", 0.6120), ap("fp32", 0.5432, "test")), engines=(record,), **changes,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "models" / "my model"
    path.mkdir(parents=True)
    return path


def report(folder, the_card, **options):
    write_card(folder, the_card)
    path = write_report(ReportOptions(folder, **options))
    assert path == folder / "report" / "index.html"
    return Page(path.read_text(encoding="utf-8"))


def write_jsonl(path, frames=4, name="round"):
    found = {"class": name, "score": 0.9, "xyxy": [0, 0, 1, 1]}
    lines = [
        {"frame": i, "time_s": i * 0.5, "latency_ms": 10.0 * (i + 1), "detections": [found] * i}
        for i in range(frames)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_every_figure_of_the_card_is_on_the_page(folder):
    words = report(folder, full_card()).words
    for expected in (
        "my model", "round square star", "input 16x24", "VOC, ../../data/bccd", "205 training, 87 validation, 72 test", "36, best 31",
        "imagenet", "2.9.0", "profile default", "object from 0.5, background below 0.4",
        "FP32 OpenVINO val 87 0.6120 0.9120 0.7120", "INT8 OpenVINO val 87 0.6089 0.9089 0.7089", "FP32 OpenVINO test 87 0.5432",
        "Passed: 0.31 AP points lost by INT8, a loss of 0.50 is allowed", "128 images (percentile, seed 5)",
        "opset 17, differs from PyTorch by at most 3.1e-06", "model.int8.orin-trt8.engine int8 Orin 8.7 8.6.2.3 4 2025-01-02",
    ):  # fmt: skip
        assert expected in words


def test_rules_that_are_not_ours_are_stated(folder):
    theirs = dataclasses.replace(card().anchors, ratio_is="w/h", outer="scale", clip=True)
    network = dataclasses.replace(card().network, p6_from="C5", tensorflow_padding=True)
    words = report(folder, card(anchors=theirs, network=network, nms=NmsSpec(top_k_per_level=300))).words
    assert "ratios w/h" in words
    assert "scale slowest, clipped to the input" in words
    assert "P6 from C5, padded as TensorFlow does" in words
    assert "at most 100 boxes of the best 300 anchors of each level" in words
    ours = report(folder, card()).words
    assert "ratios h/w" in ours
    assert "slowest" not in ours


def test_pages_of_evaluations_are_linked(folder):
    assert "runtime/evaluate.py --report" in report(folder, card()).words
    for split in ("val", "test"):
        (folder / "report" / f"evaluation-{split}.html").write_text("a page")
    page = report(folder, card())
    assert "images of the test split" in page.words
    assert {"evaluation-val.html", "evaluation-test.html"} <= set(page.links)
    assert "runtime/evaluate.py --report" not in page.words


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Verdict(False, 0.02, 0.005, SHA, False), "Failed: 2.00 AP points lost by INT8, a loss of 0.50 is allowed"),
        (Verdict(False, 0.02, 0.005, SHA, True), "Failed, accepted by --force: 2.00 AP points lost"),
        (Verdict(True, -0.0012, 0.005, SHA, False), "Passed: 0.12 AP points gained by INT8"),
        (Verdict(True, 0.0, 0.005, SHA, False), "Passed: 0.00 AP points lost by INT8"),
        (Verdict(False, None, 0.005, SHA, True), "Failed, accepted by --force: INT8 was not measured"),
        (
            Verdict(True, 0.002, 0.005, SHA, False, DropInterval(-0.001, 0.0055, 1000, 87), (ClassDrop("star", 0.01),)),
            "is allowed; the 95 % interval of the change is -0.55 to +0.10 points (1000 resamples of 87 images); lost most: star -1.00.",
        ),
    ],
)
def test_the_verdict_is_stated(folder, verdict, expected):
    assert expected in report(folder, card(verdict=verdict)).words


def test_a_bare_card_says_what_to_run(folder):
    words = report(folder, card()).words
    for command in (
        "runtime/evaluate.py", "export/build_engine.py --int8", "training/train.py --data PATH", "export/export_onnx.py",
        "runtime/stream.py --camera demo", "runtime/benchmark.py",
    ):  # fmt: skip
        assert f"not made yet: run python {command}" in words
    assert f"--model {folder}" in words


def test_text_is_text_never_markup(folder):
    evil = '<b>&"x"\'</b><script>'
    write_card(folder, card())
    jsonl = write_jsonl(folder / "s.jsonl", name=evil)
    page = report(folder, card(classes=(evil, "b", "c")), jsonl=jsonl)
    assert evil in page.words
    assert f"{evil} detections 6" in page.words
    assert "b" not in page.elements
    assert "script" not in page.elements


def test_the_page_needs_nothing_from_elsewhere(folder):
    (folder / "report").mkdir()
    for name in ("loss.png", "pr_curve.png", "val_detections.png", "demo.mp4"):
        (folder / "report" / name).write_bytes(b"x")
    elsewhere = folder.parent.parent / "a clip #1.mp4"
    elsewhere.write_bytes(b"x")
    for video, expected in ((None, "demo.mp4"), (elsewhere, "../../../a clip #1.mp4")):
        page = report(folder, full_card(), video=video)
        assert sorted(map(unquote, page.links)) == sorted(["loss.png", "pr_curve.png", "val_detections.png", expected])
        assert all((folder / "report" / unquote(link)).is_file() for link in page.links)
        assert all("#" not in link and " " not in link for link in page.links)
        assert "video" in page.elements


def test_a_link_to_the_folder_gives_links_that_work(folder, tmp_path):
    (folder / "report").mkdir()
    (folder / "report" / "loss.png").write_bytes(b"x")
    write_card(folder, card())
    latest = tmp_path / "latest"
    latest.symlink_to(folder)
    path = write_report(ReportOptions(latest))
    assert Page(path.read_text()).links == ["loss.png"]
    assert "my model" in path.read_text()


def test_a_stream_is_summed_up(folder):
    page = report(folder, card(), jsonl=write_jsonl(folder / "s.jsonl"))
    # Latencies 10, 20, 30, 40 ms: nearest rank 2 of 4 for p50, 4 of 4 for p95 and p99. 0 + 1 + 2 + 3 detections.
    for expected in ("frames 4 in 1.5 s", "round detections 6", "latency p50 20.0 ms", "latency p95 40.0 ms", "latency p99 40.0 ms"):
        assert expected in page.words
    assert page.elements.count("svg") == 1


def test_a_stream_of_no_frame_is_no_error(folder):
    page = report(folder, card(), jsonl=write_jsonl(folder / "s.jsonl", frames=0))
    assert "frames 0 in 0.0 s" in page.words
    assert "svg" not in page.elements


def test_many_classes_are_cut_short(folder):
    found = [{"class": f"kind {i}", "score": 1.0, "xyxy": [0, 0, 1, 1]} for i in range(20) for _ in range(20 - i)]
    (folder / "s.jsonl").write_text(json.dumps({"frame": 0, "time_s": 0, "latency_ms": 1, "detections": found}))
    words = report(folder, card(), jsonl=folder / "s.jsonl").words
    assert "kind 0 detections 20" in words
    # 12 + 11 + ... + 1 = 78 beside the first eight classes
    assert "12 other classes 78 detections" in words


@pytest.mark.parametrize("line", ["{", "[]", '{"latency_ms": 1}', '{"latency_ms": "x", "time_s": 0, "detections": []}'])
def test_other_lines_are_refused_by_number(tmp_path, line):
    good = json.dumps({"frame": 0, "time_s": 0, "latency_ms": 1, "detections": []})
    (tmp_path / "s.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(UserInputError, match=r"line 2, must be a line of stream\.py --jsonl"):
        read_stream(tmp_path / "s.jsonl")


def test_histogram_counts_every_value():
    svg = Page(histogram(np.array([1.0] * 3 + [2.0] * 187 + [3.0] * 9 + [1000.0]), "ms"))
    counts = [int(text.rpartition(": ")[2]) for text in svg.text if ": " in text]
    # Half a bin is 0.025: 1, 2 and 3 stand apart, and 1000 with the 3s, at the 99th percentile.
    assert counts == [3, 187, 10]
    assert Page(histogram(np.array([5.0]), "ms")).elements.count("rect") == 1


def test_a_benchmark_is_shown(folder):
    speed = Speed("model.onnx on OpenVINO", "fp32", "a <cpu>", "256x256", 1, 9, (StageTime("total", 1.5, 2.5, 3.5),), 640.0)
    (folder / "speed.csv").write_text(speed.to_csv())
    words = report(folder, card(), benchmark=folder / "speed.csv").words
    assert "model.onnx on OpenVINO, fp32, on a <cpu>: 640.000 frames per second" in words
    assert "total 1.500 2.500 3.500" in words


def test_another_csv_is_refused(folder):
    write_card(folder, card())
    with (folder / "speed.csv").open("w") as stream:
        csv.writer(stream).writerows([["a", "b"], [1, 2]])
    with pytest.raises(UserInputError, match=r"must be a CSV of benchmark\.py"):
        write_report(ReportOptions(folder, benchmark=folder / "speed.csv"))
    assert not (folder / "report").exists()


def test_files_that_are_not_there_are_refused(folder):
    with pytest.raises(ModelFolderError, match=r"has no card\.json"):
        write_report(ReportOptions(folder))
    write_card(folder, card())
    for flag in ("video", "jsonl", "benchmark"):
        with pytest.raises(UserInputError, match=f"--{flag} must name a file, got nothing, which does not exist"):
            write_report(ReportOptions(folder, **{flag: Path("nothing")}))


def test_the_command(run):
    model = run.folder / "models" / "latest"
    model.mkdir(parents=True)
    write_card(model, full_card())
    done = run("runtime/report.py")
    assert (done.code, done.err) == (0, "")
    written = Path(done.out.removeprefix("wrote ").partition(": ")[0])
    assert written.samefile(model / "report" / "index.html")
    missing = run("runtime/report.py", "--model", "nowhere")
    assert missing.code == 2
    assert missing.err.count("\n") == 1
    assert "training/train.py" in missing.err
