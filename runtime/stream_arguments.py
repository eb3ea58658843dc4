"""The flags of stream.py, which are the keys of its configuration file as well (stream_config.py)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from retinanet_edge.runtime.arguments import names, number, whole_number, width_and_height
from retinanet_edge.runtime.detection_filter import class_thresholds
from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.model_folder import DEFAULT_MODEL
from retinanet_edge.runtime.redaction import redacted


class StreamParser(argparse.ArgumentParser):
    """Raises UserInputError, without passwords, where argparse would end the process: a reload must not, and values may be addresses."""

    def error(self, message: str) -> NoReturn:
        """Refuse what was given."""
        raise UserInputError(f"{redacted(message)}: run stream.py -h for all flags")


def stream_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser. Long names are not to be shortened: a configuration file has to know them."""
    parser = StreamParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of flags without their dashes; what is typed wins; SIGHUP reads it again"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration file that means the same as these flags, and end"
    )
    _add_sources(parser.add_argument_group("where frames come from"))
    _add_faults(parser.add_argument_group("when a camera counts as gone"))
    _add_model(parser.add_argument_group("what is found in them"))
    _add_outputs(parser.add_argument_group("where results go", "Each has its own queue: one that is slow or broken holds up nothing else."))
    _add_page(parser.add_argument_group("web page"))
    _add_running(parser.add_argument_group("running"))
    return parser


def _add_sources(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--camera", action="append", metavar="[NAME=]SOURCE",
        help="device index or file, csi://0, rtsp:// or http:// address, video or image file, folder or pattern of images, GStreamer "
        "pipeline, demo (generated scenes); may be given several times; ${NAME} is taken from the environment; default 0",
    )  # fmt: skip
    group.add_argument("--size", type=width_and_height, metavar="WxH", help="ask the camera for frames of this size; default its own")
    group.add_argument(
        "--fps", type=number(maximum=1000, positive=True), metavar="RATE",
        help="ask the camera for this many frames a second; of images and the demo, which have none of their own, default 25",
    )  # fmt: skip
    group.add_argument("--pixel-format", metavar="NAME", help="ask the camera for this format, as mjpeg, yuyv, nv12; default its own")
    group.add_argument(
        "--decode", choices=("auto", "software", "hardware"), default="auto",
        help="who decodes video; default %(default)s: hardware where that is known to work",
    )  # fmt: skip
    group.add_argument("--transport", choices=("tcp", "udp"), default="tcp", help="of RTSP; default %(default)s")
    group.add_argument("--loop", action="store_true", help="begin recordings again at their end")
    group.add_argument("--frames", type=whole_number(1), metavar="N", help="end after N frames; default all, of the demo alone 300")


def _add_faults(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--stale-after", type=number(positive=True), default=10.0, metavar="SECONDS",
        help="without a frame for so long a camera is connected anew; default %(default)s",
    )  # fmt: skip
    group.add_argument(
        "--identical-frames", type=whole_number(0), default=750, metavar="N",
        help="so many equal images in a row count as no frame; 0: any number is fine; default %(default)s",
    )  # fmt: skip
    group.add_argument(
        "--longest-wait", type=number(positive=True), default=30.0, metavar="SECONDS",
        help="waits between two attempts double up to this; default %(default)s",
    )  # fmt: skip
    group.add_argument(
        "--restarts", type=whole_number(0), default=50, metavar="N",
        help="attempts in a row that may fail before a camera is given up, unless another one runs; once all are, the exit code is 1; "
        "default %(default)s",
    )  # fmt: skip
    group.add_argument(
        "--wait-for-cameras", action="store_true",
        help="also wait for cameras that are not there at the start, as after a power cut; default: end with code 2 where none opens",
    )  # fmt: skip


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="model folder; default %(default)s")
    group.add_argument(
        "--engine", default="auto",
        help="auto (the default: newest TensorRT engine that fits this machine, else INT8, else FP32 on the CPU), fp32, int8, "
        "or the file name of an engine in the model folder",
    )  # fmt: skip
    group.add_argument("--threshold", type=number(0, 1), default=0.5, help="least score kept, 0 to 1; default %(default)s")
    group.add_argument("--class-threshold", type=class_thresholds, default={}, metavar="A=0.6,B=0.4", help="least score of single classes")
    group.add_argument("--classes", type=names, metavar="A,B", help="only these classes of the model; default all")
    group.add_argument(
        "--min-size", type=width_and_height, metavar="WxH", help="least width and height of a box in pixels of the frame; default any"
    )
    group.add_argument("--track", action="store_true", help="give objects ids that stay; lines and zones turn it on")
    group.add_argument(
        "--line", action="append", metavar="NAME=x1,y1,x2,y2",
        help="count objects that cross; in pixels, or, where no value is above 1, in parts of the frame; NAME@CAMERA= for one "
        "camera; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--zone", action="append", metavar="NAME=x1,y1,...", help="count objects inside a polygon, given like a line; repeatable"
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--video", type=Path, metavar="FILE.mp4", help="write the drawn frames as MP4; default none")
    group.add_argument(
        "--segment-seconds", type=number(1, positive=True), metavar="SECONDS",
        help="a new video file after so long, with the time in its name; default one file",
    )  # fmt: skip
    group.add_argument("--jsonl", type=Path, metavar="FILE", help="write one JSON object a frame and line; default none")
    group.add_argument("--csv", type=Path, metavar="FILE", help="write one row a detection; default none")
    group.add_argument(
        "--rotate-mb", type=number(positive=True), metavar="MB",
        help="begin --jsonl and --csv anew at this size, with the time in old files' names; default never",
    )  # fmt: skip
    group.add_argument("--snapshots", type=Path, metavar="DIR", help="save pictures of new objects and events; default none")
    group.add_argument(
        "--keep-gb", type=number(positive=True), metavar="GB",
        help="of each of these outputs, of video of each camera, remove the oldest files beyond so much; default keep all, of snapshots "
        "1000",
    )  # fmt: skip
    group.add_argument("--mqtt", metavar="URL", help="publish to mqtt://USER:${NAME}@HOST:1883/TOPIC, or mqtts://; default none")
    group.add_argument("--mqtt-qos", type=int, choices=(0, 1, 2), default=0, help="quality of service; default %(default)s")
    group.add_argument("--mqtt-ca", type=Path, metavar="FILE", help="certificate authority of an mqtts broker; default the system's")
    group.add_argument(
        "--webhook", metavar="URL", help="POST JSON of events at lines and zones, without those of frames with detections; default none"
    )
    group.add_argument("--webhook-token-file", type=Path, metavar="FILE", help="bearer token that the webhook wants; default none")
    group.add_argument("--no-window", action="store_true", help="show no window; default: show one where there is a display")


def _add_page(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--web", metavar="[HOST:]PORT", help="serve the live page there; HOST beyond 127.0.0.1 needs a token; default none")
    group.add_argument("--web-token-file", type=Path, metavar="FILE", help="file with the token that the page asks for; default none")


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--log", choices=("text", "json"), default="text", help="form of the log on stderr; default %(default)s")
