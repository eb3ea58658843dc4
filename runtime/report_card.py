"""The parts of a report that a card alone tells: headline, accuracy and verdict, training, details."""

from __future__ import annotations

from retinanet_edge.runtime import report_html as html
from retinanet_edge.runtime.model_card import Accuracy, AnchorSpec, ModelCard, Verdict

_SPLITS = ("val", "test", "train")


def headline(name: str, card: ModelCard) -> str:
    """Return the model's name, what it finds, and its most telling figures."""
    size = f"RetinaNet with {card.network.backbone}, input {card.input.height}x{card.input.width}, {len(card.classes)} classes"
    figures = []
    for precision in ("fp32", "fp16", "int8"):
        if measured := [a for a in card.accuracy if a.precision == precision and a.split == "val"]:
            best = measured[-1]
            figures += [(f"{best.ap50:.3f}", f"AP50, {precision.upper()}"), (f"{best.ap:.3f}", f"AP, {precision.upper()}")]
    if card.verdict is not None and card.verdict.ap_drop is not None:
        figures.append(_change(card.verdict.ap_drop))
    heading = html.heading(name, html.paragraph(size), html.chips(card.classes))
    return heading + (html.tiles(figures) if figures else "")


def accuracy(card: ModelCard, model: str, pages: str) -> str:
    """Return AP at each precision, the INT8 verdict with what it was calibrated on, and `pages`, HTML that leads to more."""
    parts = []
    if card.accuracy:
        rows = [_accuracy_row(a) for a in sorted(card.accuracy, key=lambda a: (_rank(a.split), a.precision, a.backend))]
        parts.append(html.table(("precision", "backend", "split", "images", "AP", "AP50", "AP75"), rows))
    else:
        parts.append(html.not_made("AP", f"python runtime/evaluate.py --model {model}"))
    return html.section("Accuracy", *parts, _verdict(card, model), *_calibration(card), pages)


def training(card: ModelCard, model: str, *pictures: str) -> str:
    """Return data set and training run; `pictures` are HTML."""
    rows = []
    if (data := card.dataset) is not None:
        rows += [
            ("data set", f"{data.format.upper()}, {data.path}"),
            ("images", f"{data.train_images} training, {data.val_images} validation, {data.test_images} test"),
            ("split", data.split),
        ]
    if (run := card.training) is not None:
        rows += [
            ("epochs", f"{run.epochs}, best {run.best_epoch}"), ("first weights", run.start), ("seed", str(run.seed)),
            ("PyTorch", run.torch), ("profile", run.profile),
            ("anchor IoU", f"object from {run.foreground_iou:g}, background below {run.background_iou:g}"),
        ]  # fmt: skip
    done = html.facts(rows) if rows else html.not_made("training", f"python training/train.py --data PATH --model {model}")
    return html.section("Training", done, html.pair(*pictures))


def card_details(card: ModelCard, model: str) -> str:
    """Return network, ONNX and engines."""
    network, anchors, nms = card.network, card.anchors, card.nms
    rows = [
        ("input", f"{card.input.height}x{card.input.width} {card.input.color_order}, letterbox {card.input.letterbox}"),
        ("network", f"{network.backbone}, pyramid of {network.fpn_channels} channels, heads of {network.head_depth} convolutions with "
                    f"{network.head_channels} channels, norm {network.norm}; P6 from {network.p6_from}"
                    + (", padded as TensorFlow does" if network.tensorflow_padding else "")),
        ("box variances", _list(network.box_variances)),
        ("anchors", f"{anchors.per_cell} a cell, strides {_list(anchors.strides)}, sizes {_list(anchors.sizes)}, "
                    f"scales {_list(anchors.scales)}, ratios {anchors.ratio_is} {_list(anchors.ratios)}"
                    + "".join(f", {rule}" for rule in _rules(anchors))),
        ("post-processing", f"score at least {nms.score_threshold:g}, IoU {nms.iou_threshold:g}, at most {nms.max_detections} boxes"
                            + (f" of the best {nms.top_k_per_level} anchors of each level" if nms.top_k_per_level else "")),
    ]  # fmt: skip
    if card.onnx is not None:
        rows.append(("ONNX", f"opset {card.onnx.opset}, differs from PyTorch by at most {card.onnx.max_difference:.2g}, "
                             f"SHA-256 {card.onnx.sha256[:12]}"))  # fmt: skip
    parts = [html.facts(rows)]
    if card.onnx is None:
        parts.append(html.not_made("model.onnx", f"python export/export_onnx.py --model {model}"))
    if card.engines:
        head = ("engine", "precision", "GPU", "compute capability", "TensorRT", "batch up to", "built")
        engines = [
            [e.file, e.precision, e.gpu, e.compute_capability, e.tensorrt, str(e.max_batch), e.built] for e in card.engines
        ]
        parts.append(html.table(head, engines))
    else:
        parts.append(html.not_made("TensorRT engine (on the device that will run it)", f"python export/build_engine.py --model {model}"))
    return html.section("Model", *parts)


