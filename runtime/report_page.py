"""The report of a model: one HTML page in its report folder, of what its card says and what lies beside it."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from retinanet_edge.runtime import report_html as html
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_card import ModelCard
from retinanet_edge.runtime.model_folder import REPORT_FOLDER, find_model_folder, read_card, write_atomically
from retinanet_edge.runtime.report_card import accuracy, card_details, headline, training
from retinanet_edge.runtime.stream_summary import StreamSummary, read_stream

_PAGE, _DEFAULT_VIDEO, _DEFAULT_JSONL, _DEFAULT_BENCHMARK = "index.html", "demo.mp4", "demo.jsonl", "benchmark.csv"
_SEARCH = "int8_search.svg"
_SHOWN_CLASSES = 8
_SPEED_COLUMNS = ("stage", "p50_ms", "p95_ms", "p99_ms")


@dataclass(frozen=True)
class ReportOptions:
    """What a report is made of: a model folder; a stream's video and JSON lines and a benchmark's CSV, None for the usual places."""

    model: Path
    video: Path | None = None
    jsonl: Path | None = None
    benchmark: Path | None = None


def write_report(options: ReportOptions) -> Path:
    """Write the page and return its path. What is not made yet is said on the page, with the command that makes it.

    Raises ModelFolderError for a folder without a card; UserInputError where a file that is named does not exist or is not what
    it should be.
    """
    folder = find_model_folder(options.model)
    card, report = read_card(folder), folder / REPORT_FOLDER
    found = ReportOptions(
        options.model,
        _input(options.video, "--video", report / _DEFAULT_VIDEO),
        _input(options.jsonl, "--jsonl", report / _DEFAULT_JSONL),
        _input(options.benchmark, "--benchmark", report / _DEFAULT_BENCHMARK),
    )
    content = render(folder.name, card, report, found)
    report.mkdir(exist_ok=True)
    write_atomically(report / _PAGE, content.encode())
    return report / _PAGE


def render(name: str, card: ModelCard, report: Path, found: ReportOptions) -> str:
    """Return the page as it stands in the folder `report`; what `found` does not name is not there."""
    model = str(found.model)
    parts = [
        headline(name, card),
        accuracy(card, model, _search(card, report, model) + _evaluations(report, model)),
        html.section("On video", *_stream(report, found)),
        html.section("Detections on validation images", _picture(report, "val_detections.png", "score 0.4 and more", model)),
        training(
            card, model,
            _picture(report, "loss.png", "training loss and validation AP", model),
            _picture(report, "pr_curve.png", "precision over recall on the validation images", model),
        ),
        html.section("Speed", _speed(found)),
        card_details(card, model),
        "<footer>" + html.paragraph("AP is COCO's AP at IoU 0.50 to 0.95; one AP point is 0.01. Made by retinanet-edge.") + "</footer>",
    ]  # fmt: skip
    return html.page(f"{name}: report", "\n".join(parts))


def _input(named: Path | None, flag: str, usual: Path) -> Path | None:
    if named is None:
        return usual if usual.is_file() else None
    if not named.is_file():
        raise UserInputError(f"{flag} must name a file, got {named}, which does not exist: write it with stream.py or benchmark.py")
    return named


def _link(file: Path, report: Path) -> str:
    """Return the URL of `file` for a page in `report`: relative, so that the model folder can be moved."""
    return quote(os.path.relpath(file.resolve(), report.resolve()))


def _evaluations(report: Path, model: str) -> str:
    """Return links to the pages of evaluate.py: figures by class and size, confusion matrix, best and worst images."""
    pages = sorted(report.glob("evaluation-*.html"))
    if not pages:
        return html.not_made("page of classes, confusion, best and worst images", f"python runtime/evaluate.py --report --model {model}")
    splits = {page: page.stem.removeprefix("evaluation-") for page in pages}
    return html.links([(_link(page, report), f"classes, confusion, best and worst images of the {splits[page]} split") for page in pages])


def _search(card: ModelCard, report: Path, model: str) -> str:
    """Return the curve behind the choice of layers that are kept out of INT8, where some are, or where channels are equalized."""
    if card.int8 is None or not (card.int8.kept or card.int8.equalized):
        return ""
    if (report / _SEARCH).is_file():
        return html.picture(_link(report / _SEARCH, report), "AP and time of a call by layers kept out of INT8")
    return html.not_made(_SEARCH, f"python export/build_engine.py --int8 --search --recalibrate --model {model}")


def _picture(report: Path, file: str, caption: str, model: str) -> str:
    if (report / file).is_file():
        return html.picture(_link(report / file, report), caption)
    return html.not_made(file, f"python training/train.py --data PATH --model {model}")


def _stream(report: Path, found: ReportOptions) -> list[str]:
    command = f"python runtime/stream.py --camera demo --model {found.model}"
    usual = found.model / REPORT_FOLDER
    if found.video is None:
        shown = html.not_made("video", f"{command} --video {usual / _DEFAULT_VIDEO}")
    else:
        shown = html.video(_link(found.video, report), found.video.name)
    if found.jsonl is None:
        return [shown, html.not_made("detections and latency", f"{command} --jsonl {usual / _DEFAULT_JSONL}")]
    return [html.pair(shown, _stream_summary(read_stream(found.jsonl)))]


def _stream_summary(stream: StreamSummary) -> str:
    rows = [("frames", f"{stream.frames} in {stream.seconds:.1f} s of video")]
    found = list(stream.detections.items())
    rows += [(f"{name} detections", str(count)) for name, count in found[:_SHOWN_CLASSES]] or [("detections", "none")]
    if rest := found[_SHOWN_CLASSES:]:
        rows.append((f"{len(rest)} other classes", f"{sum(count for _, count in rest)} detections"))
    if not stream.frames:
        return html.facts(rows)
    rows += [(f"latency p{percent}", f"{stream.percentile(percent):.1f} ms") for percent in (50, 95, 99)]
    caption = html.paragraph("Frames by latency, from arrival until detections were known; the last bar holds the slowest 1%.")
    return html.facts(rows) + html.histogram(stream.latency_ms, "ms") + caption


def _speed(found: ReportOptions) -> str:
    if found.benchmark is None:
        usual = found.model / REPORT_FOLDER / _DEFAULT_BENCHMARK
        return html.not_made("benchmark", f"python runtime/benchmark.py --model {found.model} --csv {usual}")
    with found.benchmark.open(encoding="utf-8", errors="replace", newline="") as stream:
        rows = list(csv.DictReader(stream))
    wanted = {*_SPEED_COLUMNS, "engine", "precision", "machine", "frames_per_second"}
    if not rows or any(row.get(column) is None for row in rows for column in wanted):
        raise UserInputError(f"--benchmark {found.benchmark} must be a CSV of benchmark.py, got other text: write it again with "
                             f"python runtime/benchmark.py --csv {found.benchmark}")  # fmt: skip
    first = rows[0]
    summary = f"{first['engine']}, {first['precision']}, on {first['machine']}: {first['frames_per_second']} frames per second"
    times = [[row[column] for column in _SPEED_COLUMNS] for row in rows]
    return html.paragraph(summary) + html.table(("stage", "p50 ms", "p95 ms", "p99 ms"), times)