def _accuracy_row(measured: Accuracy) -> list[str]:
    figures = [f"{value:.4f}" for value in (measured.ap, measured.ap50, measured.ap75)]
    return [measured.precision.upper(), measured.backend, measured.split, str(measured.images), *figures]


def _verdict(card: ModelCard, model: str) -> str:
    verdict = card.verdict
    if verdict is None:
        return html.not_made("INT8 verdict", f"python export/build_engine.py --int8 --model {model}")
    figures = _verdict_figures(verdict)
    if verdict.passed:
        return html.paragraph(f"Passed: {figures}.", "verdict pass")
    return html.paragraph(f"{'Failed, accepted by --force' if verdict.forced else 'Failed'}: {figures}.", "verdict fail")


def _verdict_figures(verdict: Verdict) -> str:
    if verdict.ap_drop is None:
        return "INT8 was not measured, no validation image had an object"
    points, change = _change(verdict.ap_drop)
    figures = f"{points} {change}, a loss of {_points(verdict.max_ap_drop)} is allowed"
    if (interval := verdict.interval) is not None:
        figures += (
            f"; the 95 % interval of the change is {-100 * interval.high:+.2f} to {-100 * interval.low:+.2f} points "
            f"({interval.resamples} resamples of {interval.images} images)"
        )
    if verdict.worst_classes:
        figures += "; lost most: " + ", ".join(f"{worst.name} {-100 * worst.ap_drop:+.2f}" for worst in verdict.worst_classes)
    return figures


def _calibration(card: ModelCard) -> list[str]:
    if card.int8 is None:
        return []
    calibration, kept = card.int8.calibration, card.int8.kept
    words = (
        f"Ranges learned in fine-tuning on {calibration.images} images."
        if calibration.method == "qat"
        else f"Calibrated on {calibration.images} images ({calibration.method}, seed {calibration.seed})."
    )
    words += " Channels equalized." if card.int8.equalized else ""
    return [html.paragraph(words + (f" Kept out of INT8: {', '.join(kept)}." if kept else ""))]


def _rules(anchors: AnchorSpec) -> list[str]:
    """Return in what the anchors' rule is not ours."""
    rules = {
        "scale slowest": anchors.outer == "scale", f"centred at {anchors.offset:g} of the cell": anchors.offset != 0.5,
        "sides cut to whole pixels": anchors.whole_sizes, "corners rounded": anchors.whole_corners,
        "steps of the grid": anchors.strides_of_grid, "clipped to the input": anchors.clip,
    }  # fmt: skip
    return [rule for rule, holds in rules.items() if holds]


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _change(ap_drop: float) -> tuple[str, str]:
    """Return how far INT8 is from FP32, as (points, meaning)."""
    return _points(abs(ap_drop)), f"AP points {'gained' if ap_drop < 0 else 'lost'} by INT8"


def _rank(split: str) -> int:
    return _SPLITS.index(split) if split in _SPLITS else len(_SPLITS)


def _list(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
